"""What config.json claims against what the file holds: logits are those of transformers, or the export says no."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import close, load_model, reference, some_ids
from safetensors.numpy import load_file, save_file

from edgelm.bundle.reader import Bundle
from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter import families
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.pipeline import export
from edgelm.exporter.progress import Progress
from edgelm.exporter.sizing.context import context_limit
from edgelm.runtime.engine import Engine

Make = Callable[..., Path]
SMALL = {"num_hidden_layers": 2}


class Heard(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def changed(
    source: Path,
    folder: Path,
    config: Mapping[str, Any] | None = None,
    tensors: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda all_of_them: all_of_them,
    *,
    without: tuple[str, ...] = (),
) -> Path:
    """A copy of a checkpoint with other keys in its config.json, and other tensors."""
    copy = shutil.copytree(source, folder)
    values = json.loads((copy / "config.json").read_text()) | dict(config or {})
    (copy / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k not in without}))
    save_file(tensors(load_file(copy / "model.safetensors")), copy / "model.safetensors", {"format": "pt"})
    return copy


def check(bundle: Bundle, checkpoint: Path, count: int = 60) -> None:
    """The bundle's logits are transformers'."""
    ids = some_ids(count)
    close(Engine.load(bundle).forward(ids, count), reference(load_model(checkpoint), ids))


def export_plain(checkpoint: Path, output: Path, **options: Any) -> Bundle:
    return export(checkpoint, "x86-64", "fp32", output=output, exporter="native", **options)


TABLES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "llama that says tied": ({}, {"tie_word_embeddings": True}, ()),
    "qwen2 that says tied": ({"kind": "qwen2"}, {"tie_word_embeddings": True}, ()),
    "gemma, tied unless the file says": ({"kind": "gemma", "head_dim": 16}, {}, ("tie_word_embeddings",)),
    "smollm3, tied unless the file says": ({"kind": "smollm3"}, {}, ("tie_word_embeddings",)),
    "gpt_neox": ({"kind": "gpt_neox"}, {"tie_word_embeddings": True}, ()),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_head_of_its_own_is_kept_whatever_is_claimed(tiny_checkpoint: Make, tmp_path: Path, case: str) -> None:
    shape, config, without = TABLES[case]
    apart = tiny_checkpoint(**{**SMALL, "pad_token_id": 0, "tie_word_embeddings": False, **shape})
    bundle = export_plain(
        changed(apart, tmp_path / "c", config, without=without), tmp_path / "b", progress=(h := Heard())
    )
    check(bundle, apart)
    assert not bundle.manifest.graph.tied
    assert any("another matrix" in line for line in h.lines) == bool(config)


def test_a_head_that_is_the_embedding_is_stored_once(tiny_checkpoint: Make, tmp_path: Path) -> None:
    tied = tiny_checkpoint(**SMALL, tie_word_embeddings=True)

    def with_head(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].copy()}

    bundle = export_plain(changed(tied, tmp_path / "c", tensors=with_head), tmp_path / "b")
    check(bundle, tied)
    assert bundle.manifest.graph.tied


def test_one_bit_of_the_head_is_enough_to_tell(tiny_checkpoint: Make, tmp_path: Path) -> None:
    tied = tiny_checkpoint(**SMALL, tie_word_embeddings=True)

    def almost(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        head = tensors["model.embed_tokens.weight"].copy()
        head[-1, -1] = np.nextafter(head[-1, -1], np.float32(9))
        return {**tensors, "lm_head.weight": head}

    assert not families.describe(Checkpoint(changed(tied, tmp_path / "c", tensors=almost)).config).tied


def mistral(layer_types: list[str] | None = None, **config: Any) -> dict[str, Any]:
    return {
        "kind": "ministral",
        "head_dim": 16,
        "num_hidden_layers": 4,
        "sliding_window": 8,
        "layer_types": layer_types,
        **config,
    }


FULL, SLIDING = "full_attention", "sliding_attention"
WINDOWS: dict[str, tuple[list[str], dict[str, Any], tuple[str, ...]]] = {
    "layer_types": ([FULL, SLIDING, SLIDING, SLIDING], {}, ()),
    "layer_types, all full": ([FULL] * 4, {}, ()),
    "a list of windows": ([FULL, SLIDING, FULL, SLIDING], {"sliding_window": [None, 8, None, 8]}, ("layer_types",)),
    "a list that repeats": ([SLIDING, FULL, SLIDING, FULL], {"sliding_window": [8, None]}, ("layer_types",)),
    "interleaved windows": (
        [FULL, SLIDING, FULL, SLIDING],
        {"sliding_window": None, "interleaved_sliding_window": [None, 8]},
        ("layer_types",),
    ),
    "windows as long as the context": (
        [FULL, SLIDING, FULL, SLIDING],
        {"sliding_window": [128, 8, 128, 8]},
        ("layer_types",),
    ),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_a_mistral_has_the_windows_that_its_layers_name(tiny_checkpoint: Make, tmp_path: Path, case: str) -> None:
    types, config, without = WINDOWS[case]
    checkpoint = tiny_checkpoint(**mistral(types))
    copy = changed(checkpoint, tmp_path / "c", {"model_type": "mistral", **config}, without=without)
    check(export_plain(copy, tmp_path / "b"), checkpoint)


def test_layer_types_of_phi3(tiny_checkpoint: Make, tmp_path: Path) -> None:
    full = tiny_checkpoint("phi3", **SMALL, sliding_window=None, pad_token_id=0)
    copy = changed(full, tmp_path / "c", {"sliding_window": 8, "layer_types": [FULL] * 2})
    check(export_plain(copy, tmp_path / "b"), full)


def test_a_pattern_in_letters(tiny_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(
        "exaone4", num_hidden_layers=4, sliding_window=8, layer_types=[SLIDING, FULL, SLIDING, FULL], pad_token_id=0
    )
    copy = changed(checkpoint, tmp_path / "c", {"sliding_window_pattern": "LG"}, without=("layer_types",))
    check(export_plain(copy, tmp_path / "b"), checkpoint)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
ROPES: dict[str, dict[str, Any]] = {
    "an empty rope_scaling": {"rope_scaling": {}, "rope_parameters": {**YARN, "rope_theta": 5000.0}},
    "a rope_scaling of nulls": {"rope_scaling": {"rope_type": None}, "rope_parameters": {**YARN, "rope_theta": 5000.0}},
    "null": {"rope_scaling": None, "rope_parameters": {**YARN, "rope_theta": 5000.0}},
    "one that says default": {
        "rope_scaling": {"rope_type": "default"},
        "rope_parameters": {**YARN, "rope_theta": 5000.0},
    },
    "empty rope_parameters": {"rope_scaling": YARN, "rope_parameters": {}, "rope_theta": 5000.0},
    "the base alone in rope_parameters": {
        "rope_scaling": YARN,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    },
    "the base in rope_scaling": {"rope_scaling": {**YARN, "rope_theta": 5000.0}, "rope_theta": None},
    "the old name of the type": {
        "rope_scaling": {**{k: v for k, v in YARN.items() if k != "rope_type"}, "type": "yarn", "rope_type": None},
        "rope_theta": 5000.0,
    },
}


@pytest.mark.parametrize("case", ROPES)
def test_a_scaled_rotary_embedding_by_whatever_key(tiny_checkpoint: Make, tmp_path: Path, case: str) -> None:
    checkpoint = tiny_checkpoint(**SMALL, rope_scaling=YARN, rope_theta=5000.0)
    copy = changed(checkpoint, tmp_path / "c", {"rope_theta": None, **ROPES[case]})
    check(export_plain(copy, tmp_path / "b"), checkpoint)


def test_an_empty_text_config_says_nothing(tiny_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("gemma3_text", **SMALL, head_dim=16, query_pre_attn_scalar=24, pad_token_id=0)
    check(export_plain(changed(checkpoint, tmp_path / "c", {"text_config": {}}), tmp_path / "b"), checkpoint)


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 512),
        ({"type": "linear", "factor": 2.0}, 256),
        (YARN | {"factor": 8.0}, 256),
        ({"rope_type": "yarn", "factor": 4.0}, 512),
        ({"rope_type": "dynamic", "factor": 2.0}, 256),
        ({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}, 128),
    ],
)  # fmt: skip
def test_contexts_reach_as_far_as_the_scaling(
    tiny_checkpoint: Make, tmp_path: Path, scaling: dict[str, Any], context: int
) -> None:
    checkpoint = changed(tiny_checkpoint(**SMALL), tmp_path / "c", {"rope_scaling": scaling})
    config = Checkpoint(checkpoint).config
    assert families.describe(config).context_limit == context_limit(config) == context


def test_logits_beyond_max_position_embeddings(tiny_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(**SMALL, rope_scaling={"rope_type": "linear", "factor": 4.0})
    check(export_plain(checkpoint, tmp_path / "b", context=400), checkpoint, 300)


def test_gemma3_counts_its_stretch() -> None:
    text = {"num_hidden_layers": 2, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "vocab_size": 300}
    config = Config({"model_type": "gemma3", "text_config": text}, Path("config.json"))
    assert families.describe(config).context_limit == 131_072


OTHERS: dict[str, dict[str, Any]] = {
    name: {"architectures": [name]}
    for name in (
        "LlamaForSequenceClassification",
        "LlamaForTokenClassification",
        "LlamaForQuestionAnswering",
        "LlamaForRewardModel",
        "LlamaRewardModel",
        "LlamaForProcessRewardModel",
        "LlamaBidirectionalModel",
        "LlamaForMaskedLM",
    )
} | {"is_causal": {"is_causal": False}, "bidirectional": {"use_bidirectional_attention": True}}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("exporter", ["auto", "optimum"])
def test_other_architectures_are_no_chat_models(
    tiny_checkpoint: Make, tmp_path: Path, case: str, exporter: Any
) -> None:
    copy = changed(tiny_checkpoint(**SMALL, tie_word_embeddings=True), tmp_path / "c", OTHERS[case])
    with pytest.raises(UnsupportedModelError, match=r"generates text|one token after the other"):
        export(copy, "x86-64", "fp32", output=tmp_path / "b", exporter=exporter)
    assert not (tmp_path / "b").exists()


def test_a_classifier_is_told_by_its_tensors(tiny_checkpoint: Make, tmp_path: Path) -> None:
    def score(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**tensors, "score.weight": np.ones((2, 64), np.float32)}

    tied = tiny_checkpoint(**SMALL, tie_word_embeddings=True)
    copy = changed(tied, tmp_path / "c", tensors=score, without=("architectures",))
    with pytest.raises(UnsupportedModelError, match=r"'score\.weight' in place of a head"):
        export_plain(copy, tmp_path / "b")


def test_a_model_without_a_head_is_no_tied_one(tiny_checkpoint: Make, tmp_path: Path) -> None:
    tied = tiny_checkpoint(**SMALL, tie_word_embeddings=True)
    copy = changed(tied, tmp_path / "c", {"architectures": ["LlamaModel"]}, without=("tie_word_embeddings",))
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' is missing"):
        export_plain(copy, tmp_path / "b")


@pytest.mark.parametrize(
    "architectures", [["LlamaForCausalLM"], None, [], ["Mapped", "LlamaForCausalLM"], ["GPT2LMHeadModel"]]
)
def test_language_models_by_any_name(tiny_checkpoint: Make, tmp_path: Path, architectures: Any) -> None:
    Checkpoint(changed(tiny_checkpoint(**SMALL), tmp_path / "c", {"architectures": architectures})).expect_generator()


def split(folder: Path, edit: Callable[[dict[str, np.ndarray]], None] = lambda tensors: None) -> None:
    """Two files without an index, which share some tensors; `edit` changes the second's."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[:-3]}, folder / "a.safetensors")
    second = {name: tensors[name].copy() for name in names[-8:]}
    edit(second)
    save_file(second, folder / "b.safetensors")


