"""How the commands tell what a trimmed vocabulary covers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgelm.cli.show import fact, size


def vocabulary_lines(trimmed: Mapping[str, Any]) -> Iterator[str]:
    """A manifest's ``vocabulary``, line by line."""
    kept, of = trimmed["tokens"], trimmed["of"]
    yield fact(
        "vocabulary",
        f"{kept:,} of {of:,} tokens ({kept / of:.1%}), {size(trimmed['saved_bytes'])} less in embedding and head",
    )
    yield fact("  kept for", ", ".join([*(t["name"] for t in trimmed.get("texts", [])), *trimmed.get("languages", [])]))
    coverage = trimmed["coverage"]
    yield fact("  unchanged", f"{coverage['unchanged']:.2%} of the {coverage['tokens']:,} tokens of its text")
    if words := coverage["tokens_per_word"]:
        yield fact("  a word", f"{words['before']:.2f} tokens before, {words['after']:.2f} now")
    if "expected_unseen" in coverage:
        yield fact("  new text", f"about {coverage['expected_unseen']:.2%} of its tokens will be missed (Good-Turing)")
