"""GGUF files on the command line."""

from __future__ import annotations

import json

import pytest
from gguf_file import write_gguf

from edgelm.bundle.reader import Bundle


@pytest.fixture(scope="module")
def file(tiny_checkpoint, tmp_path_factory):
    return write_gguf(tiny_checkpoint(), tmp_path_factory.mktemp("gguf") / "tiny-Q8_0.gguf", "Q8_0")


def test_export_and_run(edgelm, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = edgelm("export", file, "--target", "rpi5", "--quant", "int8", "--card", "none", "--json")
    assert (ended.code, ended.err) == (0, "")
    facts = json.loads(ended.out)
    assert facts["path"] == "bundles/tiny-Q8-0-rpi5-int8"
    model = facts["manifest"]["model"]
    assert (model["id"], model["type"], model["exporter"]) == ("tiny-Q8_0", "llama", "native")
    assert model["quantized"]["types"].keys() == {"Q8_0", "F32"}
    assert list(model["sources"]) == ["tiny-Q8_0.gguf"]
    bundle = Bundle.open(facts["path"])
    assert bundle.chat_template is not None
    assert bundle.manifest.special_tokens.eos == (2,)
    assert edgelm("run", facts["path"], "-p", "Hi", "--max-tokens", "4").code == 0


def test_inspect_tells_what_an_export_takes(edgelm, file, tmp_path):
    facts = json.loads(edgelm("inspect", file, "--target", "rpi5", "--json").out)
    assert (facts["id"], facts["type"], facts["exporter"], facts["dtype"]) == (
        "tiny-Q8_0",
        "llama",
        "native",
        "Q8_0, F32",
    )
    exported = edgelm(
        "export", file, "--target", "rpi5", "--quant", "int8", "--card", "none", "-o", tmp_path / "b", "--json"
    )
    assert json.loads(exported.out)["bytes"] == pytest.approx(
        facts["needs"]["quants"]["int8"]["bundle_bytes"], rel=0.02
    )
    assert "(checkpoint, " in edgelm("inspect", file).out


def test_estimate(edgelm, file):
    facts = json.loads(edgelm("estimate", file, "--target", "rpi4", "--json").out)
    assert (facts["model"], facts["target"], facts["fits"]) == ("tiny-Q8_0", "rpi4", True)


@pytest.mark.parametrize(
    "command", [["run", "-p", "x"], ["chat"], ["bench"], ["verify"], ["eval", "--text", "builtin"]]
)
def test_a_command_that_takes_bundles_says_what_to_do(edgelm, file, command):
    ended = edgelm(command[0], file, *command[1:])
    assert ended.code == 1
    assert f"error: {file} is a GGUF file, not a bundle" in ended.err
    assert f"hint: make one of it with: edgelm export {file} --target auto" in ended.err


@pytest.mark.parametrize("command", ["export", "inspect", "estimate"])
def test_a_damaged_file_in_one_line(edgelm, tmp_path, command):
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF\x02\x00\x00\x00" + bytes(40))
    ended = edgelm(command, path, "--target", "rpi5")
    assert ended.code == 1
    assert ended.err.splitlines()[0] == f"error: {path} is a GGUF file of version 2; edgelm reads version 3"
    assert len(ended.err.splitlines()) == 2
