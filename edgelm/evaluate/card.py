"""The quality card: what quantisation cost a model, measured on a text, as JSON that stays with the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from edgelm.bundle import Bundle
from edgelm.errors import EdgeLMError
from edgelm.evaluate.divergence import Divergence, divergence
from edgelm.evaluate.passages import Passages, starting_token
from edgelm.evaluate.perplexity import OnChunk
from edgelm.runtime.engine import Engine
from edgelm.runtime.ort import version
from edgelm.runtime.prompt import text_tools
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

    Raises:
        EdgeLMError: the vocabularies differ, the text is too short, or a bundle cannot be run.
    """
    tokenizer, template = text_tools(bundle)
    ids = passages.encode(tokenizer, template)
    other, _ = text_tools(base)
    if passages.encode(other, template) != ids:
        raise EdgeLMError(
            f"{base.path} and {bundle.path} have different tokenizers: they cannot be compared token by token",
            hint="compare a bundle with the model it was made from",
        )
    with closing(Engine.load(base, threads=threads)) as first, closing(Engine.load(bundle, threads=threads)) as second:
        bos = starting_token(tokenizer)
        return divergence(first, second, ids, bos=bos, chunk=chunk, chunks=chunks, on_chunk=on_chunk)


def quality_card(
    manifest: Mapping[str, Any],
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
        "quant": manifest["quant"],
        "recipe": {role: spec for role, spec in manifest["recipe"].items() if role != "matrices"},
        **({"calibration": manifest["calibration"]} if manifest.get("calibration") else {}),
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
