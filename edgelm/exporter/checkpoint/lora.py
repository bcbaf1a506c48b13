"""LoRA adapters in PEFT's layout, merged into the weights as these are read.

Hu et al. 2021 (https://arxiv.org/abs/2106.09685): W + s B A, with A [r, in] and B [out, r]; s = alpha / r, or
alpha / sqrt(r) where the adapter is rank-stabilised (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732).
A slice of rows of W needs the same rows of B and the whole of A, so a merged checkpoint is never in memory, nor on disk.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgelm.bundle.origins import MergedAdapter
from edgelm.bundle.reader import sha256
from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.claims import tables_tied, with_tables
from edgelm.exporter.checkpoint.config import Config, read_json
from edgelm.exporter.checkpoint.names import HEADS, embedding_of, head_of
from edgelm.exporter.checkpoint.tensors import Derived, Readable, RowRange, Tensor, read_header
from edgelm.files import is_there, real_path

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
_PREFIX = "base_model.model."
MERGE = "merge it where it was trained: model.merge_and_unload().save_pretrained(DIR), then export DIR"
# Kinds of adapter that no W + s B A expresses, by the key of adapter_config.json that asks for them.
_REFUSED = {
    "use_dora": "DoRA",
    "lora_bias": "a bias in lora_B",
    "use_qalora": "QA-LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "layer_replication": "replicated layers",
    "trainable_token_indices": "single trained tokens",
    "target_parameters": "LoRA on parameters that are no modules",
    "ensure_weight_tying": "tied adapters",
}
# These start from other weights than the model's, which the adapter alone does not tell.
_REFUSED_STARTS = ("pissa", "olora", "corda", "loftq")
# PEFT leaves its own name for the adapter (``default``) out of a file; others who save one leave it in.
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(\.(?P<name>\w+))??(\.weight)?")


class LowRank:
    """scale * left @ right, a slice of rows at a time.

    Attributes:
        left: [rows, r], given as it is stored or transposed.
        right: [r, columns], likewise.
    """

    def __init__(self, a: Tensor, b: Tensor, scale: float, *, transposed: bool) -> None:
        self._stored = (a, b) if transposed else (b, a)
        self._transposed = transposed
        self._scale = np.float32(scale)

    @property
    def shape(self) -> tuple[int, int]:
        """[rows, columns] of the product."""
        left, right = (tensor.shape for tensor in self._stored)
        return (left[1], right[0]) if self._transposed else (left[0], right[1])

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """``scale * left`` [rows, r] and ``right`` [r, columns], float32."""
        left, right = (_matrix(tensor) for tensor in self._stored)
        return self._scale * (left.T if self._transposed else left), right.T if self._transposed else right

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Rows, float32 [end - first, columns], of each (first, end) in turn; both factors are read once for all of them."""
        left, right = (_matrix(tensor) for tensor in self._stored)
        left, right = (left.T, right.T) if self._transposed else (left, right)
        for first, end in rows:
            yield self._scale * (left[first:end] @ right)


