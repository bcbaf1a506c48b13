"""The whole conversion on one page: checkpoint → decoder + recipe → graph → bundle."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgelm.bundle import Bundle, BundleWriter, check_output, sha256, writing
from edgelm.errors import ExportError, OptionError, UnsupportedModelError
from edgelm.exporter import families, genai, native
from edgelm.exporter.checkpoint import Checkpoint
from edgelm.exporter.decoder import Decoder
from edgelm.exporter.hub import Source, resolve
from edgelm.exporter.progress import Progress
from edgelm.exporter.result import GraphResult
from edgelm.exporter.tokenizer import TextFiles, licence, write_text_files
from edgelm.target import RecipeSpec, Target, load_target
from edgelm.version import __version__

Exporter = Literal["auto", "native", "optimum"]

_RUNTIME_BYTES = 60 << 20  # onnxruntime, numpy, tokenizers and Python, as measured by `edgelm bench` on a small model


def export(
    model: str | os.PathLike[str] | None = None,
    target: str | os.PathLike[str] | Target = "rpi5",
    quant: str | None = None,
    *,
    context: int | None = None,
    output: str | os.PathLike[str] | None = None,
    exporter: Exporter = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Convert a checkpoint into a bundle for a target.

    Args:
        model: a folder, a hub id, or None for the embedded default.
        target: a name, a TOML file, or a `Target`.
        quant: ``int4``, ``int8``, ``fp16``, ``fp32`` or another recipe of the target; None is its default.
        context: longest prompt plus answer in tokens; None is the target's choice, at most what the model was made for.
        output: folder of the bundle; None is ``./bundles/<model>-<target>-<quant>``.
        exporter: ``native`` for families edgelm knows, ``optimum`` for the others, ``auto`` chooses.
        overwrite: whether a bundle already there is replaced.
        progress: hears how far it is.

    Raises:
        EdgeLMError: of the kind that fits, with what is wrong and what to do; nothing half-written is left.
    """
    progress = progress or Progress()
    board = target if isinstance(target, Target) else load_target(target)
    quant = quant or board.default
    recipe = board.recipe(quant)
    if context is not None and context < 1:
        raise OptionError(f"context must be at least 1 token, not {context}")
    source = resolve(None if model is None else os.fspath(model))
    folder = Path(output) if output is not None else Path("bundles") / f"{_slug(source.id)}-{board.name}-{quant}"
    check_output(folder, overwrite=overwrite)
    checkpoint = Checkpoint(source.path)
    road = _choose_road(checkpoint, exporter, board, recipe, progress)
    length = _context(context, board, road.context_limit)
    with writing(folder, overwrite=overwrite) as writer:
        text = write_text_files(source.path, checkpoint.config, writer)
        result = road.write(length, text, writer)
        hashes = _hashes(checkpoint, progress)
        facts = _manifest(source, checkpoint, hashes, board, quant, length, text, result, road.name)
        return writer.commit(facts, overwrite=overwrite)


@dataclass(frozen=True)
class _Road:
    """How a checkpoint becomes a graph.

    Attributes:
        name: ``native`` or ``optimum``.
        context_limit: the longest context in tokens.
        write: (context, text files, writer) → what was written.
    """

    name: str
    context_limit: int
    write: Callable[[int, TextFiles, BundleWriter], GraphResult]


def _choose_road(
    checkpoint: Checkpoint, exporter: Exporter, target: Target, recipe: RecipeSpec, progress: Progress
) -> _Road:
    """The native road where a family reads this `model_type`, else Optimum's."""
    if exporter not in ("auto", "native", "optimum"):
        raise OptionError(f"exporter must be auto, native or optimum, not {exporter!r}")
    kind = checkpoint.config.model_type
    family = None if exporter == "optimum" else families.family_of(kind)
    if family is not None:
        return _native_road(checkpoint, family.describe(checkpoint.config), target, recipe, progress)
    if exporter == "native":
        raise UnsupportedModelError(
            f"{checkpoint.path}: no native family for model type {kind!r} (native: {', '.join(families.model_types())})",
            hint="try --exporter optimum",
        )
    return _optimum_road(checkpoint, target, recipe, progress)


def _native_road(
    checkpoint: Checkpoint, decoder: Decoder, target: Target, recipe: RecipeSpec, progress: Progress
) -> _Road:
    def write(context: int, text: TextFiles, writer: BundleWriter) -> GraphResult:
        result = native.write_graph(checkpoint, decoder, target, recipe, context, writer, progress)
        writer.write_json(genai.CONFIG, genai.config(result.graph, context, text))
        return result

    return _Road("native", decoder.context_limit, write)


def _optimum_road(checkpoint: Checkpoint, target: Target, recipe: RecipeSpec, progress: Progress) -> _Road:
    from edgelm.exporter import optimum  # here, so that the native road stands without it

    optimum.require()

    def write(context: int, text: TextFiles, writer: BundleWriter) -> GraphResult:
        progress.say(f"no native family for {checkpoint.config.model_type}: exporting through Optimum")
        return optimum.write_graph(checkpoint, target, recipe, writer, progress)

    return _Road("optimum", optimum.context_limit(checkpoint.config), write)


def _context(wanted: int | None, target: Target, limit: int) -> int:
    if wanted is not None and wanted > limit:
        raise ExportError(
            f"context {wanted:,} is more than the model was made for ({limit:,} tokens)",
            hint=f"use --context {limit} or less",
        )
    return wanted or min(target.runtime.context, limit)


def _hashes(checkpoint: Checkpoint, progress: Progress) -> dict[str, str]:
    """SHA-256 of config.json and the weights, so that a bundle can be traced to what it was made from."""
    files = [checkpoint.path / "config.json", *checkpoint.files]
    progress.start("hashing the source", sum(file.stat().st_size for file in files))
    hashes = {file.name: sha256(file, progress.advance) for file in files}
    progress.finish()
    return hashes


def _manifest(
    source: Source,
    checkpoint: Checkpoint,
    hashes: dict[str, str],
    target: Target,
    quant: str,
    context: int,
    text: TextFiles,
    result: GraphResult,
    exporter: str,
) -> dict[str, Any]:
    kv = result.kv_bytes_per_token * context
    logits = 4 * int(result.graph["vocab"])
    return {
        "minimum_runtime": {"edgelm": __version__, "onnxruntime": "1.32"},
        "model": {
            "id": source.id,
            "revision": source.revision,
            "type": checkpoint.config.model_type,
            "exporter": exporter,
            "parameters": result.parameters,
            "licence": licence(source.path),
            "sources": hashes,
        },
        "target": target.name,
        "threads": {"decode": target.cpu.threads, "prefill": target.cpu.prefill_threads},
        "provider": target.runtime.provider,
        "quant": quant,
        "recipe": result.recipe,
        "context": context,
        "special_tokens": text.special_tokens,
        "tokenizer": text.tokenizer,
        "graph": result.graph,
        "memory": {
            "weights_bytes": result.weight_bytes_per_token,
            "kv_bytes_per_token": result.kv_bytes_per_token,
            "kv_bytes": kv,
            "logits_bytes": logits,
            "runtime_bytes": _RUNTIME_BYTES,
            "total_bytes": result.weight_bytes_per_token + kv + logits + _RUNTIME_BYTES,
        },
    }


def _slug(name: str) -> str:
    """A model's id as part of a folder name: its last part, in letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name.rsplit("/", 1)[-1]).strip("-.") or "model"
