"""The field's words: what a retired one is called now. See CONTRIBUTING.md, Style."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    [
        *(path for path in (ROOT / "edgelm").rglob("*") if path.suffix in {".py", ".toml"}),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "targets").glob("*.toml"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ]
)

# Retired (a regular expression; a blank stands for any white space, a comment's next line included) → the word to use.
RETIRED = {
    r"steps? of (the |its |their )?keys": "scales of keys and values",
    r"\ban? (step|scale) an? (output )?(channel|token|matrix|row)": "scales per channel, per token",
    r"\bnodes? an? (matrix|layer)": "nodes per matrix",
    r"\bbytes? an? weight more": "one more byte per weight",
    r"\blets? go\b": "released, or evicted",
    r"\bletting go\b": "releasing, or evicting",
    r"\bst(and|ands|ood) in memory": "resident",
    r"\bin memory stands": "resident",
    r"\bat work\b": "active",
    r"\bprompts by int8": "int8 prefill",
    r"\b(what|that|which) reads? (a |the )?(MODEL's )?prompts?\b": "the prefill graph",
    r"\bread prompts as they decode": "prefill as they decode",
    r"as (this|the) processor('s kernels)? wants? (them|it)": "prepacked",
    r"preparing for this processor": "prepacking (first load only)",
    r"packed for this processor": "prepacked",
    r"\broads?\b": "export path",
    r"\bhears of\b": "is called with",
    r"\beven(ed)? activations": "SmoothQuant",
    r"same (token likeliest|likeliest token)": "top-1 agreement",
    r"\bsame top (token|1)\b": "top-1 agreement",
    r"\bguess(es|ed)? (are |was |were )?(right|wrong)": "draft tokens accepted, rejected",
    r"(?<!programming-)\bguides?\b": "grammar, constrained decoding",
    r"\bforms? of (the|a) text": "grammar, constrained decoding",
    r"\bin_turn\b": "disable thread spinning",
    r"\b(beside|kept|picked|growing|healing|ceiling|sublayers|perrow|promptcache)\.py\b": "the module's name today",
    r"(?-i:\b(KVState|Wishes|Road|Shelf|Pace|Menu)\b)": "the class's name today",
}
PATTERNS = {re.compile(f"(?i:{words})".replace(" ", r"[\s#]+")): use for words, use in RETIRED.items()}


def retired(text: str) -> Iterator[tuple[int, str, str]]:
    """(Line, what is there, the word to use) of every retired word in a text."""
    for pattern, use in PATTERNS.items():
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), use


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_retired_word_is_back(path: Path) -> None:
    found = [f"{path.relative_to(ROOT)}:{line}: {what!r}: say {use!r}" for line, what, use in retired(path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ("pages that were let go\n    of", "released, or evicted"),
        ("# a step\n# a channel", "scales per channel, per token"),
        ("The Optimum road", "export path"),
        ("on_bytes: hears of it", "is called with"),
        ("the set at work", "active"),
        ("3 of 4 guesses right", "draft tokens accepted, rejected"),
    ],
)
def test_a_retired_word_is_found(text: str, use: str) -> None:
    assert use in [word for _, _, word in retired(text)]


@pytest.mark.parametrize(
    "text",
    ["a broad road-map is abroad"[:7], "step 1 of 3", "https://protobuf.dev/programming-guides/encoding", "at works"],
)
def test_what_is_not_retired_is_left_alone(text: str) -> None:
    assert not list(retired(text))