@dataclass(frozen=True)
class Merged(Derived):
    """A matrix [rows, columns] with an adapter's change in it; stands in for the tensor itself."""

    change: LowRank

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Rows, float32 [end - first, columns], of each (first, end) in turn."""
        ranges = list(rows)
        for values, change in zip(self.base.slices(ranges), self.change.slices(ranges), strict=True):
            yield values + change


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on disk.

    Attributes:
        path: the folder.
        id: what it is known by.
        revision: the hub's commit, where it came from there.
        config: its adapter_config.json.
        tensors: its tensors, by name without PEFT's prefix.
    """

    path: Path
    id: str
    revision: str | None
    config: Config
    tensors: Mapping[str, Tensor]

    @classmethod
    def open(cls, path: Path, id: str | None = None, revision: str | None = None) -> Adapter:
        """Open the adapter in the folder `path`; weights are not read yet.

        Raises:
            CheckpointError: no adapter there, or a damaged one.
            UnsupportedModelError: a kind of adapter that cannot be merged.
        """
        if not path.is_dir() or not is_there(path / CONFIG):
            what = f"has no {CONFIG}" if path.is_dir() else "is not a folder" if is_there(path) else "does not exist"
            raise CheckpointError(
                f"adapter {path} {what}", hint=f"give a PEFT adapter's folder, with {CONFIG} and {WEIGHTS}"
            )
        config = Config(read_json(path / CONFIG), path / CONFIG)
        _expect_supported(config)
        if not (path / WEIGHTS).exists():
            if (path / PICKLE).exists():
                raise CheckpointError(
                    f"{path / PICKLE} is a pickle, which can run any code when it is read; edgelm reads safetensors only",
                    hint="in a place you trust: PeftModel.from_pretrained(MODEL, DIR).save_pretrained(NEW_DIR)",
                )
            raise CheckpointError(f"adapter {path} has no {WEIGHTS}", hint="copy or download the adapter again")
        table = read_header(path / WEIGHTS)
        tensors = {_without_prefix(name): tensor for name, tensor in table.items()}
        return cls(path, id or real_path(path).name, revision, config, tensors)

    def facts(self) -> MergedAdapter:
        """What the manifest says about it."""
        return MergedAdapter(
            id=self.id,
            revision=self.revision,
            rank=self.config.integer("r"),
            alpha=self.config.number("lora_alpha"),
            rank_stabilised=self.config.flag("use_rslora"),
            sources={name: sha256(self.path / name) for name in (CONFIG, WEIGHTS)},
        )

    def merge(
        self, tensors: Mapping[str, Readable], config: Config, key: Callable[[str], str | None]
    ) -> tuple[dict[str, Readable], Config]:
        """The `tensors` with its changes in them, and config.json as it is then.

        Where the model's head and embedding are one matrix and it changes either, they are two afterwards: the same
        change to both would be another model than the one that was trained.

        Args:
            tensors: of the model.
            config: of the model.
            key: what `tensors` calls a tensor; None for one it does not have.

        Raises:
            CheckpointError: it belongs to another model.
            UnsupportedModelError: it holds something that cannot be merged.
        """
        tables = _Tables(tensors, config)
        merged = dict(tables.before)
        for module, factors in self._modules():
            name = self._target(f"{module}.weight", tables, key)
            merged[name] = Merged(tables.before[name], self._change(module, *factors, tables.before[name]))
        for name, tensor in self.tensors.items():
            if not _KEY.fullmatch(name):
                name = self._target(name.replace(".base_layer.", "."), tables, key)
                if tensor.shape != tables.before[name].shape:
                    raise self._misfit(tensor, tables.before[name])
                merged[name] = tensor
        return tables.after(merged)

    def changes(self, shapes: Mapping[str, tuple[int, int]], key: Callable[[str], str | None]) -> dict[str, LowRank]:
        """Its changes by the matrix they are for, not merged into anything.

        Args:
            shapes: of the matrices [rows, columns] beside which there is a place, by name.
            key: what `shapes` calls a tensor; None for one it does not have.

        Raises:
            CheckpointError: it belongs to another model.
            UnsupportedModelError: it changes something else.
        """
        found = {}
        for module, factors in self._modules():
            name = self._placed(f"{module}.weight", key)
            found[name] = self._change(module, *factors, _Shape(name, shapes[name]))
        for name in self.tensors:
            if not _KEY.fullmatch(name):
                raise self._unplaced(name)
        return found

    def _placed(self, name: str, key: Callable[[str], str | None]) -> str:
        found = key(name)
        table = embedding_of([name]) or head_of([name])
        if found is None and (".layers." in name or ".h." in name) and table is None:
            raise self._unknown(name)
        if found is None:
            raise self._unplaced(name)
        return found

    def _unplaced(self, name: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"adapter {self.path} changes '{name}'; at run time there is a place beside the layers' matrices alone",
            hint="merge it into the model: edgelm export MODEL --adapter DIR",
        )

    def _unknown(self, name: str) -> CheckpointError:
        return CheckpointError(
            f"adapter {self.path} changes '{name}', which the model does not have",
            hint=self._hint,
        )

    def _target(self, name: str, tables: _Tables, key: Callable[[str], str | None]) -> str:
        found = tables.head if head_of([name]) and tables.head in tables.before else key(name)
        if found is None:
            raise self._unknown(name)
        return found

    def _modules(self) -> Iterator[tuple[str, tuple[Tensor, Tensor, bool]]]:
        """(module, (A, B, whether it is an embedding)) of each change."""
        found: dict[str, dict[str, tuple[Tensor, bool]]] = {}
        for name, tensor in self.tensors.items():
            if match := _KEY.fullmatch(name):
                factors = found.setdefault(match["module"], {})
                if match["factor"] in factors:
                    raise UnsupportedModelError(f"{tensor.file} holds several adapters", hint=MERGE)
                factors[match["factor"]] = (tensor, match["embedding"] is not None)
            elif "lora_" in name or "token_adapter" in name:
                raise UnsupportedModelError(f"{tensor.file}: '{tensor.name}' cannot be merged", hint=MERGE)
        for module, factors in found.items():
            if len(factors) < 2:
                raise CheckpointError(f"adapter {self.path}: '{module}' has only one of lora_A and lora_B")
            (a, embedding), (b, _) = factors["A"], factors["B"]
            yield module, (a, b, embedding)

    def _change(self, module: str, a: Tensor, b: Tensor, embedding: bool, base: Readable | _Shape) -> LowRank:
        rank = self._of("rank_pattern", module) or self.config.integer("r")
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise CheckpointError(
                f"{a.file}: '{module}' has lora_A {list(a.shape)} and lora_B {list(b.shape)}; "
                f"{CONFIG} says rank {rank:g}"
            )
        alpha = self._of("alpha_pattern", module) or self.config.number("lora_alpha")
        scale = alpha / math.sqrt(rank) if self.config.flag("use_rslora") else alpha / rank
        # [in, out] weights are told by their shape; a square one by the flag.
        square = a.shape[1] == b.shape[0]
        transposed = embedding or (self.config.flag("fan_in_fan_out") if square else base.shape[0] == a.shape[1])
        change = LowRank(a, b, scale, transposed=transposed)
        if change.shape != base.shape:
            raise self._misfit(a, base, change.shape)
        return change

    def _of(self, key: str, module: str) -> float | None:
        """The value for a module in a table of patterns; PEFT takes the first that matches its name or the end of it."""
        table = self.config.nested(key)
        for pattern in table.values if table is not None else ():
            try:
                if re.match(rf"(.*\.)?({pattern})$", module):
                    return table.number(pattern) if table is not None else None
            except re.error:
                raise CheckpointError(f"{self.config.path}: '{pattern}' in {key} is no regular expression") from None
        return None

    def _misfit(self, tensor: Tensor, base: Readable | _Shape, shape: tuple[int, ...] | None = None) -> CheckpointError:
        return CheckpointError(
            f"{tensor.file}: '{tensor.name}' is for a weight of {list(shape or tensor.shape)}, "
            f"the model's '{base.name}' has {list(base.shape)}",
            hint=self._hint,
        )

    @property
    def _hint(self) -> str:
        meant = self.config.get("base_model_name_or_path")
        return f"the adapter was made for {meant}" if meant else "is the adapter made for this model?"


