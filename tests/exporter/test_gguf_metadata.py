"""Metadata of GGUF files that lies: any value of any key is read, or an error of one line that allocates nothing by it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_file import write_gguf
from test_gguf_parity import SHAPES

from edgelm.errors import CheckpointError, EdgeLMError
from edgelm.exporter import families
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.checkpoint.gguf import model
from edgelm.exporter.checkpoint.gguf.header import Header, read_header

pytest.importorskip("transformers")
VALUES: list[Any] = [
    *(0, -1, 1, 3, 1 << 31, 1 << 63, (1 << 64) - 1),
    *(float("nan"), float("inf"), -1.5, 1e300, True, "", "x", [], ["a"]),
    *(np.array([]), np.zeros(3, np.int64), np.array([-1, 2]), np.array([np.nan, 1]), np.array([1 << 62, 1])),
    np.zeros(10**6, np.int64),
]
MORE = (
    *(
        "attention.head_count_kv",
        "attention.key_length",
        "attention.sliding_window",
        "attention.sliding_window_pattern",
    ),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.attn_factor"),
    *("rope.dimension_count", "rope.freq_base_swa", "expert_count", "use_parallel_residual", "logit_scale"),
)


def decoder(header: Header, file: Path) -> None:
    """As `open_gguf` and an export read it."""
    infos = model._tensors([header])
    metadata = model._metadata(header, infos)
    architecture = model._architecture(metadata)
    config = {"model_type": architecture.model_type, "vocab_size": 256}
    model._renamed(metadata, architecture, infos)
    families.describe(Config({**config, **architecture.config(metadata, frozenset(infos))}, file))


@pytest.mark.parametrize(
    "shape",
    ["phi3-longrope", "gemma3", *(pytest.param(s, marks=pytest.mark.slow) for s in ("llama-yarn", "lfm2", "gpt2"))],
)
def test_any_value_of_any_key(shape: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    file = write_gguf(tiny_checkpoint(**SHAPES[shape]), tmp_path / "m.gguf")
    header = read_header(file)
    arch = header.metadata["general.architecture"]
    keys = {key for key in header.metadata if not key.startswith("tokenizer.")} | {f"{arch}.{key}" for key in MORE}
    keys |= {"split.count", "split.tensors.count", "general.type"}
    said = []
    for key in sorted(keys):
        for value in VALUES:
            tracemalloc.start()
            try:
                decoder(replace(header, metadata={**header.metadata, key: value}), file)
            except EdgeLMError as error:
                said.append(str(error))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 32 << 20, (key, value)
    assert len(said) > len(keys)
    assert all(line.isprintable() for line in said)


def test_two_tensors_of_one_name(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """LFM2's last norm has two names in llama.cpp; a file with both does not say which counts."""
    file = write_gguf(tiny_checkpoint(**SHAPES["lfm2"]), tmp_path / "m.gguf")
    header = read_header(file)
    norm = header.tensors["token_embd_norm.weight"]
    twice = {**header.tensors, "output_norm.weight": replace(norm, name="output_norm.weight")}
    with pytest.raises(CheckpointError, match=r"'output_norm.weight' and another one are both 'model.embedding_norm"):
        decoder(replace(header, tensors=twice), file)


def test_tensors_that_share_bytes(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    file = write_gguf(tiny_checkpoint(), tmp_path / "m.gguf")
    data, tensors = bytearray(file.read_bytes()), read_header(file).tensors
    first, second = sorted(tensors.values(), key=lambda tensor: tensor.offset)[1:3]
    place = data.index(second.name.encode()) + len(second.name) + 4 + 8 * len(second.shape) + 4
    start = min(tensor.offset for tensor in tensors.values())
    data[place : place + 8] = (first.offset - start).to_bytes(8, "little")
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="shares bytes with another one"):
        read_header(file)
