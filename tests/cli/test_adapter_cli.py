"""``--lora-ready``, ``--adapter-only``, ``--adapter``; and ``--draft``."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgelm.exporter.pipeline import export

RAW = ("-p", "hello", "--raw", "--max-tokens", "12", "--temperature", "0", "--json")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint) -> Path:
    return tiny_checkpoint(num_hidden_layers=1)


@pytest.fixture(scope="module")
def base(checkpoint, tmp_path_factory):
    return export(checkpoint, "x86-64", "fp32", lora_ready=True, output=tmp_path_factory.mktemp("base") / "home")


@pytest.fixture(scope="module")
def peft(tmp_path_factory) -> Path:
    """A LoRA adapter of rank 2 for the queries."""
    folder = tmp_path_factory.mktemp("peft") / "lamps"
    folder.mkdir()
    chance, name = np.random.default_rng(0), "base_model.model.model.layers.0.self_attn.q_proj.lora"
    tensors = {"A": chance.normal(0, 1, (2, 64)), "B": chance.normal(0, 1, (64, 2))}
    save_file(
        {f"{name}_{key}.weight": values.astype(np.float32) for key, values in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    return folder


@pytest.fixture(scope="module")
def file(base, peft, tmp_path_factory) -> Path:
    from edgelm.exporter.lora_adapter import export_adapter

    return export_adapter(peft, base.path, output=tmp_path_factory.mktemp("files") / "lamps.safetensors")


def test_from_a_checkpoint_to_an_answer(edgelm, checkpoint, peft, tmp_path):
    path = tmp_path / "base"
    ended = edgelm("export", checkpoint, "--target", "x86-64", "--quant", "int4", "--lora-ready", "-o", path)
    assert ended.code == 0, ended.err
    assert f"edgelm export ADAPTER --adapter-only --base {path}" in ended.out
    ended = edgelm("export", peft, "--adapter-only", "--base", path)
    assert ended.code == 0, ended.err
    made = tmp_path / "base-lamps.safetensors"
    assert "lamps, rank 2, alpha 4" in ended.out
    assert f"edgelm run {path} --adapter {made}" in ended.out
    plain, adapted = (json.loads(edgelm("run", path, *RAW, *more).out) for more in ((), ("--adapter", made)))
    assert plain["text"] != adapted["text"]
    assert adapted["adapter"] == "lamps"
    assert "adapter" not in plain
    ended = edgelm("export", peft, "--adapter-only", "--base", path)
    assert (ended.code, "exists already" in ended.err) == (1, True)
    ended = edgelm("export", peft, "--adapter-only", "--base", path, "--overwrite", "--json")
    assert json.loads(ended.out)["adapter"]["rank"] == 2
    assert json.loads(ended.out)["matrices"] == 1


def test_usage(edgelm, base, peft):
    for arguments, message in (
        (("export", "--adapter-only", "--base", base.path), "--adapter-only needs an adapter's folder"),
        (("export", peft, "--adapter-only"), "--adapter-only needs an adapter's folder"),
        (("export", peft, "--adapter-only", "--base", base.path, "--quant", "int4"), "--quant does not go with"),
        (("export", peft, "--base", base.path, "--target", "rpi5"), "--base goes with --adapter-only"),
    ):
        ended = edgelm(*arguments)
        assert ended.code == 2
        assert message in ended.err


def test_inspect(edgelm, base, file, tiny_bundle):
    assert "LoRA at run time, beside 4 matrices" in edgelm("inspect", base.path).out
    assert "LoRA" not in edgelm("inspect", tiny_bundle.path).out
    assert len(json.loads(edgelm("inspect", base.path, "--json").out)["lora"]["places"]) == 4
    shown = edgelm("inspect", file).out
    assert "lamps, rank 2, alpha 4" in shown
    assert "1 matrix, 1.54 kB of memory while in use" in shown
    assert json.loads(edgelm("inspect", file, "--json").out)["adapter"]["base"] == base.lora["base"]
    damaged = file.parent / "damaged"
    damaged.write_bytes(file.read_bytes()[:-1])
    ended = edgelm("inspect", damaged)
    assert ended.code == 1
    assert "is damaged" in ended.err


def test_run_with_another_ones_adapter_is_one_line(edgelm, tiny_bundle, file):
    ended = edgelm("run", tiny_bundle.path, *RAW, "--adapter", file)
    assert ended.code == 1
    assert ended.err.startswith("error: ")
    assert "takes no adapter at run time" in ended.err
    assert "--lora-ready" in ended.err


def test_a_prompt_cache_belongs_to_the_adapter(edgelm, base, file, tmp_path):
    def cached(*more: object) -> tuple[int, str]:
        ended = edgelm("run", base.path, *RAW, "--prompt-cache", tmp_path / "cache", *more)
        assert ended.code == 0, ended.err
        return json.loads(ended.out)["timings"]["cached_tokens"], ended.err

    assert cached("--adapter", file) == (0, "")
    assert cached("--adapter", file)[0] > 0
    again, said = cached()
    assert again == 0
    assert "was saved with another bundle or adapter; it will be made anew" in said


def test_chat(edgelm, base, file, monkeypatch):
    answers = []
    for more in ((), ("--adapter", file)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\nand\n")))
        ended = edgelm("chat", base.path, "--max-tokens", "8", "--temperature", "0", *more)
        assert ended.code == 0, ended.err
        answers.append(ended.out)
    assert answers[0] != answers[1]
    ended = edgelm("chat", base.path, "--adapter", "missing")
    assert ended.code == 1
    assert "adapter missing cannot be read" in ended.err


def test_bench(edgelm, base, file, tiny_bundle):
    ended = edgelm(
        "bench", base.path, "-p", "8", "-n", "1,12", "-r", "2", "--draft", tiny_bundle.path, "--adapter", file
    )
    assert ended.code == 0, ended.err
    rows = [row.split("|")[6].strip() for row in ended.out.split("\n\n")[0].splitlines()[2:]]
    assert rows == ["pp8", "tg1", "tg12", "tg12 text", "tg12 text +draft"]
    assert "note: with the adapter lamps" in ended.err
    assert "draft tokens accepted" in ended.err
    assert edgelm("bench", tiny_bundle.path, "--adapter", file).code == 1


def test_a_draft_changes_nothing_that_is_said(edgelm, base, tiny_bundle, tmp_path, monkeypatch):
    plain = json.loads(edgelm("run", base.path, *RAW).out)
    ended = edgelm("run", base.path, *RAW, "--draft", tiny_bundle.path)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["text"] == plain["text"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\n")))
    assert edgelm("chat", base.path, "--max-tokens", "8", "--draft", tiny_bundle.path).code == 0
    ended = edgelm("run", base.path, *RAW, "--draft", tmp_path / "nothing")
    assert ended.code == 1
    assert "nothing does not exist" in ended.err
