"""A GGUF file as a checkpoint: the config.json it stands for, and its tensors by the names families ask for."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgelm.bundle.origins import Quantized
from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.gguf.architectures import ARCHITECTURES, Architecture
from edgelm.exporter.checkpoint.gguf.files import parts
from edgelm.exporter.checkpoint.gguf.header import Header, TensorInfo, read_header
from edgelm.exporter.checkpoint.gguf.metadata import Metadata
from edgelm.exporter.checkpoint.gguf.rope import FACTORS
from edgelm.exporter.checkpoint.gguf.tensors import GGUFTensor, Reshaped, Rotated, Shifted, Transposed
from edgelm.exporter.checkpoint.tensors import Readable

_IGNORED = re.compile(r"blk\.\d+\.attn_rot_embd|" + "|".join(map(re.escape, FACTORS)))
# What is no model though it is a GGUF file, by general.type or general.architecture.
_OTHER = {
    "adapter": ("is a LoRA adapter", "give its model, and the adapter in PEFT's layout with --adapter"),
    "mmproj": ("holds the parts for images of a model", "give the model's own file"),
    "clip": ("holds the parts for images of a model", "give the model's own file"),
    "imatrix": ("is an importance matrix", "give the model's own file"),
}


@dataclass(frozen=True)
class GGUFModel:
    """A model in a GGUF file, or in the parts of one.

    Attributes:
        files: the parts, in order.
        metadata: of the first.
        config: as config.json would say it.
        tensors: by the names of a Hugging Face checkpoint.
        types: element type → number of values stored so.
    """

    files: tuple[Path, ...]
    metadata: Metadata
    config: Mapping[str, Any]
    tensors: Mapping[str, Readable]
    types: Mapping[str, int]

    @property
    def facts(self) -> Quantized:
        """How it is quantised, for a manifest."""
        return Quantized(method="gguf", types=dict(self.types))


def open_gguf(path: Path) -> GGUFModel:
    """Read the headers of a GGUF file and its other parts.

    Raises:
        CheckpointError: a file is damaged, cut short or missing.
        UnsupportedModelError: no text model, or one of an architecture that is not known.
    """
    headers = [read_header(file) for file in parts(path)]
    infos = _tensors(headers)
    metadata = _without_tokenizer(_metadata(headers[0], infos))
    architecture = _architecture(metadata)
    if "token_embd.weight" not in infos:
        raise CheckpointError(f"{path} has no weights of a text model", hint="give the model's own file")
    config = {
        "model_type": architecture.model_type,
        "vocab_size": infos["token_embd.weight"].shape[0],
        **architecture.config(metadata, frozenset(infos)),
    }
    types: Counter[str] = Counter()
    for info in infos.values():
        types[info.type.name] += math.prod(info.shape)
    tensors = _renamed(metadata, architecture, infos)
    return GGUFModel(tuple(header.path for header in headers), metadata, config, tensors, dict(types.most_common()))


def read_metadata(path: Path) -> Metadata:
    """The metadata of a file, or of the first part of a split one, with its tokenizer; see `open_gguf`."""
    return _metadata(read_header(parts(path)[0]), {})


def _tensors(headers: list[Header]) -> dict[str, TensorInfo]:
    """All tensors; CheckpointError where parts are of different models, or some are missing."""
    first = headers[0]
    count = _count(first, "split.count", 1)
    if count > 1 and len(headers) == 1:
        raise CheckpointError(
            f"{first.path} is one of {count} parts, and its name does not tell the others",
            hint="give the parts the names they had: NAME-00001-of-0000N.gguf",
        )
    tensors: dict[str, TensorInfo] = {}
    for index, header in enumerate(headers):
        if len(headers) > 1 and (number := _count(header, "split.no", index)) != index:
            raise CheckpointError(f"{header.path} is part {number + 1:,}, not {index + 1}")
        if twice := next((name for name in header.tensors if name in tensors), None):
            raise CheckpointError(
                f"{header.path}: tensor '{twice}' is in another part, too", hint="download all parts again"
            )
        tensors |= header.tensors
    expected = _count(first, "split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise CheckpointError(f"{first.path} and its other parts have {len(tensors)} tensors, expected {expected:,}")
    return tensors


def _count(header: Header, key: str, default: int) -> int:
    value = header.metadata.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CheckpointError(f"{header.path}: key '{key}' is no count", hint="download it again")
    return value


def _metadata(header: Header, tensors: Mapping[str, TensorInfo]) -> Metadata:
    values = header.metadata
    for key in ("general.type", "general.architecture"):
        kind = values.get(key)
        if isinstance(kind, str) and kind in _OTHER:
            what, hint = _OTHER[kind]
            raise UnsupportedModelError(f"{header.path} {what}, not a model", hint=hint)
    factors = {name: GGUFTensor(tensors[name], name).read() for name in FACTORS if name in tensors}
    return Metadata(header.path, values, factors)


def _without_tokenizer(metadata: Metadata) -> Metadata:
    """Hundreds of thousands of strings, which need not be held while weights are read."""
    values = {key: value for key, value in metadata.values.items() if not key.startswith("tokenizer.")}
    return replace(metadata, values=values)


def _architecture(metadata: Metadata) -> Architecture:
    name = metadata.architecture
    if name not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{metadata.path}: architecture {name!r} cannot be read from a GGUF file",
            hint=f"known: {', '.join(sorted(ARCHITECTURES))}; of others export the Hugging Face checkpoint",
        )
    return ARCHITECTURES[name]


def _renamed(metadata: Metadata, architecture: Architecture, infos: Mapping[str, TensorInfo]) -> dict[str, Readable]:
    tensors: dict[str, Readable] = {}
    for name, info in infos.items():
        if _IGNORED.match(name):
            continue
        renamed = architecture.rename(name)
        if renamed is None:
            raise UnsupportedModelError(
                f"{metadata.path}: tensor '{name}' has no place in a {metadata.architecture} model that edgelm knows",
                hint="export the Hugging Face checkpoint",
            )
        if renamed in tensors:
            raise CheckpointError(
                f"{metadata.path}: tensor '{name}' and another one are both '{renamed}'", hint="download it again"
            )
        tensors[renamed] = _as_in_a_checkpoint(metadata, architecture, GGUFTensor(info, renamed))
    return tensors


def _as_in_a_checkpoint(metadata: Metadata, architecture: Architecture, tensor: GGUFTensor) -> Readable:
    """Undo what llama.cpp does to a tensor."""
    name = tensor.info.name
    module, _, part = name.rpartition(".")
    module = module.rpartition(".")[2]
    if architecture.rotated and module in ("attn_q", "attn_k"):
        heads = metadata.integer("attention.head_count")
        if module == "attn_k":
            heads = metadata.integer("attention.head_count_kv", heads)
        if tensor.shape[0] % (2 * heads):
            raise CheckpointError(
                f"{tensor.file}: tensor '{name}' has {tensor.shape[0]} rows, expected those of {heads} heads"
            )
        return Rotated(tensor, heads)
    if architecture.norm_offset and module.endswith("norm"):
        return Shifted(tensor, architecture.norm_offset)
    if module in architecture.by_columns and part == "weight":
        return Transposed(tensor)
    if name.endswith("shortconv.conv.weight") and len(tensor.shape) == 2:
        return Reshaped(tensor, (1, tensor.shape[1]))
    return tensor
