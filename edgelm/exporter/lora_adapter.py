"""Adapters that are switched at run time: their places in a bundle, and the file an adapter becomes.

A bundle exported with places has, beside every matrix of its layers, the product of two low-rank factors that a request
may feed (`graph.GraphBuilder`). Which tensors of the checkpoint are stacked in each matrix stands in its lora.json, so
that an adapter needs the bundle and not the checkpoint:

    y = x Wᵀ + x A B      A [inputs, rank] = the parts' Aᵀ side by side, B [rank, outputs] = their s Bᵀ, block by block

The file is safetensors, in the graph's names and type of activations, and serves every bundle of the same weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from edgelm.bundle.json_table import plain
from edgelm.bundle.manifest import Manifest
from edgelm.bundle.reader import Bundle, lora_inputs
from edgelm.bundle.writer import json_text
from edgelm.errors import CheckpointError, ExportError, UnsupportedModelError, expect_flags, expect_type, names_keywords
from edgelm.exporter.checkpoint.hub import resolve, slug
from edgelm.exporter.checkpoint.lora import Adapter, LowRank
from edgelm.exporter.checkpoint.names import bare, by_bare_name
from edgelm.exporter.model.decoder import Decoder, Linear, Source
from edgelm.exporter.progress import Progress
from edgelm.files import path_argument, replacing, umask
from edgelm.runtime.lora_adapter import FORMAT, METADATA, digest_of


def place(linear: Linear) -> dict[str, Any]:
    """A matrix as lora.json describes it."""
    sources = [asdict(source) for source in linear.sources]
    return {
        "name": linear.name,
        "inputs": linear.inputs,
        "outputs": linear.outputs,
        "scale": linear.scale,
        "sources": sources,
    }


def expect_places(route: str) -> None:
    """UnsupportedModelError where adapters cannot have places: on the Optimum export path."""
    if route != "native":
        raise UnsupportedModelError(
            "this model goes through Optimum, where an adapter has no place at run time", hint="leave out --lora-ready"
        )


def places_file(manifest: Manifest, places: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of lora.json. ``base`` is the same for all bundles that the same adapter file goes with."""
    model, activations = manifest.model, manifest.graph.activations
    merged = None if model.adapter is None else model.adapter.sources
    known = [model.sources, merged, activations, list(places)]
    base = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    return {"base": base, "activations": activations, "places": list(places)}


def places_size(decoder: Decoder, activations: str) -> int:
    """Bytes of lora.json for a model."""
    places = [place(linear) for linear in decoder.linears]
    return len(json_text({"base": "0" * 64, "activations": activations, "places": places}).encode())


def open_adapter(adapter: str, progress: Progress) -> Adapter:
    """A PEFT adapter in a folder or on the hub; see `Adapter.open`."""
    source = resolve(adapter, progress=progress, what="adapter")
    return Adapter.open(source.path, source.id, source.revision)