@dataclass(frozen=True)
class _Shape:
    """A matrix of which no more is known."""

    name: str
    shape: tuple[int, int]


class _Tables:
    """Embedding and head of a model, which may be one matrix, before and after an adapter is merged.

    Attributes:
        before: the model's tensors, a tied head by its own name, too.
        embedding: name of the embedding; None where it is not found.
        head: name of the head.
        stored: whether there is a tensor of that name.
        tied: whether the head is the embedding.
        config: config.json.
    """

    def __init__(self, tensors: Mapping[str, Readable], config: Config) -> None:
        self.config = config
        self.embedding, stored = embedding_of(tensors), head_of(tensors)
        usual = HEADS[1] if self.embedding and self.embedding.endswith("embed_in.weight") else HEADS[0]
        self.head, self.stored = stored or usual, stored is not None
        self.tied = self.embedding is not None and (stored is None or tables_tied(config))
        self.before = dict(tensors)
        if self.tied and self.embedding is not None:
            self.before[self.head] = tensors[self.embedding]

    def after(self, merged: dict[str, Readable]) -> tuple[dict[str, Readable], Config]:
        """`merged` and config.json, which says that the tables are two where one of them has changed."""
        if not self.tied:
            return merged, self.config
        if all(merged[name] is self.before[name] for name in (self.embedding, self.head) if name is not None):
            return {name: tensor for name, tensor in merged.items() if name != self.head or self.stored}, self.config
        return merged, with_tables(self.config, tied=False)


def _without_prefix(name: str) -> str:
    """A name as the model has it: some have PEFT's prefix twice, once for each time that they were wrapped."""
    while name.startswith(_PREFIX):
        name = name.removeprefix(_PREFIX)
    return name


def _expect_supported(config: Config) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModelError(f"{config.path}: adapter of type {kind!r}; edgelm merges LORA", hint=MERGE)
    for key, what in _REFUSED.items():
        if config.get(key):
            raise UnsupportedModelError(f"{config.path}: {what} ('{key}') cannot be merged by edgelm", hint=MERGE)
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_REFUSED_STARTS):
        raise UnsupportedModelError(
            f"{config.path}: an adapter that starts from {start} changes the model's own weights, too", hint=MERGE
        )


def _matrix(tensor: Tensor) -> np.ndarray:
    values = tensor.read().reshape(tensor.shape)
    if not np.isfinite(values).all():
        raise CheckpointError(
            f"{tensor.file}: tensor '{tensor.name}' holds values that are no numbers",
            hint="the adapter's training diverged, or the file is damaged",
        )
    return values
