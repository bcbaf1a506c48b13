"""genai_config.json: the same bundle told to onnxruntime-genai, the runtime for C++, C#, Java and Android apps.

Its reader refuses keys it does not know, so only the documented ones are written
(https://onnxruntime.ai/docs/genai/reference/config.html).
"""

from __future__ import annotations

from typing import Any

from edgelm.bundle.manifest import Graph
from edgelm.bundle.reader import MODEL
from edgelm.exporter.model.decoder import Attention, Decoder, ShortConv
from edgelm.exporter.recipe import GraphPlan
from edgelm.exporter.tokenizer.text_files import TextFiles

CONFIG = "genai_config.json"


def config(plan: GraphPlan, graph: Graph, text: TextFiles) -> dict[str, Any]:
    """The file's content.

    Args:
        plan: of the graph.
        graph: its entry in the manifest.
        text: special tokens and sampling defaults.
    """
    special_tokens = text.special_tokens
    eos = list(special_tokens.eos)
    pad = special_tokens.pad if special_tokens.pad is not None else next(iter(eos), 0)
    convs = _short_convs(plan.decoder)
    return {
        "model": {
            # Generic: the graph says all the rest. Only a cache of short convolutions has to be asked for.
            "type": "lfm2" if convs else "decoder",
            "bos_token_id": special_tokens.bos if special_tokens.bos is not None else next(iter(eos), 0),
            "eos_token_id": eos or pad,
            "pad_token_id": pad,
            "vocab_size": graph.vocab,
            "context_length": plan.context,
            "decoder": _decoder(graph, convs),
        },
        "search": _search(text.generation, plan.context),
    }


def _decoder(graph: Graph, convs: dict[str, Any]) -> dict[str, Any]:
    """The graph's shape, and what its inputs and outputs are called."""
    return {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": MODEL,
        "head_size": graph.head_dim,
        "hidden_size": graph.hidden,
        "num_attention_heads": graph.heads,
        "num_hidden_layers": graph.layers,
        "num_key_value_heads": graph.kv_heads,
        **convs,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
            **({"past_conv_names": "past_key_values.%d.conv_state"} if convs else {}),
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
            **({"present_conv_names": "present.%d.conv_state"} if convs else {}),
        },
    }


def _search(generation: dict[str, Any], context: int) -> dict[str, Any]:
    """How it samples unless a program says otherwise."""
    sampled = bool(generation.get("do_sample", False))
    return {
        "max_length": context,
        "min_length": 0,
        "do_sample": sampled,
        "temperature": float(generation.get("temperature", 1.0)) if sampled else 1.0,
        "top_k": int(generation.get("top_k", 50)) if sampled else 1,
        "top_p": float(generation.get("top_p", 1.0)) if sampled else 1.0,
        "repetition_penalty": float(generation.get("repetition_penalty", 1.0)),
        "num_beams": 1,
        "num_return_sequences": 1,
        "early_stopping": True,
        "length_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "diversity_penalty": 0.0,
        "past_present_share_buffer": True,
    }


def _short_convs(decoder: Decoder) -> dict[str, Any]:
    """Which layers are short convolutions, and how long; nothing where none is. Other states it finds by itself."""
    lengths = [part.length for part in decoder.recurrences if isinstance(part, ShortConv)]
    if not lengths:
        return {}
    kinds = ["full_attention" if isinstance(layer.attention, Attention) else "conv" for layer in decoder.layers]
    return {"layer_types": kinds, "conv_cache_size": max(lengths)}
