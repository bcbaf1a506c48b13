"""generation_config.json: the same tokens as transformers' generate, and nothing that no load would take."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.errors import CheckpointError
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.pipeline import export
from edgelm.exporter.progress import Progress
from edgelm.exporter.tokenizer.text_files import read_text
from edgelm.runtime.lm import LM, load
from edgelm.runtime.sample.config import GenerationConfig, settled
from edgelm.runtime.sample.penalties import make_adjustment

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PROMPT, NEW = "the cat", 12


class Heard(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(num_hidden_layers=2)


@pytest.fixture(scope="module")
def pair(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LM, Any]]:
    bundle = export(checkpoint, "x86-64", "fp32", output=tmp_path_factory.mktemp("b") / "b")
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with load(bundle.path) as lm:
        yield lm, model


def greedy(pair: tuple[LM, Any], prompt: list[int], **rules: Any) -> tuple[list[int], list[int]]:
    """(tokens of edgelm, those of transformers) after the prompt, without an end."""
    lm, model = pair
    settings = {"eos_token_id": 2, "pad_token_id": 0, **rules}
    lm._requests.config = GenerationConfig.from_hf(settings).replace(max_tokens=NEW)
    with torch.no_grad():
        out = model.generate(
            torch.tensor([prompt]),
            generation_config=transformers.GenerationConfig.from_dict({**settings, "max_new_tokens": NEW}),
            do_sample=False,
        )
    ends = np.ravel(settings["eos_token_id"]).tolist()
    lm._requests.eos = frozenset(ends)  # as the manifest of an export with these settings has it
    theirs = out[0, len(prompt) :].tolist()
    return list(lm.generate(lm.tokenizer.decode(prompt), raw=True).tokens), theirs[:-1] if theirs[
        -1
    ] in ends else theirs


@pytest.fixture(scope="module")
def plain(pair: tuple[LM, Any]) -> tuple[list[int], list[int]]:
    """(a prompt, the tokens that follow without any rule)."""
    prompt = pair[0].tokenizer.encode(PROMPT)
    ours, theirs = greedy(pair, prompt)
    assert ours == theirs
    assert len(ours) == NEW
    return prompt, ours


RULES: dict[str, Callable[[list[int]], dict[str, Any]]] = {
    "suppress_tokens": lambda t: {"suppress_tokens": [t[0], t[3]]},
    "suppress_tokens with others": lambda t: {"suppress_tokens": [t[1], 99_999]},
    "begin_suppress_tokens": lambda t: {"begin_suppress_tokens": [t[0]]},
    "bad words of one token": lambda t: {"bad_words_ids": [[t[2]]]},
    "bad words of two": lambda t: {"bad_words_ids": [[t[1], t[2]], [7, 8, 9]]},
    "bad words with the end": lambda t: {"bad_words_ids": [[2], [t[0]]]},
    "bad words longer than the text": lambda t: {"bad_words_ids": [list(range(3, 40))]},
    "sequence_bias": lambda t: {"sequence_bias": [[[t[0]], -1e4], [[t[3], t[4]], -50.0]]},
    "no_repeat_ngram_size": lambda t: {"no_repeat_ngram_size": 2},
    "no token twice": lambda t: {"no_repeat_ngram_size": 1},
    "repetition penalty too": lambda t: {"repetition_penalty": 3.0, "suppress_tokens": [t[0]]},
    "min_new_tokens": lambda t: {"eos_token_id": [2, t[1]], "min_new_tokens": 5},
    "min_length": lambda t: {"eos_token_id": [2, t[1]], "min_length": 12},
    "forced_eos_token_id": lambda t: {"forced_eos_token_id": 2},
    "forced_eos_token_ids": lambda t: {"forced_eos_token_id": [2]},
    "empty and null": lambda t: {"suppress_tokens": [], "begin_suppress_tokens": None, "bad_words_ids": None},
}  # fmt: skip


@pytest.mark.parametrize("case", RULES)
def test_rules_of_the_model_are_kept(pair: tuple[LM, Any], plain: tuple[list[int], list[int]], case: str) -> None:
    prompt, tokens = plain
    ours, theirs = greedy(pair, prompt, **RULES[case](tokens))
    assert ours == theirs
    if case in (
        "suppress_tokens",
        "begin_suppress_tokens",
        "bad words of one token",
        "bad words of two",
        "sequence_bias",
    ):
        assert ours != tokens


def some_settings(rng: np.random.Generator, vocab: int) -> dict[str, Any]:
    """Settings of a generation_config.json, of which each is there half of the time."""
    ids = lambda n: rng.integers(3, vocab, n).tolist()  # noqa: E731
    every = {
        "sequence_bias": [[ids(1), float(rng.normal(0, 3))], [ids(2), -2.5], [ids(1), -math.inf]],
        "repetition_penalty": float(rng.choice([0.5, 1.3, 2.0])),
        "no_repeat_ngram_size": int(rng.integers(1, 4)),
        "bad_words_ids": [ids(1), ids(2), [2]],
        "min_length": int(rng.integers(0, 12)),
        "min_new_tokens": int(rng.integers(0, 5)),
        "forced_bos_token_id": ids(1)[0],
        "forced_eos_token_id": int(rng.integers(2, vocab)),
        "suppress_tokens": ids(5),
        "begin_suppress_tokens": ids(5),
    }
    return {"eos_token_id": [2, *ids(1)], **{key: value for key, value in every.items() if rng.random() < 0.5}}


@pytest.mark.parametrize("seed", range(60))
def test_logits_are_those_of_transformers(pair: tuple[LM, Any], seed: int) -> None:
    rng, vocab, most = np.random.default_rng(seed), 40, 6
    settings, prompt = some_settings(rng, vocab), int(rng.choice([1, 1, 2, 7]))
    theirs = transformers.GenerationConfig.from_dict({**settings, "max_length": prompt + most, "max_new_tokens": most})
    pair[1]._prepare_special_tokens(theirs, device="cpu")
    processors = pair[1]._get_logits_processor(theirs, prompt, torch.zeros(1, prompt), None, [], device="cpu")
    adjust = make_adjustment(GenerationConfig.from_hf(settings).replace(max_tokens=most), prompt)
    history = rng.integers(3, vocab, prompt).tolist()
    for _ in range(most):
        logits = rng.normal(0, 2, vocab).astype(np.float32)
        wanted = processors(torch.tensor([history]), torch.tensor(logits[None].copy()))[0].numpy()
        np.testing.assert_allclose(adjust(logits, history), wanted, rtol=1e-6)
        history.append(int(rng.integers(3, vocab)))


def test_a_forced_first_token(pair: tuple[LM, Any]) -> None:
    lm, _ = pair
    lm._requests.config = GenerationConfig.from_hf({"forced_bos_token_id": 40}).replace(max_tokens=3)
    assert lm.generate("a", raw=True).tokens[0] == 40
    assert lm.generate("ab", raw=True, speculate="off").tokens[0] != 40


def with_generation(
    checkpoint: Path, folder: Path, values: dict[str, Any], config: dict[str, Any] | None = None
) -> Path:
    copy = shutil.copytree(checkpoint, folder)
    (copy / "generation_config.json").write_text(json.dumps(values))
    if config is not None:
        old = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(old | config))
    return copy


SOUND: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nulls": (
        {"temperature": None, "top_k": None, "top_p": None, "repetition_penalty": None, "do_sample": None, "max_new_tokens": None,
         "stop_strings": None, "eos_token_id": None, "min_p": None, "no_repeat_ngram_size": None},
        {"temperature": 0.0, "top_k": 0},
    ),
    "nulls of a model that samples": ({"do_sample": True, "temperature": None, "top_k": None}, {"temperature": 1.0, "top_k": 50}),
    "top_k -1 without sampling": ({"top_k": -1}, {"top_k": 0}),
    "top_p 0 without sampling": ({"do_sample": False, "top_p": 0, "temperature": -1.0}, {"top_p": 1.0}),
    "top_p 2 without sampling": ({"top_p": 2.0, "min_p": -1}, {"top_p": 1.0, "min_p": 0.0}),
    "top_k -1 with sampling": ({"do_sample": True, "top_k": -1}, {"top_k": 0, "temperature": 1.0}),
    "top_p 0 with sampling": ({"do_sample": True, "top_p": 0.0}, {"top_k": 1, "top_p": 1.0}),
    "a temperature of 0": ({"temperature": 0.0}, {"temperature": 0.0}),
    "one stop string": ({"stop_strings": "END"}, {"stop": ("END",)}),
}  # fmt: skip


@pytest.mark.parametrize("case", SOUND)
def test_what_means_nothing_is_left_out(checkpoint: Path, tmp_path: Path, case: str) -> None:
    values, expected = SOUND[case]
    bundle = export(with_generation(checkpoint, tmp_path / "c", values), "x86-64", "fp32", output=tmp_path / "b")
    with load(bundle.path) as lm:
        assert {name: getattr(lm._requests.config, name) for name in expected} == expected
        assert lm.generate("a", max_tokens=1).finish_reason in ("length", "stop")
    assert None not in bundle.generation_config.values()


BAD: dict[str, dict[str, Any]] = {
    "top_p": {"do_sample": True, "top_p": 1.5},
    "temperature": {"do_sample": True, "temperature": -1},
    "repetition_penalty": {"repetition_penalty": 0},
    "max_new_tokens": {"max_new_tokens": 0},
    "stop_strings": {"stop_strings": ["a", ""]},
    "do_sample": {"do_sample": "yes"},
    "suppress_tokens": {"suppress_tokens": "all"},
    "bad_words_ids": {"bad_words_ids": [[300]]},
    "sequence_bias": {"sequence_bias": {"a": 1}},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": -1},
    "forced_bos_token_id": {"forced_bos_token_id": 300},
}


@pytest.mark.parametrize("key", BAD)
def test_what_no_load_would_take_is_met_at_export(checkpoint: Path, tmp_path: Path, key: str) -> None:
    copy = with_generation(checkpoint, tmp_path / "c", BAD[key])
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {key}"):
        export(copy, "x86-64", "fp32", output=tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("key", ["typical_p", "penalty_alpha", "num_beams", "exponential_decay_length_penalty"])
def test_rules_that_are_not_known_are_told(key: str) -> None:
    value: Any = [5, 1.1] if key.startswith("exp") else 4
    assert settled({key: value})[1] == [
        f"generation_config.json: {key} {value!r} is passed over: edgelm has no such rule"
    ]
    assert settled({"typical_p": 1.0, "penalty_alpha": 0, "num_beams": 1, "guidance_scale": None})[1] == []


@pytest.mark.parametrize(
    ("generation", "told"),
    [
        ({"max_length": 20}, True),
        ({"max_length": 128}, False),
        ({"max_length": 20, "max_new_tokens": 9}, False),
        ({"max_length": None}, False),
        ({}, False),
    ],
)
def test_a_length_in_all_is_told(checkpoint: Path, tmp_path: Path, generation: dict[str, Any], told: bool) -> None:
    copy = with_generation(checkpoint, tmp_path / "c", generation)
    remarks = read_text(copy, Config(json.loads((copy / "config.json").read_text()), copy / "config.json")).remarks
    assert [remark for remark in remarks if "max_length 20 is passed over" in remark] == list(remarks)
    assert bool(remarks) == told


ENDS: dict[str, tuple[dict[str, Any], dict[str, Any], list[int]]] = {
    "only in text_config": ({}, {"eos_token_id": None, "text_config": {"eos_token_id": [2, 1]}}, [2, 1]),
    "null in generation_config": ({"eos_token_id": None}, {"eos_token_id": [2, 0]}, [2, 0]),
    "an end of turn in text_config": ({"eos_token_id": 2}, {"text_config": {"eos_token_id": [2, 0]}}, [2, 0]),
    "an end of turn in config.json": ({"eos_token_id": [0]}, {"eos_token_id": [1, 2]}, [0, 2, 1]),
    "a class's default, another token here": ({"eos_token_id": [2]}, {"eos_token_id": 100}, [2]),
    "an id beyond the vocabulary": ({"eos_token_id": [2, 300]}, {}, [2]),
    "the tokenizer's alone": ({}, {"eos_token_id": None}, [2]),
    "an empty list": ({"eos_token_id": []}, {"eos_token_id": 0}, [0, 2]),
}


@pytest.mark.parametrize("case", ENDS)
def test_how_a_text_ends(checkpoint: Path, tmp_path: Path, case: str) -> None:
    generation, config, expected = ENDS[case]
    copy = with_generation(checkpoint, tmp_path / "c", generation, config)
    text = read_text(copy, Config(json.loads((copy / "config.json").read_text()), copy / "config.json"))
    assert text.special.eos == tuple(expected)
    assert bool(text.remarks) == ("beyond" in case)


@pytest.mark.parametrize("role", ["bos", "pad"])
def test_bos_and_pad_in_text_config(checkpoint: Path, tmp_path: Path, role: str) -> None:
    key = f"{role}_token_id"
    copy = with_generation(checkpoint, tmp_path / "c", {key: None}, {key: None, "text_config": {key: 2}})
    config = Config(json.loads((copy / "config.json").read_text()), copy / "config.json")
    assert getattr(read_text(copy, config).special, role) == 2
    beyond = Config({**config.values, key: 5000}, config.path)
    assert getattr(read_text(copy, beyond).special, role) == 2


def test_no_end_at_all_is_told(checkpoint: Path, tmp_path: Path) -> None:
    copy = with_generation(checkpoint, tmp_path / "c", {}, {"eos_token_id": None})
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    heard = Heard()
    bundle = export(copy, "x86-64", "fp32", output=tmp_path / "b", progress=heard)
    assert any("how a text ends" in line for line in heard.lines)
    assert bundle.manifest.special_tokens.eos == ()


@pytest.mark.parametrize("stop", ["</s>", "</", "s>"])
def test_a_special_token_as_a_stop_string(checkpoint: Path, pair: tuple[LM, Any], tmp_path: Path, stop: str) -> None:
    settings = {"stop_strings": [stop, "none"], "suppress_tokens": [], "eos_token_id": 1}
    pair[0]._requests.config = GenerationConfig()
    for lm in (
        pair[0],
        load(
            export(
                with_generation(checkpoint, tmp_path / "c", settings),
                target="x86-64",
                quant="fp32",
                output=tmp_path / "b",
            ).path
        ),
    ):
        lm._requests.eos, lm._requests.config = frozenset(), lm.config.replace(max_tokens=4)
        given = {} if lm is not pair[0] else {"stop": stop}
        done = lm.generate("a", raw=True, logit_bias={2: 1e4}, **given)
        assert (done.text, done.tokens, done.finish_reason) == ("", (2,), "stop")
