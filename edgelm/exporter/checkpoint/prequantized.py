"""Checkpoints that are quantised already: GPTQ, AWQ and compressed-tensors layouts of 4 and 8 bits.

Each stores a matrix W [n, k] as integer codes packed into int32 words, with a scale (and a zero point) for every
group of columns: w = (code - zero) * scale. The codes are unpacked here and packed again for MatMulNBits as they
are; nothing is rounded a second time.

Layouts, as their libraries write them:
    GPTQ                qweight [k/8, n] and qzeros [groups, n/8], words filled from the low bits; zeros stored less one
                        (until ``checkpoint_format: gptq_v2``); g_idx [k] names the group of a column
    AWQ (GEMM)          qweight [k, n/8] and qzeros [groups, n/8], the nibbles of a word in the order 0 2 4 6 1 3 5 7
    compressed-tensors  weight_packed [n, k/8], codes signed and shifted by 2^(b-1); weight_zero_point [n/8, groups]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgelm.bundle.origins import Quantized
from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.codes import Codes
from edgelm.exporter.checkpoint.config import Config, read_json
from edgelm.exporter.checkpoint.tensors import RowRange, Tensor
from edgelm.target.operators import BLOCKS

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_WORD = 32


@dataclass(frozen=True)
class Scheme:
    """How a checkpoint is quantised, from its config.json.

    Attributes:
        method: ``gptq``, ``awq`` or ``compressed-tensors``.
        bits: of a code.
        group: columns a scale; -1 for all.
        zeros_less_one: GPTQ's first format.
    """

    method: str
    bits: int
    group: int
    zeros_less_one: bool = False

    def columns(self, k: int) -> int:
        """Columns that share a scale, in rows of `k`."""
        return self.group if self.group > 0 else k

    @property
    def facts(self) -> Quantized:
        """For a manifest."""
        return Quantized(method=self.method, bits=self.bits, group_size=self.group)

    def block(self, k: int) -> int | None:
        """Columns of a block in rows of `k`, the largest power of two that divides a group, as far as an operator knows it;
        None where the row is not of whole groups, or such a block is smaller than any that is known.
        """
        group = self.columns(k)
        block = min(BLOCKS[-1], group & -group)
        return block if block >= BLOCKS[0] and k % group == 0 else None


def read_scheme(config: Config) -> Scheme | None:
    """The scheme of a quantised checkpoint; None for one of plain floats.

    Raises:
        UnsupportedModelError: a method or layout that cannot be repacked.
    """
    table = config.filled("quantization_config") or _file_of_its_own(config)
    if table is None:
        return None
    method = table.text("quant_method", "")
    match method:
        case "gptq":
            v1 = table.get("checkpoint_format", "gptq") != "gptq_v2"
            scheme = Scheme(method, table.integer("bits"), table.integer("group_size", -1, minimum=-1), v1)
        case "awq":
            if str(table.get("version", "gemm")).lower() != "gemm":
                raise _unsupported(config, f"AWQ version {table.get('version')!r} (known: gemm)")
            group = table.integer("group_size", table.get("q_group_size", 128), minimum=-1)
            scheme = Scheme(method, table.integer("bits", table.get("w_bit", 4)), group)
        case "compressed-tensors":
            found = _compressed(config, table)
            if found is None:
                return None
            scheme = found
        case _:
            raise _unsupported(config, f"quantisation method {method!r} (known: gptq, awq, compressed-tensors)")
    if scheme.bits not in (4, 8):
        raise _unsupported(config, f"{scheme.bits}-bit {method} (known: 4 and 8 bits)")
    return scheme


def _file_of_its_own(config: Config) -> Config | None:
    """The settings where AutoGPTQ and AutoAWQ wrote them before they had a place in config.json."""
    for name, method in (("quantize_config.json", "gptq"), ("quant_config.json", "awq")):
        path = config.path.with_name(name)
        if path.exists():
            return Config({"quant_method": method, **read_json(path)}, path)
    return None


def _compressed(config: Config, table: Config) -> Scheme | None:
    if not table.get("config_groups") and table.get("kv_cache_scheme") is not None:
        return None  # another runtime's KV cache alone is quantised, not the weights
    if table.get("format") != "pack-quantized":
        raise _unsupported(config, f"compressed-tensors format {table.get('format')!r} (known: pack-quantized)")
    groups = table.nested("config_groups")
    found = [groups.nested(name) for name in groups.values] if groups is not None else []
    weights = found[0].nested("weights") if len(found) == 1 and found[0] is not None else None
    if weights is None or weights.get("type") != "int":
        raise _unsupported(config, "compressed-tensors with several groups, or without integer weights")
    return Scheme(
        "compressed-tensors", weights.integer("num_bits"), weights.integer("group_size", -1, minimum=-1) or -1
    )


def _unsupported(config: Config, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{config.path}: {what} cannot be repacked", hint="export the unquantised checkpoint")


# The tensors of one matrix: what is left of its name without ".weight" is put before these.
_PARTS = {
    "gptq": ("qweight", "qzeros", "scales", "g_idx"),
    "awq": ("qweight", "qzeros", "scales"),
    "compressed-tensors": ("weight_packed", "weight_zero_point", "weight_scale", "weight_shape", "weight_g_idx"),
}


class PackedMatrix:
    """A matrix of a quantised checkpoint; it stands in for the tensor ``<module>.weight`` of a plain one."""

    def __init__(self, scheme: Scheme, module: str, tensors: Mapping[str, Tensor]) -> None:
        self.scheme = scheme
        self.module = module
        self.parts = {
            part: tensors[f"{module}.{part}"] for part in _PARTS[scheme.method] if f"{module}.{part}" in tensors
        }

    @property
    def name(self) -> str:
        """Of the tensor it stands in for."""
        return f"{self.module}.weight"

    @property
    def file(self) -> Path:
        """Where the codes are."""
        return self.tensor.file

    @property
    def tensor(self) -> Tensor:
        """The tensor that holds the codes."""
        return next(iter(self.parts.values()))

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Values like `Tensor.read`; all are dequantised for them."""
        end = math.prod(self.shape) if count is None else start + count
        return self.dequantize().reshape(-1)[start:end]

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Values of rows [end - first, k]; dequantised once for all of them."""
        dense = self.dequantize()
        for first, end in rows:
            yield dense[first:end]

    @property
    def shape(self) -> tuple[int, int]:
        """[n, k] of the matrix."""
        rows, columns = self.tensor.shape
        words = _WORD // self.scheme.bits
        match self.scheme.method:
            case "gptq":
                return columns, rows * words
            case "awq":
                return columns * words, rows
            case _:
                return rows, columns * words

    def codes(self) -> Codes | None:
        """The codes; None where no block can say them, as where columns are out of order (GPTQ's ``desc_act``)."""
        n, k = self.shape
        group, block = self.scheme.columns(k), self.scheme.block(k)
        if block is None or (self._groups_of_columns(k) != np.arange(k) // group).any():
            return None
        codes, zeros = self._unpack(n, k // group)
        scales = self._scales(n, k // group)
        repeat = group // block
        return Codes(
            self.scheme.bits,
            block,
            codes,
            np.repeat(scales, repeat, axis=1),
            np.repeat(zeros, repeat, axis=1).astype(np.uint8),
        )

    def dequantize(self) -> np.ndarray:
        """float32 [n, k], whatever the order of the columns."""
        n, k = self.shape
        groups, index = -(-k // self.scheme.columns(k)), self._groups_of_columns(k)
        codes, zeros = self._unpack(n, groups)
        signed = codes.astype(np.float32) - zeros[:, index].astype(np.float32)
        values: np.ndarray = signed * self._scales(n, groups)[:, index]
        return values

    def _groups_of_columns(self, k: int) -> np.ndarray:
        """The group of every column: in order, unless the checkpoint says otherwise."""
        for part in ("g_idx", "weight_g_idx"):
            if part in self.parts and len(order := self.parts[part].integers()) == k:
                return order
        return np.arange(k) // self.scheme.columns(k)

    def _unpack(self, n: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes uint8 [n, k] and zeros [n, groups]."""
        bits, half = self.scheme.bits, 1 << (self.scheme.bits - 1)
        match self.scheme.method:
            case "gptq":
                codes = unpack(self._words("qweight"), bits, axis=0).T
                zeros = unpack(self._words("qzeros"), bits, axis=1).T
                if self.scheme.zeros_less_one:
                    zeros = (zeros + 1) & (2 * half - 1)
            case "awq":
                order = _AWQ_ORDER if bits == 4 else tuple(range(_WORD // bits))
                codes = unpack(self._words("qweight"), bits, axis=1, order=order).T
                zeros = unpack(self._words("qzeros"), bits, axis=1, order=order).T
            case _:
                codes = unpack(self._words("weight_packed"), bits, axis=1)
                stored = self.parts.get("weight_zero_point")
                # Signed zero points are shifted like the codes.
                zeros = (
                    np.full((n, groups), half)
                    if stored is None
                    else unpack(self._words("weight_zero_point"), bits, axis=0)
                )
        if codes.shape != self.shape or zeros.shape != (n, groups):
            raise CheckpointError(
                f"{self.tensor.file}: '{self.module}' has codes {list(codes.shape)} and zero points {list(zeros.shape)}, expected {list(self.shape)} and {[n, groups]}"
            )
        return np.ascontiguousarray(codes, dtype=np.uint8), zeros

    def _scales(self, n: int, groups: int) -> np.ndarray:
        name = "weight_scale" if self.scheme.method == "compressed-tensors" else "scales"
        tensor = self._part(name)
        values = tensor.read().reshape(tensor.shape)
        scales = values if name == "weight_scale" else values.T
        if scales.shape != (n, groups):
            raise CheckpointError(
                f"{tensor.file}: tensor '{tensor.name}' has shape {list(tensor.shape)}, expected {groups} scales for each of {n} rows"
            )
        return np.ascontiguousarray(scales)

    def _words(self, part: str) -> np.ndarray:
        return self._part(part).integers()

    def _part(self, part: str) -> Tensor:
        if part not in self.parts:
            raise CheckpointError(
                f"{self.tensor.file}: tensor '{self.module}.{part}' is missing", hint="the checkpoint is incomplete"
            )
        return self.parts[part]


def unpack(words: np.ndarray, bits: int, *, axis: int, order: tuple[int, ...] | None = None) -> np.ndarray:
    """int32 words → uint8 codes, 32 / bits of them a word along `axis`, low bits first.

    `order[i]` is where in the word the i-th code in the low-to-high sequence belongs.
    """
    count = _WORD // bits
    places = order or tuple(range(count))
    raw = words.view(np.uint32)
    fields = np.stack(
        [(raw >> np.uint32(bits * place)) & np.uint32((1 << bits) - 1) for place in _sequence(places)], axis=axis + 1
    )
    shape = list(words.shape)
    shape[axis] *= count
    return fields.reshape(shape).astype(np.uint8)


def _sequence(places: tuple[int, ...]) -> tuple[int, ...]:
    """The field that holds code 0, code 1, …"""
    return tuple(places.index(i) for i in range(len(places)))


def stand_ins(scheme: Scheme, tensors: Mapping[str, Tensor]) -> dict[str, Tensor | PackedMatrix]:
    """The tensors of a checkpoint with every quantised matrix in place of its parts, under its plain name."""
    suffix = f".{_PARTS[scheme.method][0]}"  # of the codes
    modules = [name.removesuffix(suffix) for name in tensors if name.endswith(suffix)]
    matrices = [PackedMatrix(scheme, module, tensors) for module in modules]
    parts = {tensor.name for matrix in matrices for tensor in matrix.parts.values()}
    plain = {name: tensor for name, tensor in tensors.items() if name not in parts}
    return {**plain, **{matrix.name: matrix for matrix in matrices}}
