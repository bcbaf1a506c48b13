"""``edgelm inspect``."""

from __future__ import annotations

import json

import pytest

from edgelm.bundle import Bundle
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
    assert facts["manifest"] == tiny_bundle.manifest
    assert (facts["bytes"], facts["chat_template"]) == (tiny_bundle.size, True)


@pytest.mark.parametrize("tied", [True, False])
def test_the_packed_sizes_of_a_checkpoint_are_those_of_its_exports(edgelm, tiny_checkpoint, tmp_path, tied):
    checkpoint = tiny_checkpoint(tie_word_embeddings=tied)
    facts = json.loads(edgelm("inspect", checkpoint, "--target", "rpi4", "--json").out)
    assert facts["exporter"] == "native"
    assert facts["shape"]["tied"] is tied
    assert facts["dtype"] == "float32"
    packed = facts["packed"]
    assert (packed["target"], packed["default"], set(packed["bytes"])) == (
        "rpi4",
        "int8",
        {"int8", "int4", "fp16", "fp32"},
    )
    for quant, size in packed["bytes"].items():
        bundle = export(checkpoint, "rpi4", quant, output=tmp_path / quant)
        assert facts["parameters"] == bundle.manifest["model"]["parameters"]
        data = bundle.files["model.onnx.data"]["bytes"]
        assert size <= data <= size + 64_000, "the rest are norms, rotary tables and alignment"


def test_a_checkpoint(edgelm, tiny_checkpoint):
    checkpoint = tiny_checkpoint()
    lines = edgelm("inspect", checkpoint).out.splitlines()
    assert lines[0].startswith(f"{checkpoint}  (checkpoint, ")
    assert f"  model        {checkpoint.name} (llama, native export)" in lines
    assert "  shape        3 layers, hidden size 64, vocabulary 300, 4 heads and 2 KV heads of 16" in lines
    assert "  weights as packed for rpi5:" in lines
    assert any(line.startswith("    int4       ") and line.endswith(" bits a parameter (default)") for line in lines)


def test_a_checkpoint_without_a_native_family(edgelm, tiny_checkpoint):
    checkpoint = tiny_checkpoint("opt", word_embed_proj_dim=64, ffn_dim=96)
    ended = edgelm("inspect", checkpoint)
    assert ended.code == 0
    assert "(opt, no native family: exported through Optimum)" in ended.out
    assert "packed" not in json.loads(edgelm("inspect", checkpoint, "--json").out)


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
