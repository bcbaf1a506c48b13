"""Make a checkpoint of a model's true shape with random weights, without torch.

    python tools/make_checkpoint.py smollm2-135m /tmp/135m
    python tools/make_checkpoint.py path/to/config.json /tmp/model --tokenizer path/to/tokenizer.json

For measuring time and memory, which do not depend on the values. Weights are drawn from a normal
distribution (standard deviation 0.02), norms are ones; the same seed gives the same bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import ml_dtypes
import numpy as np

from edgelm.errors import EdgeLMError, near
from edgelm.exporter import families
from edgelm.exporter.config import Config

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PRESETS: dict[str, dict[str, Any]] = {
    "smollm2-135m": _LLAMA
    | {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rope_theta": 100000,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    "qwen2.5-0.5b": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    },
    "qwen2.5-0.5b-shape": _LLAMA  # Qwen2.5-0.5B's dimensions in Llama's layout
    | {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
    "llama3.2-1b": _LLAMA
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rope_theta": 500000,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32,
            "low_freq_factor": 1,
            "high_freq_factor": 4,
            "original_max_position_embeddings": 8192,
        },
    },
    "tinyllama-1.1b": _LLAMA
    | {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
}
_CHUNK = 1 << 22  # values drawn at once


@click.command(help=__doc__)
@click.argument("shape")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A tokenizer.json to copy; else one of single bytes is made.",
)
@click.option("--seed", default=0, show_default=True)
def main(shape: str, folder: Path, tokenizer: Path | None, seed: int) -> None:
    try:
        make(shape, folder, tokenizer, seed)
    except EdgeLMError as error:
        raise click.ClickException(f"{error}" + (f" ({error.hint})" if error.hint else "")) from None


def make(shape: str, folder: Path, tokenizer: Path | None = None, seed: int = 0) -> Path:
    """Write the checkpoint into `folder`; `shape` is a preset or the path of a config.json."""
    config = _config(shape)
    decoder = families.describe(config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config.values, "torch_dtype": "bfloat16"}, indent=2) + "\n")
    (folder / "tokenizer.json").write_text(tokenizer.read_text() if tokenizer else _byte_tokenizer())
    _write_weights(folder / "model.safetensors", decoder.tensors, seed)
    return folder


def _config(shape: str) -> Config:
    if shape in PRESETS:
        return Config(PRESETS[shape], Path(f"{shape}.json"))
    path = Path(shape)
    if not path.is_file():
        raise click.ClickException(f"{shape!r} is no preset and no file; {near(shape, PRESETS, listing='presets')}")
    return Config(json.loads(path.read_text()), path)


def _write_weights(path: Path, shapes: dict[str, tuple[int, ...]], seed: int) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.Generator(np.random.SFC64(seed))
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            for values in _values(name, int(np.prod(shape)), generator):
                file.write(values.astype(ml_dtypes.bfloat16).tobytes())


def _values(name: str, count: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        yield (
            np.ones(size, np.float32)
            if "norm" in name
            else generator.standard_normal(size, np.float32) * np.float32(0.02)
        )


def _byte_tokenizer() -> str:
    """A byte-level tokenizer without merges: 256 tokens and two special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{character: 3 + i for i, character in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return str(tokenizer.to_str())


if __name__ == "__main__":
    main()