@names_keywords
def export_adapter(
    adapter: str | os.PathLike[str],
    base: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Convert a LoRA adapter into a file that is used beside a bundle, and can be switched with every request.

    Args:
        adapter: in PEFT's layout: a folder, or a hub id.
        base: the folder of a bundle exported with ``lora_ready``.
        output: the file; None is ``<base>-<adapter>.safetensors``.
        overwrite: whether a file already there is replaced.
        progress: is called with a download's progress.

    Returns:
        the file.

    Raises:
        EdgeLMError: of the kind that fits, with what is wrong and what to do; nothing half-written is left.
    """
    given = os.fspath(path_argument("adapter", adapter))
    wanted = None if output is None else path_argument("output", output)
    expect_flags(overwrite=overwrite)
    expect_type("progress", progress, (Progress, type(None)), "a Progress")
    bundle = Bundle.open(path_argument("base", base))
    table = bundle.lora
    if table is None:
        raise UnsupportedModelError(
            f"{bundle.path} has no places for an adapter at run time",
            hint="export it with --lora-ready, or merge the adapter: edgelm export MODEL --adapter DIR",
        )
    source = open_adapter(given, progress or Progress())
    path = _beside(bundle, source) if wanted is None else wanted
    _expect_free(path, overwrite=overwrite)
    tensors = _tensors(source, table)
    if not tensors:
        raise CheckpointError(f"adapter {source.path} changes nothing", hint="is it the right folder?")
    facts = {"format": FORMAT, "base": table["base"], "digest": digest_of(tensors), **plain(source.facts())}
    _write(path, save(tensors, {METADATA: json.dumps(facts, sort_keys=True)}))
    return path


def _tensors(adapter: Adapter, table: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The graph's inputs that the adapter fills."""
    places = {entry["name"]: (entry, [Source(**source) for source in entry["sources"]]) for entry in table["places"]}
    shapes: dict[str, tuple[int, int]] = {}
    for entry, sources in places.values():
        for source in sources:
            rows, columns = source.stored_rows, int(entry["inputs"])
            shapes[source.tensor] = (columns, rows) if source.transposed else (rows, columns)
    names = by_bare_name(shapes)
    changes = adapter.changes(shapes, lambda name: name if name in shapes else names.get(bare(name)))
    tensors = {}
    for name, (entry, sources) in places.items():
        factors = _combined(sources, entry["inputs"], entry["scale"], changes)
        if factors is None:
            continue
        for key, values in zip(lora_inputs(name), factors, strict=True):
            with np.errstate(over="ignore"):
                tensors[key] = np.ascontiguousarray(values.astype(table["activations"]))
            if not np.isfinite(tensors[key]).all():
                raise CheckpointError(f"adapter {adapter.path} has values too large for {table['activations']}")
    return tensors


def _combined(
    sources: Sequence[Source], inputs: int, scale: float, changes: Mapping[str, LowRank]
) -> tuple[np.ndarray, np.ndarray] | None:
    """A [inputs, rank] and B [rank, outputs] of a stacked matrix; None where none of its parts is changed."""
    names = [name for name in dict.fromkeys(source.tensor for source in sources) if name in changes]
    if not names:
        return None
    factors, starts, rank = {}, {}, 0
    transposed = {source.tensor: source.transposed for source in sources}
    for name in names:
        left, right = changes[name].factors()
        factors[name] = (right.T, left.T) if transposed[name] else (left, right)  # as of W [outputs, inputs]
        starts[name], rank = rank, rank + factors[name][0].shape[1]
    a = np.concatenate([factors[name][1].T for name in names], axis=1)
    b = np.zeros((rank, sum(source.rows for source in sources)), np.float32)
    row = 0
    for source in sources:
        if source.tensor in factors:
            left, start = factors[source.tensor][0], starts[source.tensor]
            picked = left
            if source.every:
                heads = left.reshape(-1, source.every, left.shape[1])
                picked = heads[:, source.start : source.start + source.take].reshape(-1, left.shape[1])
            b[start : start + left.shape[1], row : row + source.rows] = np.float32(scale) * picked.T
        row += source.rows
    assert a.shape[0] == inputs
    return a, b


def _beside(bundle: Bundle, adapter: Adapter) -> Path:
    folder = bundle.path.absolute()
    return bundle.path.parent / f"{folder.name}-{slug(adapter.id)}.safetensors"


def _expect_free(path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise ExportError(f"cannot write {path}: it is a folder", hint="choose another file with -o")
    if os.path.lexists(path) and not overwrite:
        raise ExportError(f"output {path} exists already", hint="choose another file with -o, or pass --overwrite")
    if not path.absolute().parent.is_dir():
        raise ExportError(
            f"cannot write {path}: {path.absolute().parent} is not a folder", hint="choose another file with -o"
        )


def _write(path: Path, data: bytes) -> None:
    """Aside, forced to disk, renamed."""
    try:
        with replacing(path, 0o666 & ~umask()) as file:
            file.write(data)
    except OSError as error:
        raise ExportError(
            f"cannot write {path}: {error.strerror or error}", hint="choose another file with -o, or free some space"
        ) from None
