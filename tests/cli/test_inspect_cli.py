"""``edgelm inspect``."""

from __future__ import annotations

import json

import pytest

from edgelm.bundle.reader import Bundle
from edgelm.exporter.pipeline import export


def test_a_bundle(edgelm, tiny_bundle):
    ended = edgelm("inspect", tiny_bundle.path)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].startswith(f"{tiny_bundle.path}  (")
    assert "  target       x86-64, fp32, cpu" in lines
    assert "    body       MatMul 32-bit" in lines
    assert "  context      128 tokens" in lines
    assert "  template     chat template" in lines
    assert "  tokens       BOS 1, EOS 2, pad none" in lines
    assert [line.split()[0] for line in lines[lines.index("") + 2 :]] == sorted(tiny_bundle.files)


def test_a_bundle_as_json(edgelm, tiny_bundle):
    facts = json.loads(edgelm("inspect", tiny_bundle.path, "--json").out)
    assert facts["manifest"] == tiny_bundle.manifest.to_dict()
    assert (facts["bytes"], facts["chat_template"]) == (tiny_bundle.size, True)


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_told_of_a_checkpoint_is_what_its_exports_say(edgelm, tiny_checkpoint, tmp_path, tied):
    checkpoint = tiny_checkpoint(tie_word_embeddings=tied)
    facts = json.loads(edgelm("inspect", checkpoint, "--target", "rpi4", "--context", "64", "--json").out)
    assert facts["exporter"] == "native"
    assert facts["shape"]["tied"] is tied
    assert facts["dtype"] == "float32"
    needs = facts["needs"]
    assert (needs["target"], needs["default"], needs["context"]) == ("rpi4", "int8", 64)
    assert needs["usable_bytes"] == 3300 << 20
    assert min(needs["host"].values()) > 0
    assert set(needs["quants"]) == {"int8", "int4", "fp16", "fp32"}
    for quant, need in needs["quants"].items():
        bundle = export(checkpoint, "rpi4", quant, output=tmp_path / quant, context=64)
        assert facts["parameters"] == bundle.manifest.model.parameters
        assert need["memory"] == bundle.manifest.memory.to_dict()
        assert need["fits"] is True
        assert bundle.size <= need["disk_bytes"]


def test_a_checkpoint(edgelm, tiny_checkpoint):
    checkpoint = tiny_checkpoint()
    lines = edgelm("inspect", checkpoint).out.splitlines()
    assert lines[0].startswith(f"{checkpoint}  (checkpoint, ")
    assert f"  model        {checkpoint.name} (llama, native export)" in lines
    assert "  shape        3 layers, hidden size 64, vocabulary 300, 4 heads and 2 KV heads of 16" in lines
    assert "  exported for rpi5 with a context of 128 tokens:" in lines
    head, first = lines[lines.index("  exported for rpi5 with a context of 128 tokens:") + 1 :][:2]
    assert head.split() == [
        "bundle",
        "weights",
        "KV",
        "cache",
        "other",
        "on",
        "device",
        "fits",
        "host",
        "memory",
        "host",
        "disk",
    ]
    assert first.startswith("    int4 (default)  ")
    assert " yes " in first
    assert "  for a model  7.34 GB on rpi5" in lines


def test_a_checkpoint_without_a_native_family(edgelm, tiny_checkpoint):
    checkpoint = tiny_checkpoint("bloom")
    ended = edgelm("inspect", checkpoint)
    assert ended.code == 0
    assert "(bloom, no native family: exported through Optimum)" in ended.out
    assert "  exported for rpi5 with a context of 128 tokens, estimated:" in ended.out
    facts = json.loads(edgelm("inspect", checkpoint, "--json").out)
    assert facts["needs"]["quants"]["int4"]["host_bytes"] > facts["parameters"] * 4


def test_a_context_beyond_the_models(edgelm, tiny_checkpoint):
    ended = edgelm("inspect", tiny_checkpoint(), "--context", "129")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: context 129 is more than the model was made for (128 tokens)\n")


def test_a_checkpoint_that_does_not_fit(edgelm, tiny_checkpoint, tmp_path, request):
    board = tmp_path / "board.toml"
    text = (request.config.rootpath / "targets" / "rpi5.toml").read_text()
    lines = ("usable_mb = 32" if line.startswith("usable_mb") else line for line in text.splitlines())
    board.write_text("\n".join(lines))
    ended = edgelm("inspect", tiny_checkpoint(), "--target", board)
    assert ended.code == 0
    assert ended.out.count("  no ") == 4


def test_neither(edgelm, tmp_path):
    ended = edgelm("inspect", tmp_path)
    assert ended.code == 1
    assert ended.err.startswith(f"error: {tmp_path} is not a bundle: it has no manifest.json\nhint: ")
    assert edgelm("inspect", "nope").err.startswith("error: bundle nope does not exist\n")


def test_a_damaged_bundle(edgelm, tiny_bundle, tmp_path):
    import shutil

    copy = Bundle.open(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    (copy.path / "tokenizer.json").write_text("{}")
    ended = edgelm("inspect", copy.path)
    assert ended.code == 1
    assert ended.err.startswith(f"error: {copy.path / 'tokenizer.json'} is truncated: 2 bytes, expected ")
