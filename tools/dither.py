"""Write a GGUF model as a Hugging Face checkpoint, its rounding undone by chance: a fair base for comparisons.

    python tools/dither.py MODEL.gguf FOLDER                 # every value moved within its rounding step, seed 0
    python tools/dither.py MODEL.gguf FAIR.gguf              # the same as a GGUF file of floats, for llama.cpp to quantise
    python tools/dither.py MODEL.gguf FOLDER --plain         # the weights as they are dequantised
    python tools/dither.py MODEL.gguf FOLDER --dtype float16

The weights of a quantised file lie on the grid of its format, which flatters that format and its like: rounding to it
again costs nothing. So to every value a uniform error within half a step of its block is added, as if it had just been
rounded from there. The same seed gives the same bytes. Values stored as floats stay as they are. A folder and a file are not
of the same values: make the checkpoint of a file of floats from that (`--plain`).
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import click
import ml_dtypes
import numpy as np

from edgelm.errors import EdgeLMError
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.gguf.header import read_header
from edgelm.exporter.checkpoint.gguf.tensors import GGUFTensor, Rotated
from edgelm.exporter.checkpoint.tensors import Readable
from edgelm.exporter.tokenizer.text_files import read_text

_ROWS = 1 << 20  # values written at once
_DTYPES: dict[str, tuple[str, Any]] = {
    "float32": ("F32", np.float32),
    "float16": ("F16", np.float16),
    "bfloat16": ("BF16", ml_dtypes.bfloat16),
}
_FLOATS = ("F64", "F32", "F16", "BF16")


@click.command(help=__doc__)
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--plain", is_flag=True, help="No error: the weights as they are dequantised.")
@click.option("--seed", default=0, show_default=True)
@click.option("--dtype", type=click.Choice(sorted(_DTYPES)), default="float32", show_default=True)
def main(model: Path, folder: Path, plain: bool, seed: int, dtype: str) -> None:
    try:
        if folder.suffix == ".gguf":
            write_gguf(model, folder, None if plain else seed)
        else:
            write(model, folder, None if plain else seed, dtype)
    except EdgeLMError as error:
        raise click.ClickException(f"{error}" + (f" ({error.hint})" if error.hint else "")) from None


def write(model: Path, folder: Path, seed: int | None = 0, dtype: str = "float32") -> Path:
    """Write the checkpoint of a GGUF file into `folder`; `seed` None is without any error."""
    checkpoint = Checkpoint(model)
    text = read_text(model, checkpoint.config)
    folder.mkdir(parents=True, exist_ok=True)
    special = {"bos": text.special.bos, "eos": list(text.special.eos), "pad": text.special.pad}
    kinds = {f"{kind}_token_id": value for kind, value in special.items() if value not in (None, [])}
    config = {**checkpoint.config.values, **kinds, "torch_dtype": dtype}
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", kinds)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **text.names, **text.settings}
    _write_json(folder / "tokenizer_config.json", settings)
    if text.template is not None:
        (folder / "chat_template.jinja").write_text(text.template, encoding="utf-8")
    text.tokenizer.save(str(folder / "tokenizer.json"))
    _write_weights(checkpoint, folder / "model.safetensors", seed, dtype)
    return folder


def write_gguf(model: Path, output: Path, seed: int | None = 0) -> Path:
    """Write a GGUF file in one piece once more, every tensor in float32; `seed` None is without any error."""
    import gguf

    tensors = read_header(model).tensors.values()
    reader = gguf.GGUFReader(model)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    architecture = fields.pop(gguf.Keys.General.ARCHITECTURE).contents()
    writer = gguf.GGUFWriter(output, architecture)
    for name, field in fields.items():
        value = gguf.LlamaFileType.ALL_F32 if name == gguf.Keys.General.FILE_TYPE else field.contents()
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], sub_type=inner)
    for info in tensors:
        writer.add_tensor_info(info.name, info.shape, np.dtype(np.float32), 4 * math.prod(info.shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    generator = None if seed is None else np.random.default_rng(seed)
    for info in tensors:
        values = np.concatenate(_slices(GGUFTensor(info, info.name), generator))
        writer.write_tensor_data(values.reshape(info.shape))
    writer.close()
    return output


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write_weights(checkpoint: Checkpoint, path: Path, seed: int | None, dtype: str) -> None:
    code, kind = _DTYPES[dtype]
    header, end = {}, 0
    for name in checkpoint.names():
        shape = checkpoint.shape(name)
        start, end = end, end + int(np.prod(shape)) * np.dtype(kind).itemsize
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    generator = None if seed is None else np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in checkpoint.names():
            for values in _slices(checkpoint.tensor(name), generator):
                file.write(values.astype(kind).tobytes())


def _slices(tensor: Readable, generator: np.random.Generator | None) -> list[np.ndarray]:
    """The values of a tensor, moved where it is a quantised one; those of the largest in slices."""
    quantised = tensor.base if isinstance(tensor, Rotated) else tensor
    if generator is None or not isinstance(quantised, GGUFTensor) or quantised.info.type.name in _FLOATS:
        return [tensor.read()]
    moved = quantised.read()
    for start in range(0, len(moved), _ROWS):
        part = slice(start, min(len(moved), start + _ROWS))
        moved[part] += generator.uniform(-0.5, 0.5, part.stop - start).astype(np.float32) * _steps(quantised, part)
    if isinstance(tensor, Rotated):
        moved = moved.reshape(tensor.shape[0], -1)[tensor.order(np.arange(tensor.shape[0]))].reshape(-1)
    return [moved]


def _steps(tensor: GGUFTensor, part: slice) -> np.ndarray:
    """The distance of neighbouring codes for each value of a part, float32."""
    kind = tensor.info.type
    blocks = tensor.blocks(part.start // kind.size, (part.stop - part.start) // kind.size)
    steps = np.abs(_block_steps(kind.name, blocks))
    return np.repeat(steps, kind.size // steps.shape[1], axis=1).reshape(-1)


def _block_steps(name: str, blocks: np.ndarray) -> np.ndarray:
    """The step of each part of a block, float32 [blocks, parts]; layouts: ggml-common.h of llama.cpp."""

    def half(column: int) -> np.ndarray:
        return np.ascontiguousarray(blocks[:, column : column + 2]).view(np.float16).astype(np.float32)

    match name:
        case "Q4_0" | "Q4_1" | "Q5_0" | "Q5_1" | "Q8_0":
            return half(0)
        case "Q4_K" | "Q5_K":
            from gguf.quants import Q4_K

            scales, _ = Q4_K.get_scale_min(blocks[:, 4:16])
            return half(0) * scales.astype(np.float32).reshape(len(blocks), -1)
        case "Q6_K":
            return half(208) * np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    raise click.ClickException(f"the steps of {name} are not known: take a file of Q4_0 to Q8_0, Q4_K, Q5_K or Q6_K")


if __name__ == "__main__":
    main()
