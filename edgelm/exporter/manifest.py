"""manifest.json: where a bundle comes from, what it is, and what it needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgelm.bundle.manifest import Manifest, Threads
from edgelm.bundle.origins import Model, Quantized
from edgelm.bundle.reader import sha256
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.hub_model import Source
from edgelm.exporter.progress import Progress
from edgelm.exporter.result import GraphResult
from edgelm.exporter.sizing.footprint import Footprint
from edgelm.exporter.tokenizer.text_files import TextFiles, licence
from edgelm.target.target import Target
from edgelm.version import __version__


@dataclass(frozen=True)
class Origin:
    """What a bundle is made from.

    Attributes:
        source: where the checkpoint came from.
        checkpoint: with the adapter that is merged into it.
        hashes: SHA-256 of its files.
        exporter: the export path, ``native`` or ``optimum``.
    """

    source: Source
    checkpoint: Checkpoint
    hashes: dict[str, str]
    exporter: str


def source_hashes(checkpoint: Checkpoint, progress: Progress) -> dict[str, str]:
    """SHA-256 of config.json and the weights, or of a GGUF file's parts: what a bundle was made from can be told."""
    files = [*([] if checkpoint.gguf else [checkpoint.path / "config.json"]), *checkpoint.files]
    progress.start("hashing the source", sum(file.stat().st_size for file in files))
    hashes = {file.name: sha256(file, progress.advance) for file in files}
    progress.finish()
    return hashes


def _quantized(checkpoint: Checkpoint, result: GraphResult) -> Quantized | None:
    found = checkpoint.quantized
    return found if found is None or not result.kept else replace(found, kept=result.kept)


def manifest(
    origin: Origin,
    target: Target,
    quant: str,
    context: int,
    text: TextFiles,
    result: GraphResult,
    footprint: Footprint,
) -> Manifest:
    """The manifest but for the files, which the bundle's writer adds."""
    source, checkpoint, adapter = origin.source, origin.checkpoint, origin.checkpoint.adapter
    return Manifest(
        minimum_runtime={"edgelm": __version__, "onnxruntime": "1.32"},
        model=Model(
            id=source.id,
            revision=source.revision,
            type=checkpoint.config.model_type,
            exporter=origin.exporter,
            parameters=result.parameters,
            quantized=_quantized(checkpoint, result),
            adapter=None if adapter is None else adapter.facts(),
            licence=licence(checkpoint),
            sources=origin.hashes,
        ),
        target=target.name,
        threads=Threads(target.cpu.decode_threads(result.weight_bytes_per_token), target.cpu.prefill_threads),
        provider=target.runtime.provider,
        quant=quant,
        recipe=result.recipe,
        calibration=result.calibration,
        kv_calibration=result.kv_calibration,
        context=context,
        special_tokens=text.special_tokens,
        tokenizer=text.tokenizer,
        graph=result.graph,
        memory=footprint.corrected(result).device(context),
    )
