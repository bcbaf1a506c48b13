"""Readers of the smaller files of a checkpoint: how it is quantised, pooled, cut into files, and what its adapter is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reader import Reader, dumped

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
POOLING = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
PROMPTS = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query", "similarity_fn_name": None}
QUANTISED: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "checkpoint_format": "gptq"},
    "awq": {"quant_method": "awq", "w_bit": 4, "q_group_size": 32, "version": "gemm", "zero_point": True},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "kv_cache_scheme": None,
        "config_groups": {
            "group_0": {
                "weights": {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": True},
                "targets": ["x"],
            }
        },
    },
}
ADAPTER = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "rank_pattern": {"layers.0.*": 2},
    "alpha_pattern": {"q_proj": 8},
    "base_model_name_or_path": "a/b",
    "init_lora_weights": True,
    "fan_in_fan_out": False,
    "use_rslora": False,
}


def _read_modules(path: Path) -> None:
    from edgelm.exporter.checkpoint.sentence_transformers import read_embedding

    folder = path.parent if path.parent.name != "1_Pooling" else path.parents[1]
    for name, content in (("modules.json", MODULES), ("1_Pooling/config.json", POOLING)):
        if not (folder / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(dumped(content)(folder))
    read_embedding(folder)


def _read_scheme(path: Path) -> None:
    from edgelm.exporter.checkpoint.config import Config, read_json
    from edgelm.exporter.checkpoint.prequantized import read_scheme

    scheme = read_scheme(Config(read_json(path), path))
    if scheme is not None:
        assert scheme.columns(64) > 0
        scheme.block(64)


def _read_adapter_config(path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    from edgelm.exporter.checkpoint.config import Config
    from edgelm.exporter.checkpoint.lora import Adapter
    from edgelm.exporter.checkpoint.tensors import read_header

    prefix, name = "base_model.model.", "model.layers.0.self_attn.q_proj"
    weights, model = path.with_name("adapter_model.safetensors"), path.with_name("base.safetensors")
    if not weights.exists():
        factors = {"A": np.ones((2, 8), np.float32), "B": np.ones((8, 2), np.float32)}
        save_file({f"{prefix}{name}.lora_{part}.weight": value for part, value in factors.items()}, weights)
        save_file({f"{name}.weight": np.ones((8, 8), np.float32)}, model)
    adapter = Adapter.open(path.parent)
    tensors, _ = adapter.merge(read_header(model), Config({}, path), lambda key: key)
    tensors[f"{name}.weight"].read()
    adapter.facts()


def _read_index(path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    from edgelm.exporter.checkpoint.checkpoint import Checkpoint

    for number in (1, 2):
        file = path.with_name(f"model-0000{number}-of-00002.safetensors")
        if not file.exists():
            save_file({"shared": np.ones(4, np.float32), f"w{number}": np.ones(4, np.float32)}, file)
    path.with_name("config.json").write_text('{"model_type": "llama"}')
    Checkpoint(path.parent).names()


def _read_older_tokens(path: Path) -> None:
    from edgelm.exporter.checkpoint.config import Config
    from edgelm.exporter.tokenizer.added_tokens import AddedTokens
    from edgelm.exporter.tokenizer.tokenizer_class import tokenizer_class

    AddedTokens.read(path.parent, {}, tokenizer_class({}, Config({"model_type": "llama"}, path)))


def _read_processor(path: Path) -> None:
    from edgelm.exporter.tokenizer.templates import read_templates

    read_templates(path.parent, {})


CHECKPOINT_READERS = {
    "modules": Reader("modules.json", dumped(MODULES), _read_modules, json=True),
    "pooling": Reader("1_Pooling/config.json", dumped(POOLING), _read_modules, json=True),
    "prompts": Reader("config_sentence_transformers.json", dumped(PROMPTS), _read_modules, json=True),
    **{
        f"{method} config": Reader(
            "config.json", dumped({"model_type": "llama", "quantization_config": config}), _read_scheme, json=True
        )
        for method, config in QUANTISED.items()
    },
    "adapter config": Reader("adapter_config.json", dumped(ADAPTER), _read_adapter_config, json=True),
    "index": Reader(
        "model.safetensors.index.json",
        dumped(
            {
                "metadata": {"total_size": 48},
                "weight_map": {f"w{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)},
            }
        ),
        _read_index,
        json=True,
    ),
    "added tokens": Reader("added_tokens.json", dumped({"<|x|>": 300, "<|y|>": 301}), _read_older_tokens, json=True),
    "special tokens": Reader(
        "special_tokens_map.json",
        dumped({"bos_token": {"content": "<s>", "lstrip": False}, "additional_special_tokens": ["<|x|>"]}),
        _read_older_tokens,
        json=True,
    ),
    "processor": Reader(
        "processor_config.json",
        dumped({"chat_template": [{"name": "default", "template": "{{ x }}"}, {"name": "tool_use", "template": "y"}]}),
        _read_processor,
        json=True,
    ),
}
