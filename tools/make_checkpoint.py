"""Make a checkpoint of a model's true shape with random weights, without torch.

    python tools/make_checkpoint.py smollm2-135m /tmp/135m
    python tools/make_checkpoint.py path/to/config.json /tmp/model --tokenizer path/to/tokenizer.json
    python tools/make_checkpoint.py path/to/lfm2_350m.json /tmp/model --type lfm2    # in ExecuTorch's key names

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
from edgelm.exporter.checkpoint.config import Config, read_json

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
# What ExecuTorch's configuration files call the keys of a config.json.
_EXECUTORCH = {
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "n_layers": "num_hidden_layers",
    "norm_eps": "rms_norm_eps",
    "attention_qkv_bias": "attention_bias",
    "embedding_scale_factor": "embedding_multiplier",
}
# What a family's config.json needs beyond them.
_EXECUTORCH_TYPES: dict[str, dict[str, Any]] = {
    "gemma": {"hidden_activation": "gelu_pytorch_tanh"},
    "gemma2": {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256},
    "gemma3_text": {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256},
    "lfm2": {"block_auto_adjust_ff_dim": False},
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
@click.option("--type", "kind", help="The model_type, where the file is in ExecuTorch's key names, or has none.")
def main(shape: str, folder: Path, tokenizer: Path | None, seed: int, kind: str | None) -> None:
    try:
        make(shape, folder, tokenizer, seed, kind)
    except EdgeLMError as error:
        raise click.ClickException(f"{error}" + (f" ({error.hint})" if error.hint else "")) from None


def make(shape: str, folder: Path, tokenizer: Path | None = None, seed: int = 0, kind: str | None = None) -> Path:
    """Write the checkpoint into `folder`; `shape` is a preset or the path of a config.json, `kind` its model_type."""
    config = read_config(shape, kind)
    decoder = families.describe(config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config.values, "torch_dtype": "bfloat16"}, indent=2) + "\n")
    (folder / "tokenizer.json").write_text(tokenizer.read_text() if tokenizer else _byte_tokenizer())
    _write_weights(folder / "model.safetensors", decoder.tensors, seed)
    return folder


def read_config(shape: str, kind: str | None = None) -> Config:
    """A preset, or a config.json, in ExecuTorch's key names or in those of transformers."""
    if shape in PRESETS:
        return Config(PRESETS[shape], Path(f"{shape}.json"))
    path = Path(shape)
    if not path.is_file():
        raise click.ClickException(f"{shape!r} is no preset and no file; {near(shape, PRESETS, listing='presets')}")
    values = read_json(path)
    if "dim" in values and "hidden_size" not in values:
        values = _from_executorch(values, kind)
    return Config({**values, **({"model_type": kind} if kind is not None else {})}, path)


def _from_executorch(values: dict[str, Any], kind: str | None) -> dict[str, Any]:
    config = {_EXECUTORCH.get(key, key): value for key, value in values.items()}
    config = {"num_key_value_heads": config["num_attention_heads"], "tie_word_embeddings": True, **config}
    if "layer_types" in config:  # one more than there are layers in some
        config["layer_types"] = config["layer_types"][: config["num_hidden_layers"]]
    if "rope_scaling_short_factor" in config:
        factors = {f"{part}_factor": config.pop(f"rope_scaling_{part}_factor") for part in ("short", "long")}
        config["rope_scaling"] = {"type": "longrope", **factors}
    return config | _EXECUTORCH_TYPES.get(kind or "", {})


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
