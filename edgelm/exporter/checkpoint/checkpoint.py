"""A checkpoint on disk: config.json, safetensors (one file or sharded), tokenizer files; or a GGUF file with all of it."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from edgelm.bundle.origins import Quantized
from edgelm.errors import CheckpointError
from edgelm.exporter.checkpoint import claims, lora
from edgelm.exporter.checkpoint.codes import Coded, Codes, CodeType
from edgelm.exporter.checkpoint.config import Config, read_json
from edgelm.exporter.checkpoint.gguf.header import is_gguf
from edgelm.exporter.checkpoint.gguf.model import GGUFModel, open_gguf
from edgelm.exporter.checkpoint.names import bare, by_bare_name, spellings
from edgelm.exporter.checkpoint.prequantized import PackedMatrix, Scheme, read_scheme, stand_ins
from edgelm.exporter.checkpoint.row_subset import PickedRows
from edgelm.exporter.checkpoint.tensors import Readable, RowRange, Tensor, read_header

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_ROW_BYTES = 4 << 20  # fp32 bytes of one slice of rows: large enough for speed, small enough for memory


class Checkpoint:
    """A checkpoint. Nothing is loaded but names and shapes; weights are read in slices when asked for.

    Attributes:
        path: the folder, or the GGUF file.
        config: its config.json, or what stands for it.
        files: the files with weights, sorted by name.
        scheme: how it is quantised already; None for plain floats.
        gguf: the model in the GGUF file, or None.
        adapter: what is merged into its weights as they are read, or None.
        remarks: what an export should tell its user about the files.
    """

    def __init__(self, path: Path, adapter: lora.Adapter | None = None) -> None:
        self.path = path
        self.scheme: Scheme | None = None
        self.gguf: GGUFModel | None = None
        self._tensors: dict[str, Readable]
        if is_gguf(path):
            self.gguf = open_gguf(path)
            self.config = Config(self.gguf.config, path)
            self.files, self._tensors = list(self.gguf.files), dict(self.gguf.tensors)
        else:
            self._open_folder()
        self._bare = by_bare_name(self._tensors)
        self.config, remark = claims.settle_tables(self.config, self._tensors)
        self.remarks = () if remark is None else (remark,)
        self.adapter = adapter
        if adapter is not None:
            self._tensors, self.config = adapter.merge(self._tensors, self.config, self.key)

    def _open_folder(self) -> None:
        path = self.path
        if not path.is_dir():
            what = "is not a folder" if path.exists() else "does not exist"
            raise CheckpointError(
                f"checkpoint {path} {what}",
                hint="give a folder with config.json and *.safetensors, or a hub id such as owner/name",
            )
        if (path / lora.CONFIG).exists() and not _has_weights(path):
            meant = read_json(path / lora.CONFIG).get("base_model_name_or_path")
            raise CheckpointError(
                f"{path} is a LoRA adapter, not a model",
                hint=f"give its model, and it with --adapter {path}" + (f" (it was made for {meant})" if meant else ""),
            )
        self.config = Config(read_json(path / "config.json"), path / "config.json")
        self.files = weight_files(path)
        plain = _headers(path, self.files)
        self.scheme = read_scheme(self.config)
        self._tensors = {**plain} if self.scheme is None else {**stand_ins(self.scheme, plain)}

    @property
    def quantized(self) -> Quantized | None:
        """How its weights are quantised already, for a manifest; None for plain floats."""
        if self.gguf is not None:
            return self.gguf.facts
        return None if self.scheme is None else self.scheme.facts

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._tensors)

    def tensor(self, name: str) -> Readable:
        """A tensor by name; CheckpointError where there is none."""
        if (key := self.key(name)) is not None:
            return self._tensors[key]
        raise CheckpointError(
            f"{self.path}: tensor '{name}' is missing",
            hint="the checkpoint is incomplete, or config.json belongs to another model",
        )

    def key(self, name: str) -> str | None:
        """What the file calls the tensor `name`; None where there is none."""
        found = next((candidate for candidate in spellings(name) if candidate in self._tensors), None)
        return self._bare.get(bare(name)) if found is None else found

    def expect_generator(self) -> None:
        """UnsupportedModelError for a classifier, a reward model or an encoder."""
        claims.expect_generator(self.config, self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; CheckpointError where there is none of that name."""
        return self.tensor(name).shape

    def expect(self, name: str, shape: tuple[int, ...]) -> Readable:
        """The tensor `name`, which must have this shape, or CheckpointError."""
        tensor = self.tensor(name)
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: tensor '{name}' has shape {list(tensor.shape)}, config.json says {list(shape)}"
            )
        return tensor

    def vector(self, name: str, size: int) -> np.ndarray:
        """A tensor of shape [size], as float32."""
        tensor = self.expect(name, (size,))
        return _finite(tensor, tensor.read())

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A small tensor of this shape, whole, as float32."""
        tensor = self.expect(name, shape)
        return _finite(tensor, tensor.read()).reshape(shape)

    def rows(self, name: str, shape: tuple[int, int], parts: Iterable[RowRange] | None = None) -> Iterator[np.ndarray]:
        """Rows of a matrix of `shape` [rows, columns] as float32, a slice of rows at a time: of those `parts` (first row, the
        one after the last) in turn, None for all.
        """
        tensor = self.expect(name, shape)
        for piece in tensor.slices(_ranges(shape, [(0, shape[0])] if parts is None else parts)):
            yield _finite(tensor, piece)

    def codes(self, name: str, shape: tuple[int, int]) -> Codes | None:
        """The codes of a matrix that is quantised already and can be packed as it is; None for any other."""
        tensor = self.expect(name, shape)
        return tensor.codes() if isinstance(tensor, PackedMatrix | PickedRows) else None

    def code_type(self, name: str, shape: tuple[int, int]) -> CodeType | None:
        """What codes a matrix has in a GGUF file; None for any other, and for codes that no operator could hold."""
        tensor = self.expect(name, shape)
        return tensor.code_type if isinstance(tensor, Coded) else None

    def code_rows(self, name: str, shape: tuple[int, int]) -> Iterator[Codes]:
        """The codes of a matrix that has a `code_type`, a slice of rows at a time."""
        tensor = self.expect(name, shape)
        assert isinstance(tensor, Coded)
        return tensor.code_slices(_ranges(shape, [(0, shape[0])]))

    def picking(self, shapes: Mapping[str, tuple[int, ...]], rows: np.ndarray) -> Checkpoint:
        """The same with these rows alone (int64 [n], ascending) of the tensors of these `shapes`."""
        picked = {str(self.key(name)): PickedRows(self.expect(name, shape), rows) for name, shape in shapes.items()}
        other = copy.copy(self)
        other._tensors = {**self._tensors, **picked}
        return other


def _ranges(shape: tuple[int, int], parts: Iterable[RowRange]) -> Iterator[RowRange]:
    """`parts` of a matrix of `shape` cut into slices."""
    step = max(1, _ROW_BYTES // (4 * shape[1]))
    return ((start, min(start + step, end)) for first, end in parts for start in range(first, end, step))


def _headers(path: Path, files: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of all `files`. Where two have one of the same name, the index says which counts.

    Raises:
        CheckpointError: two files disagree on a tensor, and there is no index.
    """
    table = read_json(path / _INDEX)["weight_map"] if len(files) > 1 and (path / _INDEX).exists() else {}
    found: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            other = found.get(name)
            if other is not None and table.get(name) == other.file.name:
                continue
            if other is not None and table.get(name) != file.name and not claims.equal(other, tensor):
                raise CheckpointError(
                    f"{other.file} and {file.name} both hold tensor '{name}', and not the same values",
                    hint=f"leave the files of one model in the folder, or add the {_INDEX} that names them",
                )
            found[name] = tensor
    return found


