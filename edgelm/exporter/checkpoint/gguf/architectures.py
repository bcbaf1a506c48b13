"""What llama.cpp calls the architectures that edgelm knows, and what a config.json says in their place.

Tensor names, and what is done to weights on their way into a GGUF file, follow llama.cpp's convert_hf_to_gguf.py
(https://github.com/ggml-org/llama.cpp), and are undone here; so families read both kinds of files alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgelm.errors import UnsupportedModelError
from edgelm.exporter.checkpoint.gguf.metadata import Metadata
from edgelm.exporter.checkpoint.gguf.rope import rope_scaling

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_POST_NORMS = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
_GEMMA = {**_LAYER, **_POST_NORMS, "ffn_norm": "pre_feedforward_layernorm"}
_BLOCK = re.compile(r"blk\.(\d+)\.([a-z_.]+?)\.(weight|bias)")


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's architectures as a Hugging Face checkpoint.

    Attributes:
        model_type: of config.json.
        config: the other keys of config.json, from the metadata and the tensors' names.
        top, layer: modules outside and inside of layers → modules of the checkpoint.
        layers: what the checkpoint calls the list of layers.
        rotated: whether rows of queries and keys are in llama.cpp's order.
        norm_offset: what was added to norms.
        by_columns: modules of a layer whose matrix the checkpoint has transposed.
    """

    model_type: str
    config: Callable[[Metadata, frozenset[str]], dict[str, Any]]
    top: Mapping[str, str] = field(default_factory=lambda: _TOP)
    layer: Mapping[str, str] = field(default_factory=lambda: _LAYER)
    layers: str = "model.layers"
    rotated: bool = False
    norm_offset: float = 0.0
    by_columns: frozenset[str] = frozenset()

    def rename(self, name: str) -> str | None:
        """What the checkpoint calls a tensor; None for one it does not have."""
        if found := _BLOCK.fullmatch(name):
            index, module, part = found.groups()
            return f"{self.layers}.{index}.{self.layer[module]}.{part}" if module in self.layer else None
        module, _, part = name.rpartition(".")
        return f"{self.top[module]}.{part}" if module in self.top else None


