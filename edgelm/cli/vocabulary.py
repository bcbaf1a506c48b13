"""How the commands tell what a trimmed vocabulary covers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgelm.cli.show import fact, size

if TYPE_CHECKING:
    from edgelm.bundle.origins import Vocabulary


def vocabulary_lines(trimmed: Vocabulary) -> Iterator[str]:
    """A manifest's ``vocabulary``, line by line."""
    kept, of = trimmed.tokens, trimmed.of
    yield fact(
        "vocabulary",
        f"{kept:,} of {of:,} tokens ({kept / of:.1%}), {size(trimmed.saved_bytes)} less in embedding and head",
    )
    yield fact("  kept for", ", ".join([*(text.name for text in trimmed.texts or ()), *(trimmed.languages or ())]))
    coverage = trimmed.coverage
    yield fact("  unchanged", f"{coverage.unchanged:.2%} of the {coverage.tokens:,} tokens of its text")
    if words := coverage.tokens_per_word:
        yield fact("  a word", f"{words.before:.2f} tokens before, {words.after:.2f} now")
    if coverage.expected_unseen is not None:
        yield fact("  new text", f"about {coverage.expected_unseen:.2%} of its tokens will be missed (Good-Turing)")