def _finite(tensor: Readable, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        kind = "NaN" if np.isnan(values).any() else "infinite"
        raise CheckpointError(
            f"{tensor.file}: tensor '{tensor.name}' holds {kind} values",
            hint="the checkpoint is damaged; download it again",
        )
    return values


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a checkpoint; CheckpointError where there are none, or not all."""
    index = path / _INDEX
    if (path / _SINGLE).exists():
        return [path / _SINGLE]
    if index.exists():
        table = read_json(index).get("weight_map")
        if not isinstance(table, dict) or not all(isinstance(v, str) and v == Path(v).name for v in table.values()):
            raise CheckpointError(f"{index}: 'weight_map' is not a table of tensor names to file names")
        files = sorted({path / file for file in table.values()})
        for file in files:
            if not os.path.exists(file):  # False also for a name that no file can have
                raise CheckpointError(f"{file} is missing: {index.name} names it", hint="download the checkpoint again")
        return files
    if found := sorted(path.glob("*.safetensors")):
        return [file for file in found if file.name != lora.WEIGHTS] or found
    if pickled := pickles(sorted(file.name for file in path.iterdir())):
        raise CheckpointError(
            f"{path / pickled[0]} is a pickle, which can run any code when it is read; edgelm reads safetensors only",
            hint="in a place you trust: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR, safe_serialization=True)",
        )
    raise CheckpointError(
        f"{path} has no *.safetensors file", hint="give a folder with config.json, *.safetensors and tokenizer.json"
    )


def _has_weights(path: Path) -> bool:
    """Whether a folder holds a model: its config.json, and weights that are not an adapter's."""
    names = {file.name for file in path.iterdir()} - {lora.WEIGHTS, lora.PICKLE}
    weights = _INDEX in names or pickles(names) or any(name.endswith(".safetensors") for name in names)
    return "config.json" in names and bool(weights)


def pickles(names: Iterable[str]) -> list[str]:
    """Those of the file `names` that hold weights as a pickle."""
    return [name for name in names if fnmatchcase(name, "*_model*.bin") or name.endswith((".pt", ".pth"))]