def _common(data: Metadata, tensors: frozenset[str]) -> dict[str, Any]:
    """What nearly all architectures have."""
    layers = data.layers(tensors)
    heads = data.integer("attention.head_count")
    kv_heads = [count for count in data.per_layer("attention.head_count_kv", layers, heads) if count]
    if not kv_heads:
        raise UnsupportedModelError(
            f"{data.path}: no layer has key/value heads", hint="take a model with attention in some of its layers"
        )
    if len(set(kv_heads)) > 1:
        raise UnsupportedModelError(
            f"{data.path}: layers with different numbers of key/value heads cannot be exported",
            hint="take a model whose layers are alike",
        )
    hidden = data.integer("embedding_length")
    return {
        "hidden_size": hidden,
        "intermediate_size": data.integer("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads[0],
        "head_dim": data.integer("attention.key_length", hidden // heads),
        "max_position_embeddings": data.integer("context_length"),
        "rope_theta": data.number("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_down.bias" in tensors,
    }


def _rms(data: Metadata, tensors: frozenset[str]) -> dict[str, Any]:
    eps = data.number("attention.layer_norm_rms_epsilon")
    return {**_common(data, tensors), "rms_norm_eps": eps, **rope_scaling(data)}


def _llama(data: Metadata, tensors: frozenset[str]) -> dict[str, Any]:
    if data.integer("expert_count", 0, least=0):
        raise UnsupportedModelError(
            f"{data.path}: a mixture of experts cannot be exported", hint="take a model without experts"
        )
    return _rms(data, tensors)


def _qwen2(data: Metadata, tensors: frozenset[str]) -> dict[str, Any]:
    return {**_rms(data, tensors), "use_sliding_window": False}


def _granite(data: Metadata, tensors: frozenset[str]) -> dict[str, Any]:
    scales = {
        "attention_multiplier": "attention.scale",
        "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale",
        "logits_scaling": "logit_scale",
    }
    values = _llama(data, tensors)
    defaults = {"attention_multiplier": values["head_dim"] ** -0.5}
    return values | {name: data.number(key, defaults.get(name, 1.0)) for name, key in scales.items()}


def _smollm3(data: Metadata, tensors: frozenset[str]) -> dict[str, Any]:
    return {**_llama(data, tensors), "no_rope_layer_interval": 4, "use_sliding_window": False}


def _gemma(data: Metadata, tensors: frozenset[str]) -> dict[str, Any]:
    return {**_rms(data, tensors), "hidden_activation": "gelu_pytorch_tanh"}


def _gemma2(data: Metadata, tensors: frozenset[str], *, largest: int = 46) -> dict[str, Any]:
    """Gemma 2; the largest has another scale of scores than the size of a head, which no file says."""
    values = _gemma(data, tensors)
    heads = values["num_attention_heads"]
    scalar = values["hidden_size"] // heads if values["num_hidden_layers"] == largest else values["head_dim"]
    caps = {
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    }
    values |= {name: data.number(key) if data.has(key) else None for name, key in caps.items()}
    return {**values, "query_pre_attn_scalar": scalar, "sliding_window": data.integer("attention.sliding_window", 4096)}


def _gemma3(data: Metadata, tensors: frozenset[str]) -> dict[str, Any]:
    values = _gemma2(data, tensors, largest=62)
    layers, pattern = values["num_hidden_layers"], 6
    types = ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(layers)]
    if not data.has("attention.sliding_window"):
        types = ["full_attention"] * layers
    return {**values, "layer_types": types, "rope_local_base_freq": data.number("rope.freq_base_swa", 10000.0)}


def _phi3(data: Metadata, tensors: frozenset[str]) -> dict[str, Any]:
    values = _rms(data, tensors)
    rotated = data.integer("rope.dimension_count", values["head_dim"])
    return {
        **values,
        "partial_rotary_factor": rotated / values["head_dim"],
        "sliding_window": data.integer("attention.sliding_window", 0, least=0) or None,
    }


def _stablelm(data: Metadata, tensors: frozenset[str]) -> dict[str, Any]:
    values = _common(data, tensors)
    rotated = data.integer("rope.dimension_count", values["head_dim"] // 4)
    return {
        **values,
        "layer_norm_eps": data.number("attention.layer_norm_epsilon"),
        "partial_rotary_factor": rotated / values["head_dim"],
        "use_parallel_residual": data.flag(data.full("use_parallel_residual"), False)
        and "blk.0.ffn_norm.weight" not in tensors,
        "use_qkv_bias": "blk.0.attn_q.bias" in tensors,
        "qk_layernorm": "blk.0.attn_q_norm.weight" in tensors,
    }


def _olmo2(data: Metadata, tensors: frozenset[str]) -> dict[str, Any]:
    values = _rms(data, tensors)
    if not data.has("attention.sliding_window"):
        return values
    layers = values["num_hidden_layers"]
    default = [(i + 1) % 4 != 0 for i in range(layers)]
    slides = data.numbers(data.full("attention.sliding_window_pattern"), layers, default=np.array(default))
    types = ["sliding_attention" if slide else "full_attention" for slide in slides]
    window = data.integer("attention.sliding_window")
    return {**values, "model_type": "olmo3", "sliding_window": window, "layer_types": types}


def _gpt2(data: Metadata, tensors: frozenset[str]) -> dict[str, Any]:
    hidden = data.integer("embedding_length")
    return {
        "n_embd": hidden,
        "n_layer": data.layers(tensors),
        "n_head": data.integer("attention.head_count"),
        "n_inner": data.integer("feed_forward_length", 4 * hidden),
        "n_positions": data.integer("context_length"),
        "layer_norm_epsilon": data.number("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
        "tie_word_embeddings": "output.weight" not in tensors,
    }


def _lfm2(data: Metadata, tensors: frozenset[str]) -> dict[str, Any]:
    values = _rms(data, tensors)
    kv_heads = data.per_layer("attention.head_count_kv", values["num_hidden_layers"])
    return {
        **values,
        "norm_eps": values["rms_norm_eps"],
        "layer_types": ["full_attention" if count else "conv" for count in kv_heads],
        "conv_L_cache": data.integer("shortconv.l_cache"),
        "conv_bias": "blk.0.shortconv.conv.bias" in tensors,
        "block_auto_adjust_ff_dim": False,
        "tie_embedding": values["tie_word_embeddings"],
    }


_LFM2 = {
    **_LAYER,
    "attn_norm": "operator_norm",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2",
    "ffn_up": "feed_forward.w3",
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
}
_GPT2 = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_GPT2_TOP = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
# Before llama.cpp gave LFM2's last norm a name of its own, it was called as if it stood before the layers.
_LFM2_TOP = {**_TOP, "token_embd_norm": "model.embedding_norm", "output_norm": "model.embedding_norm"}
_PHI3 = {**_LAYER, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", _llama, rotated=True),
    "qwen2": Architecture("qwen2", _qwen2),
    "qwen3": Architecture("qwen3", _qwen2),
    "gemma": Architecture("gemma", _gemma, norm_offset=1.0),
    "gemma2": Architecture("gemma2", _gemma2, layer=_GEMMA, norm_offset=1.0),
    "gemma3": Architecture("gemma3_text", _gemma3, layer=_GEMMA, norm_offset=1.0),
    "phi3": Architecture("phi3", _phi3, layer=_PHI3),
    "granite": Architecture("granite", _granite, rotated=True),
    "smollm3": Architecture("smollm3", _smollm3, rotated=True),
    "olmo2": Architecture("olmo2", _olmo2, layer={**_LAYER, **_POST_NORMS}),
    "stablelm": Architecture("stablelm", _stablelm),
    "gpt2": Architecture(
        "gpt2",
        _gpt2,
        top=_GPT2_TOP,
        layer=_GPT2,
        layers="transformer.h",
        by_columns=frozenset({"attn_qkv", "attn_output", "ffn_up", "ffn_down"}),
    ),
    "lfm2": Architecture("lfm2", _lfm2, top=_LFM2_TOP, layer=_LFM2),
}