def test_the_same_tensor_in_two_files(tiny_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(**SMALL)
    split(copy := changed(checkpoint, tmp_path / "c"))
    check(export_plain(copy, tmp_path / "b"), checkpoint)


@pytest.mark.parametrize("kind", ["another value", "another shape", "another type", "one bit"])
def test_two_files_that_disagree(tiny_checkpoint: Make, tmp_path: Path, kind: str) -> None:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        name = min(tensors)
        match kind:
            case "another value":
                tensors[name] += 1
            case "another shape":
                tensors[name] = tensors[name].reshape(1, *tensors[name].shape)
            case "another type":
                tensors[name] = tensors[name].astype(np.float16)
            case _:
                tensors[name].view(np.uint32).flat[-1] ^= 1

    split(copy := changed(tiny_checkpoint(**SMALL), tmp_path / "c"), edit)
    with pytest.raises(CheckpointError, match=r"a\.safetensors and b\.safetensors both hold tensor"):
        export_plain(copy, tmp_path / "b")


def test_an_index_says_which_file_counts(tiny_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(**SMALL)
    copy = changed(checkpoint, tmp_path / "c")
    names = sorted(load_file(copy / "model.safetensors"))

    def edit(tensors: dict[str, np.ndarray]) -> None:
        for name in set(tensors) - set(names[-3:]):
            tensors[name] += 1

    split(copy, edit)
    table = dict.fromkeys(names[:-3], "a.safetensors") | dict.fromkeys(names[-3:], "b.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    check(export_plain(copy, tmp_path / "b"), checkpoint)


REDUNDANT: dict[str, np.ndarray] = {
    "model.layers.0.self_attn.q_proj.bias": np.zeros(64, np.float32),
    "model.layers.1.mlp.down_proj.bias": np.zeros(64, np.float16),
    "lm_head.bias": np.zeros(300, np.float32),
    "model.layers.0.self_attn.o_proj.bias": np.zeros((1, 64), np.float32),
    "model.layers.0.self_attn.rotary_emb.cos_cached": np.ones((1, 1, 128, 16), np.float32),
    "model.layers.0.self_attn.rotary_emb.sin_cached": np.ones((1, 1, 128, 16), np.float32),
    "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
    "model.rotary_emb.original_inv_freq": np.ones(8, np.float32),
    "model.layers.0.self_attn.rope.freqs": np.ones(8, np.float32),
    "model.layers.0.attn.masked_bias": np.array(-1e4, np.float32),
    "model.layers.0.self_attn.k_scale": np.array(0.5, np.float32),
    "model.layers.0.self_attn.v_scale": np.full(1, 0.25, np.float32),
    "model.layers.1.self_attn.attn.q_scale": np.ones(1, np.float32),
    "model.layers.1.self_attn.k_proj.output_scale": np.ones(1, np.float32),
    "model.layers.0.self_attn.empty": np.zeros((0, 64), np.float32),
    "model.layers.0.mlp.g_idx": np.zeros(0, np.int32),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUNDANT)
def test_what_is_redundant_is_passed_over(tiny_checkpoint: Make, tmp_path: Path, name: str) -> None:
    checkpoint = tiny_checkpoint(**SMALL)
    copy = changed(checkpoint, tmp_path / "c", tensors=lambda tensors: {**tensors, name: REDUNDANT[name]})
    check(export_plain(copy, tmp_path / "b", progress=(heard := Heard())), checkpoint)
    assert not heard.lines


FOREIGN: dict[str, np.ndarray] = {
    "model.layers.0.self_attn.q_proj.bias": np.full(64, 1e-6, np.float32),
    "lm_head.bias": np.eye(1, 300, 7, np.float32)[0],
    "model.norm.bias": np.ones(64, np.float32),
    "model.layers.0.self_attn.q_norm.weight": np.zeros(16, np.float32),
    "model.layers.2.mlp.up_proj.weight": np.zeros((96, 64), np.float32),
    "model.layers.0.mlp.up_proj.weight_scale": np.ones((96, 1), np.float32),
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FOREIGN)
def test_what_would_count_is_refused(tiny_checkpoint: Make, tmp_path: Path, name: str, tied: bool) -> None:
    checkpoint = tiny_checkpoint(**SMALL, tie_word_embeddings=tied)
    copy = changed(checkpoint, tmp_path / "c", tensors=lambda tensors: {**tensors, name: FOREIGN[name]})
    with pytest.raises(CheckpointError, match="has no place in a llama model"):
        export_plain(copy, tmp_path / "b")


def test_a_quantised_cache_of_another_runtime(tiny_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(**SMALL)
    scheme = {
        "quant_method": "compressed-tensors",
        "format": "dense",
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
    }
    copy = changed(checkpoint, tmp_path / "c", {"quantization_config": scheme})
    check(export_plain(copy, tmp_path / "b"), checkpoint)
