"""Tiny GGUF files from tiny checkpoints, written by the gguf package as llama.cpp's convert_hf_to_gguf.py does it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from edgelm.exporter.checkpoint.tensors import read_header as read_safetensors

ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "granite": "granite",
    "smollm3": "smollm3",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "stablelm": "stablelm",
    "gpt2": "gpt2",
    "lfm2": "lfm2",
}
_ROTATED = ("llama", "granite", "smollm3")


def write_gguf(
    checkpoint: Path,
    path: Path,
    kind: str = "F32",
    *,
    metadata: Mapping[str, Any] | None = None,
    tokenizer: Callable[[gguf.GGUFWriter, Path, int], None] | None = None,
    parts: int = 1,
) -> Path:
    """The GGUF file of a checkpoint folder; matrices are stored as `kind` where their rows are whole blocks of it.

    `metadata` are strings beside or in place of what the converter writes; a `tokenizer` of its own replaces the
    checkpoint's; `parts` is how many files it is split into, of which the first is returned.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    arch = ARCHITECTURES[config["model_type"]]
    tensors = dict(_tensors(checkpoint, config, arch))
    split = math.ceil(len(tensors) / parts) if parts > 1 else 0
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split)
    writer.add_type("model")
    _settings(writer, config, arch)
    (tokenizer or byte_tokenizer)(writer, checkpoint, config["vocab_size"])
    for key, value in (metadata or {}).items():
        writer.add_string(key, value)
    for name, values in tensors.items():
        _add(writer, name, values, Type[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if parts == 1 else path.with_name(f"{path.stem}-00001-of-{parts:05d}.gguf")


def _tensors(checkpoint: Path, config: dict[str, Any], arch: str) -> list[tuple[str, np.ndarray]]:
    """Names and values as llama.cpp wants them."""
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    names = gguf.get_tensor_name_map(next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == arch), layers)
    found = []
    for name, tensor in read_safetensors(checkpoint / "model.safetensors").items():
        values = tensor.read().reshape(tensor.shape)
        if name == "lm_head.weight" and (arch.startswith("gemma") or config.get("tie_word_embeddings")):
            continue
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        renamed = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert renamed is not None, name
        found.append((renamed, _changed(name, values, config, arch)))
    return found + _rope_factors(config)


def _changed(name: str, values: np.ndarray, config: dict[str, Any], arch: str) -> np.ndarray:
    if arch in _ROTATED and ("q_proj" in name or "k_proj" in name):
        heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return halves.swapaxes(1, 2).reshape(values.shape)
    if arch.startswith("gemma") and name.endswith("norm.weight"):
        return values + 1
    if arch == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
        return values.T
    return values.squeeze(1) if "conv.conv" in name else values


def _rope_factors(config: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    """What llama.cpp keeps as tensors: Llama 3's scaling, and longrope's."""
    scaling = config.get("rope_scaling") or {}
    if scaling.get("type") == "longrope":
        keys = {"rope_factors_long": "long_factor", "rope_factors_short": "short_factor"}
        return [(f"{name}.weight", np.array(scaling[key], np.float32)) for name, key in keys.items()]
    if scaling.get("rope_type") != "llama3":
        return []
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    original, factors = scaling["original_max_position_embeddings"], []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (i / dim)
        smooth = (original / wavelength - low) / (high - low)
        mixed = 1 / ((1 - smooth) / scaling["factor"] + smooth)
        factors.append(
            1 if wavelength < original / high else scaling["factor"] if wavelength > original / low else mixed
        )
    return [("rope_freqs.weight", np.array(factors, np.float32))]


def _settings(writer: gguf.GGUFWriter, config: dict[str, Any], arch: str) -> None:
    def get(*keys: str) -> Any:
        return next((config[key] for key in keys if config.get(key) is not None), None)

    hidden, heads = get("hidden_size", "n_embd"), get("num_attention_heads", "n_head")
    writer.add_block_count(get("num_hidden_layers", "n_layer"))
    writer.add_context_length(get("max_position_embeddings", "n_positions"))
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(get("intermediate_size") if arch != "gpt2" else get("n_inner") or 4 * hidden)
    writer.add_head_count(heads)
    if arch == "gpt2":
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    kv_heads = get("num_key_value_heads")
    if arch == "lfm2":
        kv_heads = [kv_heads if kind != "conv" else 0 for kind in config["layer_types"]]
        writer.add_shortconv_l_cache(config["conv_L_cache"])
    writer.add_head_count_kv(kv_heads)
    if arch == "stablelm":
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_parallel_residual(config["use_parallel_residual"])
        writer.add_rope_dimension_count(int(config["partial_rotary_factor"] * (hidden // heads)))
    else:
        writer.add_layer_norm_rms_eps(get("rms_norm_eps", "norm_eps"))
    if get("head_dim") and arch not in ("granite", "phi3"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if get("rope_theta"):
        writer.add_rope_freq_base(config["rope_theta"])
    if arch == "phi3":
        writer.add_rope_dimension_count(int(config.get("partial_rotary_factor", 1.0) * hidden) // heads)
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
        writer.add_sliding_window(config.get("sliding_window") or 0)
    elif get("sliding_window") and arch in ("gemma2", "gemma3", "olmo2"):
        writer.add_sliding_window(config["sliding_window"])
    if config["model_type"] == "olmo3":
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    _scales(writer, config, arch)


def _scales(writer: gguf.GGUFWriter, config: dict[str, Any], arch: str) -> None:
    if arch == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


def byte_tokenizer(writer: gguf.GGUFWriter, checkpoint: Path, vocab: int) -> None:
    """The checkpoint's tokenizer.json, a byte-level BPE, as llama.cpp's converter writes it.

    The package leaves out empty lists, and llama.cpp wants merges: where there are none, two spaces become one token.
    """
    state = json.loads((checkpoint / "tokenizer.json").read_text())
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
    special = {token["content"] for token in state["added_tokens"]}
    known = {index: token for token, index in state["model"]["vocab"].items()}
    merges = [" ".join(pair) for pair in state["model"]["merges"]]
    if not merges:
        known[len(known)], merges = "ĠĠ", ["Ġ Ġ"]
    tokens = [known.get(index, f"[PAD{index}]") for index in range(vocab)]
    kinds = [
        gguf.TokenType.UNUSED
        if i not in known
        else gguf.TokenType.CONTROL
        if known[i] in special
        else gguf.TokenType.NORMAL
        for i in range(vocab)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index(settings["bos_token"]))
    writer.add_eos_token_id(tokens.index(settings["eos_token"]))
    if settings.get("chat_template"):
        writer.add_chat_template(settings["chat_template"])


def _add(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: Type) -> None:
    size = gguf.GGML_QUANT_SIZES[kind][0]
    if kind == Type.F32 or values.ndim == 1 or values.shape[-1] % size or "shortconv" in name:
        writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
    else:
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)
