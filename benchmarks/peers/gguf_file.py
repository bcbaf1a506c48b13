"""Write a Hugging Face checkpoint of a Llama or Qwen2 as a gguf file for llama.cpp.

    python -m benchmarks.peers.gguf_file CHECKPOINT FILE.gguf q4_0|q8_0|f16|f32 [vocabulary]

Every matrix is stored in the type that is named, embedding and head included: blocks of 32, symmetric, rounded to nearest,
by llama.cpp's own Python package (`llama-quantize --pure` makes the same). Norms and biases stay fp32. The file has no
tokenizer, as a benchmark gives ids, or with `vocabulary` that of a byte-level BPE, for sizes that compare. Needs gguf, numpy
and ml-dtypes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.rope import read_rope

TYPES = ("q4_0", "q8_0", "f16", "f32")
_ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2"}
# llama.cpp turns neighbours of a llama's head, Hugging Face its halves: rows are put in its order.
_PAIRED = ("llama",)
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write(folder: Path, output: Path, kind: str, *, vocabulary: bool = False) -> None:
    """Write the checkpoint in `folder` to `output`, aside first; `kind` is one of `TYPES`."""
    checkpoint = Checkpoint(folder)
    config = checkpoint.config
    if config.model_type not in _ARCHITECTURES:
        raise SystemExit(
            f"{folder}: no gguf is written of a {config.model_type!r}, only of {', '.join(_ARCHITECTURES)}"
        )
    aside = output.with_name(output.name + ".part")
    writer = gguf.GGUFWriter(aside, _ARCHITECTURES[config.model_type])
    _settings(writer, config, kind)
    if vocabulary:
        _vocabulary(writer, folder, config.integer("vocab_size"))
    else:
        writer.add_tokenizer_model("no_vocab")
    if factors := _frequency_factors(config):
        writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))
    for name, values in _tensors(checkpoint):
        _add(writer, name, values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(aside, output)


def _settings(writer: gguf.GGUFWriter, config: Config, kind: str) -> None:
    heads, hidden = config.integer("num_attention_heads"), config.integer("hidden_size")
    head = _head_dim(config)
    writer.add_block_count(config.integer("num_hidden_layers"))
    writer.add_context_length(config.integer("max_position_embeddings"))
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(config.integer("intermediate_size"))
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.integer("num_key_value_heads", heads))
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(config.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    writer.add_vocab_size(config.integer("vocab_size"))
    types = gguf.LlamaFileType
    file_types = {
        "q4_0": types.MOSTLY_Q4_0, "q8_0": types.MOSTLY_Q8_0, "f16": types.MOSTLY_F16, "f32": types.ALL_F32,
    }  # fmt: skip
    writer.add_file_type(file_types[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _vocabulary(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    """The tokens and merges of a byte-level BPE; ids that it lacks are written as unused ones."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model, added = tokenizer["model"], {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    if model["type"] != "BPE":
        raise SystemExit(f"{folder}: only the vocabulary of a byte-level BPE is written, not {model['type']}")
    names = {index: token for token, index in model["vocab"].items()} | added
    types = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([names.get(index, f"[unused{index}]") for index in range(size)])
    writer.add_token_types(
        [types.CONTROL if i in added else types.NORMAL if i in names else types.UNUSED for i in range(size)]
    )
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])


def _frequency_factors(config: Config) -> list[float]:
    """By what llama.cpp divides each rotary frequency; empty for 1."""
    rope = read_rope(config, _head_dim(config))
    if rope is None or rope.scaling is None:
        return []
    length = config.integer("max_position_embeddings")
    ratios: list[float] = (replace(rope, scaling=None).frequencies(length) / rope.frequencies(length)).tolist()
    return ratios


def _head_dim(config: Config) -> int:
    return config.integer("head_dim", config.integer("hidden_size") // config.integer("num_attention_heads"))


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    """(gguf's name, float32 values) of every tensor; a tied head is left out, as llama.cpp takes the embedding for it."""
    config = checkpoint.config
    heads = config.integer("num_attention_heads")
    rotated = {"attn_q": heads, "attn_k": config.integer("num_key_value_heads", heads)}
    tied = bool(config.get("tie_word_embeddings", False))
    for name in checkpoint.names():
        stem, _, part = name.rpartition(".")
        if stem == "lm_head" and tied:
            continue
        values = checkpoint.array(name, checkpoint.shape(name))
        if stem in _TOP:
            yield f"{_TOP[stem]}.{part}", values
            continue
        layer, _, inner = stem.removeprefix("model.layers.").partition(".")
        if inner not in _LAYER:
            raise SystemExit(f"{checkpoint.path}: llama.cpp's name of tensor '{name}' is not known")
        short = _LAYER[inner]
        if short in rotated and config.model_type in _PAIRED:
            values = _interleaved(values, rotated[short])
        yield f"blk.{layer}.{short}.{part}", values


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a q or k projection [heads * d, …], each head's first and second halves put in turns."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _add(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    if values.ndim == 1 or kind == "f32":
        writer.add_tensor(name, values.astype(np.float32))
    elif kind == "f16":
        writer.add_tensor(name, values.astype(np.float16))
    else:
        raw = gguf.GGMLQuantizationType[kind.upper()]
        writer.add_tensor(name, gguf.quants.quantize(values, raw), raw_dtype=raw)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5) or sys.argv[3] not in TYPES or sys.argv[4:] not in ([], ["vocabulary"]):
        raise SystemExit(__doc__)
    write(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], vocabulary=len(sys.argv) == 5)
