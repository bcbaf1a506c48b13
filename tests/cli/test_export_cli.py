"""``edgelm export``."""

from __future__ import annotations

import builtins
import json
import sys

import pytest

from edgelm.bundle.reader import Bundle
from edgelm.target.target import target_names


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return tiny_checkpoint(num_hidden_layers=1)


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch):
    """As if `edgelm[export]` were not installed."""
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.partition(".")[0] in ("onnx_ir", "safetensors", "ml_dtypes", "threadpoolctl"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("edgelm.exporter.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)


def test_an_export_ends_with_a_summary_and_the_next_command(edgelm, checkpoint, tmp_path):
    output = tmp_path / "my bundle"
    ended = edgelm("export", checkpoint, "--target", "rpi5", "-o", output)
    assert (ended.code, ended.err) == (0, "")
    bundle = Bundle.open(output)
    head, *facts = ended.out.splitlines()
    assert head.startswith(f"{output}  (")
    assert "  target       rpi5, int4" in facts
    assert "    body       MatMulNBits 4-bit block 32" in facts
    assert f"  context      {bundle.context} tokens" in facts
    assert any(line.startswith("  memory       ") and line.endswith(" usable on rpi5") for line in facts)
    assert facts[-1] == f"next: edgelm chat '{output}'"


def test_the_next_command_for_a_model_that_does_not_chat(edgelm, tiny_checkpoint, tmp_path):
    ended = edgelm("export", tiny_checkpoint(chat_template=None), "--target", "x86-64", "-o", tmp_path / "b")
    assert ended.out.endswith(f"\nnext: edgelm run {tmp_path / 'b'} 'Once upon a time'\n")


def test_json(edgelm, checkpoint, tmp_path):
    options = ["--target", "rpi4", "--quant", "fp32", "--context", "64", "-o", tmp_path / "b", "--exporter", "native"]
    facts = json.loads(edgelm("export", checkpoint, *options, "--json").out)
    bundle = Bundle.open(facts["path"])
    assert (facts["bytes"], facts["manifest"]) == (bundle.size, bundle.manifest.to_dict())
    assert (bundle.manifest.target, bundle.manifest.quant, bundle.context) == ("rpi4", "fp32", 64)
    assert facts["fits"] is True
    assert facts["usable_bytes"] > bundle.manifest.memory.total_bytes


def test_a_target_of_ones_own_that_is_too_small(edgelm, checkpoint, tmp_path, request):
    board = tmp_path / "board.toml"
    text = (request.config.rootpath / "targets" / "rpi5.toml").read_text()
    lines = ("usable_mb = 32" if line.startswith("usable_mb") else line for line in text.splitlines())
    board.write_text("\n".join(lines))
    command = ("export", checkpoint, "--target", board, "-o", tmp_path / "b")
    ended = edgelm(*command)
    assert (ended.code, ended.out) == (1, "")
    assert "rpi5 has 34 MB for a model" in ended.err
    assert "hint: no model of this vocabulary fits: the runtime alone takes " in ended.err
    assert ended.err.endswith("; --force exports it anyway\n")
    assert not (tmp_path / "b").exists()
    ended = edgelm(*command, "--force")
    assert ended.code == 0
    assert ended.err.startswith("warning: ")
    assert "rpi5 has 34 MB for a model" in ended.err


def test_an_output_that_is_there_already(edgelm, checkpoint, tmp_path):
    command = ("export", checkpoint, "--target", "rpi5", "-o", tmp_path / "b")
    assert edgelm(*command).code == 0
    ended = edgelm(*command)
    assert ended.code == 1
    assert ended.err == (
        f"error: output {tmp_path / 'b'} exists already\nhint: choose another folder with -o, or pass --overwrite\n"
    )
    assert edgelm(*command, "--overwrite").code == 0


def test_the_target_is_needed(edgelm, checkpoint):
    ended = edgelm("export", checkpoint)
    assert ended.code == 2
    assert ended.err.startswith(f"error: --target is missing: one of {', '.join(target_names())}, or a .toml file\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target", "rpi55"], "error: unknown target 'rpi55'\nhint: did you mean rpi5"),
        (["--target", "rpi5", "--quant", "int5"], "error: target rpi5 has no recipe 'int5'\nhint: "),
        (["--target", "rpi5", "--context", "0"], "error: context must be at least 1 token, not 0\n"),
        (["--target", "rpi5", "--context", "100000"], "error: context 100,000 is more than the model was made for"),
    ],
)
def test_wrong_options(edgelm, checkpoint, tmp_path, options, said):
    ended = edgelm("export", checkpoint, *options, "-o", tmp_path / "b")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(said)
    assert not (tmp_path / "b").exists()


def test_without_the_extra_it_says_what_to_install(edgelm, without_extra, checkpoint, tmp_path):
    ended = edgelm("export", checkpoint, "--target", "rpi5", "-o", tmp_path / "b")
    assert ended.code == 1
    assert ended.err.endswith(", which is not installed\nhint: pip install 'edgelm[export]'\n")
    assert ended.err.startswith("error: exporting needs ")


def test_without_the_extra_a_mistyped_bundle_is_told_as_one(edgelm, without_extra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert edgelm("inspect", "bundles/nope").err.startswith("error: bundle bundles/nope does not exist\n")


def test_a_mixed_recipe_is_shown_as_a_table_and_replayed(edgelm, checkpoint, tmp_path):
    options = ["--target", "rpi5", "--card", "none"]
    ended = edgelm("export", checkpoint, *options, "--quant", "auto", "--max-size", "90kB", "-o", tmp_path / "a")
    assert (ended.code, ended.err) == (0, "")
    facts = ended.out.splitlines()
    assert "  target       rpi5, auto" in facts
    assert any(line.startswith("    body       mixed: 4 matrices in ") for line in facts)
    head = next(number for number, line in enumerate(facts) if line.startswith("    layers' matrices"))
    assert facts[head].split() == ["layers'", "matrices", "matrices", "weights", "size"]
    assert "  chosen for   at most 90.0 kB" in facts
    table = facts[head : facts.index("  chosen for   at most 90.0 kB") + 1]
    assert set(table) <= set(edgelm("inspect", tmp_path / "a").out.splitlines())
    recipe = ["--recipe", tmp_path / "a" / "manifest.json", "-o", tmp_path / "b", "--json"]
    again = json.loads(edgelm("export", checkpoint, *options, *recipe).out)
    assert again["manifest"] == Bundle.open(tmp_path / "a").manifest.to_dict()


def test_a_budget_that_no_recipe_keeps(edgelm, checkpoint, tmp_path):
    ended = edgelm(
        "export", checkpoint, "--target", "rpi5", "--quant", "auto", "--max-size", "1kB", "-o", tmp_path / "b"
    )
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: no recipe of rpi5 keeps --max-size 0.001 MB: the smallest takes 0.")
    assert ended.err.count("\n") == 2
    assert list(tmp_path.iterdir()) == []
