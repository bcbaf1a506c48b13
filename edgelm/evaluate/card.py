"""The quality card: what quantisation cost a model, measured on a text, as JSON that stays with the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgelm.bundle.json_table import plain
from edgelm.bundle.manifest import Manifest
from edgelm.bundle.reader import Bundle
from edgelm.errors import EdgeLMError
from edgelm.evaluate.divergence import Divergence, Positions, positions_of, shared_context, summarised
from edgelm.evaluate.passages import Passages, starting_token
from edgelm.evaluate.perplexity import ALL, OnChunk, Share, chunked
from edgelm.evaluate.vocab_subset import KeptScores, ids_in, outside
from edgelm.runtime.engine import Engine
from edgelm.runtime.ort.session import version
from edgelm.runtime.text.chat import ChatTemplate
from edgelm.runtime.text.prompt import text_tools
from edgelm.runtime.text.tokenizer import Tokenizer
from edgelm.version import __version__

FORMAT = 1  # of the card
_DIGITS = 6  # significant; what lies beyond is rounding, and differs between processors


def compare(
    base: Bundle,
    bundle: Bundle,
    passages: Passages,
    *,
    chunk: int | None = None,
    chunks: int | None = None,
    threads: int | None = None,
    on_chunk: OnChunk = lambda done, total: None,
) -> Divergence:
    """Run two bundles side by side over a text.

    Where the vocabulary of `bundle` is trimmed and that of `base` is not, they are compared over the tokens of both.

    Raises:
        EdgeLMError: the vocabularies differ, the text is too short, or a bundle cannot be run.
    """
    pieces = compare_chunks(base, bundle, passages, chunk=chunk, chunks=chunks, threads=threads, on_chunk=on_chunk)
    return gathered([pieces])


@dataclass(frozen=True)
class Pieces:
    """What two bundles make of some chunks of a text.

    Attributes:
        positions: in the text's order.
        chunks, size: of the whole text, how many there are to compare, of how many ids.
        outside: see `KeptScores.sums`; None where both have the same tokens.
    """

    positions: tuple[Positions, ...]
    chunks: int
    size: int
    outside: tuple[tuple[float, int], ...] | None = None


def compare_chunks(
    base: Bundle,
    bundle: Bundle,
    passages: Passages,
    *,
    chunk: int | None = None,
    chunks: int | None = None,
    threads: int | None = None,
    share: Share = ALL,
    on_chunk: OnChunk = lambda done, total: None,
) -> Pieces:
    """A share of what `compare` does; raises as it does."""
    tokenizer, template = text_tools(bundle)
    ids = passages.encode(tokenizer, template)
    kept = _kept(base, bundle, passages, tokenizer, template, ids)
    # Without the cache: what is compared is often there for this once.
    options: dict[str, Any] = {"threads": threads, "weight_cache": False}
    with closing(Engine.load(base, **options)) as first, closing(Engine.load(bundle, **options)) as second:
        bos = starting_token(tokenizer)
        original = first if kept is None else KeptScores(first, kept)
        tokens, size, count = chunked(shared_context(original, second), ids, chunk, chunks)
        which = share.of(count)
        found = positions_of(original, second, tokens, size, which, bos=bos, on_chunk=on_chunk)
        sums = tuple(original.sums) if isinstance(original, KeptScores) else None
        return Pieces(tuple(found), count, size, sums)


def gathered(pieces: Sequence[Pieces]) -> Divergence:
    """The outcome of all chunks, from shares in the text's order."""
    found = summarised([one for piece in pieces for one in piece.positions], pieces[0].chunks, pieces[0].size)
    sums = [one for piece in pieces if piece.outside is not None for one in piece.outside]
    return replace(found, outside=outside(sums)) if pieces[0].outside is not None else found


def _kept(
    base: Bundle,
    bundle: Bundle,
    passages: Passages,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    ids: Sequence[int],
) -> np.ndarray | None:
    """The ids in `base` of the tokens of `bundle`, whose vocabulary is trimmed; None where both have the same.

    Raises:
        EdgeLMError: the text, of these `ids`, is not encoded alike.
    """
    other, _ = text_tools(base)
    expected = passages.encode(other, template)  # the base of an export's card has none of its own
    trimmed, base_trimmed = (x.manifest.vocabulary is not None for x in (bundle, base))
    if not trimmed or other.to_json() == tokenizer.to_json():
        if expected == ids:
            return None
        raise EdgeLMError(
            f"{base.path} and {bundle.path} have different tokenizers: they cannot be compared token by token",
            hint=f"the first has a trimmed vocabulary: measure it --against {bundle.path}"
            if base_trimmed and not trimmed
            else "compare a bundle with the model it was made from",
        )
    kept = ids_in(tokenizer, other, bundle.manifest.graph.vocab)
    if max(ids, default=0) >= len(kept) or kept[ids].tolist() != expected:
        raise EdgeLMError(
            f"{passages.name} needs tokens that {bundle.path} was trimmed of: it cannot be compared token by token",
            hint="take a text of the domain it was trimmed to",
        )
    return kept


def quality_card(
    manifest: Manifest,
    base: Mapping[str, Any],
    passages: Passages,
    found: Divergence,
    errors: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The card of a bundle.

    Args:
        manifest: of the bundle.
        base: what it was compared with: ``{"id", "quant"}``.
        passages: the text.
        found: on it.
        errors: of every rounded matrix by name, see `GraphResult`.
    """
    card: dict[str, Any] = {
        "format": FORMAT,
        "base": dict(base),
        "quant": manifest.quant,
        "recipe": plain(replace(manifest.recipe, matrices=None)),
        **({"calibration": plain(manifest.calibration)} if manifest.calibration else {}),
        "text": passages.facts(),
        **found.to_dict(),
        **({"matrices": {name: dict(facts) for name, facts in errors.items()}} if errors else {}),
        "measured_with": {"edgelm": __version__, "onnxruntime": version()},
    }
    rounded: dict[str, Any] = _rounded(card)
    return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return value
