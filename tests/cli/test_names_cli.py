"""Models and bundles by name: ``edgelm models``, ``pull``, ``list``, ``rm``, and names where a BUNDLE or MODEL is taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serving

from edgelm.bundle.reader import Bundle
from edgelm.cli.bundles import find_bundle
from edgelm.errors import BundleError
from edgelm.exporter.checkpoint.hub import Wanted, meant
from edgelm.exporter.pipeline import export
from edgelm.target.target import load_target

ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PROMPT = ("-p", "hi", "--max-tokens", "4")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, and a home without bundles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGELM_MODELS", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def mirror(tiny_checkpoint: Callable[..., Path], here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in for the hub: a tiny model, as if it were SmolLM2's smallest."""
    folder = here / "mirror"
    folder.mkdir()
    os.symlink(tiny_checkpoint(num_hidden_layers=1), folder / "SmolLM2-135M-Instruct")
    monkeypatch.setenv("EDGELM_MIRROR", str(folder))
    return folder


@pytest.fixture
def hub(tiny_checkpoint: Callable[..., Path]) -> Iterator[Hub]:
    files = {path.name: path.read_bytes() for path in tiny_checkpoint(num_hidden_layers=1).iterdir()}
    with serving(Hub()) as hub:
        hub.publish(ID, files)
        yield hub


@pytest.fixture
def process(hub: Hub, here: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs edgelm with the server as the hub, in a home of its own: its client reads the environment once."""

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()}
        env |= {"HF_ENDPOINT": hub.url, "HOME": str(here)}
        command = [sys.executable, "-m", "edgelm", *args]
        return subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)

    return run


def test_the_table_fits_a_terminal(edgelm) -> None:
    ended = edgelm("models", "--target", "rpi5")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("tok/s: tokens a second of an answer, forecast for rpi5 with ")
    assert lines[3].split() == ["name", "size", "licence", "smallest", "tok/s", "for"]
    assert "…" not in ended.out
    assert any(line.startswith("smollm2-135m ") and "Apache-2.0" in line for line in lines)


def test_a_narrow_terminal_leaves_columns_out(edgelm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for args in (["models", "--target", "rpi5"], ["models", "smollm2-135m"], ["targets"]):
        lines = [
            line for line in edgelm(*args).out.splitlines() if ": " not in line and "on the hub" not in line
        ]  # what is told in words is wrapped by the terminal
        assert max(map(len, lines)) <= 60, args
        (row,) = [line for line in lines if line.lstrip().startswith(("smollm2-135m ", "rpi-zero2w "))]
        assert len(row.split()) >= 5


def test_one_model(edgelm) -> None:
    ended = edgelm("models", "llama-3.2-1b", "--target", "rpi4")
    assert ended.code == 0
    assert "meta-llama/Llama-3.2-1B-Instruct on the hub" in ended.out
    assert "its terms must be accepted on the hub first" in ended.out
    facts = json.loads(edgelm("models", "llama-3.2-1b", "--target", "rpi4", "--json").out)
    assert (facts["parameters"], facts["target"], facts["expected"]["quant"]) == (1235814400, "rpi4", "int8")
    assert len(json.loads(edgelm("models", "--json").out)) >= 20


def test_a_model_that_does_not_fit_has_no_speed(edgelm) -> None:
    (row,) = [r for r in edgelm("models", "--target", "rpi-zero2w").out.splitlines() if r.startswith("qwen3-4b")]
    assert row.split()[:5] == ["qwen3-4b", "4.02", "B", "Apache-2.0", "rpi5"]
    assert row.split()[5] == "thinking,"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("models", "smolm2"), "error: no model is called 'smolm2'\nhint: did you mean smollm2-"),
        (("models", "--target", "rpi6"), "error: unknown target 'rpi6'\nhint: did you mean rpi"),
        (("run", "edgelm-hom", *PROMPT), "error: bundle edgelm-hom does not exist\nhint: did you mean edgelm-home?\n"),
        (("run", "bundles/none", *PROMPT), "error: bundle bundles/none does not exist\nhint: make one with: edgelm "),
        (("run", "./smollm2-135m", *PROMPT), "error: bundle ./smollm2-135m does not exist\n"),
        (
            ("chat", "bundles/smollm2-135m-rpi4-int4"),
            "error: bundle bundles/smollm2-135m-rpi4-int4 does not exist\n"
            "hint: make it with: edgelm export smollm2-135m --target rpi4 --quant int4\n",
        ),
        (("verify", "edgelm-home"), "error: edgelm-home was not exported for this machine yet\nhint: to fetch and export the model: edgelm pull edgelm-home\n"),
        (("rm", "edgelm-home"), "error: no bundle is called edgelm-home in "),
        (("pull", "nonsense"), "error: nonsense is no model's name\nhint: see edgelm models: "),
        (("pull", "edgelm-home", "--quant", "int3"), "error: target "),
        (("pull", "edgelm-home", "--from", "nowhere"), "error: --from nowhere is not a folder\n"),
        (("export", "smolm2-135m", "--target", "auto"), "error: checkpoint smolm2-135m does not exist\nhint: did you mean smollm2-135m"),
    ],
)  # fmt: skip
def test_what_is_no_name(edgelm, args, said) -> None:
    ended = edgelm(*args)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(said)


def test_the_embedded_model_is_exported_once(edgelm, here: Path) -> None:
    first = edgelm("run", "edgelm-home", *PROMPT)
    name = f"edgelm-home-{load_target('auto').name}-int4"
    assert first.code == 0
    assert first.err == (
        f"note: exporting edgelm-home for this machine ({load_target('auto').name}, int4), once, into "
        f"{here / 'store' / name}\n"
    )
    second = edgelm("run", name, *PROMPT)
    assert second == (0, first.out, "")
    (row,) = json.loads(edgelm("list", "--json").out)["bundles"]
    assert (row["name"], row["model"], row["quant"]) == (name, "edgelm-home", "int4")
    assert name in edgelm("list").out
    measured = json.loads(edgelm("bench", name, "-p", 8, "-n", 4, "-r", 1, "--no-sensors", "--json").out)
    assert [row["test"] for row in measured["results"]] == ["pp8", "tg4"]
    assert "  exported" not in edgelm("inspect", "edgelm-home").out  # the bundle; the checkpoint's table has a target
    assert "exported for rpi4" in edgelm("inspect", "edgelm-home", "--target", "rpi4").out
    assert json.loads(edgelm("estimate", name, "--json").out)["model"] == "edgelm-home"
    assert edgelm("verify", "edgelm-home").code == 0
    assert edgelm("eval", "edgelm-home", "--task", "home", "--limit", "2", "--json").err == ""
    assert edgelm("doctor", "--bundle", "edgelm-home", "--json").err == ""
    assert edgelm("rm", "edgelm-home").out.startswith(f"removed {name}, ")
    assert edgelm("list").out.startswith("no bundles yet\n")


def test_a_model_of_the_hub(process, hub: Hub, here: Path) -> None:
    ended = process("run", "smollm2-135m", *PROMPT)
    assert (ended.returncode, ended.stderr.count("\n")) == (0, 1), ended.stderr
    assert ended.stderr.startswith("note: exporting smollm2-135m for this machine (")
    assert "model.safetensors" in hub.fetched()
    before = len(hub.requests)
    assert process("run", "SmolLM2-135M-Instruct", *PROMPT).stdout == ended.stdout
    ended = process("chat", f"{hub.url}/{ID}/tree/main", "--max-tokens", "4")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(hub.requests) == before  # its name, its id and the address of its page mean the same
    (stored,) = [path for path in (here / "store").iterdir() if not path.name.startswith(".")]
    assert Bundle.open(stored).manifest.model.id == ID


def test_addresses_of_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    assert meant("https://hub.example/owner/name") == Wanted("owner/name")
    assert meant("hub.example/owner/name/tree/v1") == Wanted("owner/name", "v1")
    assert meant("https://hub.example/owner/name/blob/main/sub/x-Q4_0.gguf") == Wanted(
        "owner/name", "main", "x-Q4_0.gguf"
    )
    assert meant("https://hub.example/owner/name:Q4_0") == Wanted("owner/name:Q4_0")
    assert meant(f"https://hub.example/{ID}") == Wanted(ID)
    assert meant("https://elsewhere.example/owner/name") == Wanted("https://elsewhere.example/owner/name")
    assert meant("https://hub.example/owner") == Wanted("https://hub.example/owner")


def test_pull_with_options(edgelm, mirror: Path) -> None:
    ended = edgelm("pull", "smollm2-135m", "--target", "rpi4", "--context", "64")
    assert ended.code == 0
    assert ended.out.startswith("smollm2-135m-rpi4-int8 is ready: ")
    assert ended.out.endswith('\nnext: edgelm run smollm2-135m-rpi4-int8 "…"\n')
    again = edgelm("pull", "smollm2-135m", "--target", "rpi4")
    assert again.out.startswith("smollm2-135m-rpi4-int8 is there already: ")
    other = edgelm("pull", "smollm2-135m", "--target", "rpi4", "--context", "32")
    assert other.err == (
        "error: smollm2-135m-rpi4-int8 is there with a context of 64\nhint: --overwrite makes it anew\n"
    )
    assert edgelm("pull", "smollm2-135m", "--target", "rpi4", "--context", "32", "--overwrite").code == 0


def test_pull_from_a_folder(edgelm, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELM_MIRROR", "")  # which the command sets, and must be put back
    ended = edgelm("pull", "smollm2-135m", "--from", mirror, "--quant", "fp32", "--json")
    facts = json.loads(ended.out)
    assert (ended.code, facts["there"], facts["manifest"]["quant"]) == (0, False, "fp32")


def test_names_for_the_library(mirror: Path, tiny_bundle: Bundle) -> None:
    assert find_bundle(tiny_bundle.path) == tiny_bundle.path
    with pytest.raises(BundleError, match="was not exported"):
        find_bundle("smollm2-135m", make=False)
    path = find_bundle("smollm2-135m", quiet=True)
    assert find_bundle("smollm2-135m", make=False) == path
    assert find_bundle(path.name) == path


def test_auto_is_the_target_that_fits_this_machine() -> None:
    board = load_target("auto")
    assert board == load_target("host")
    assert board.recipes == load_target(board.name).recipes
    assert export(None, "auto", "fp32").path == Path(f"bundles/edgelm-home-{board.name}-fp32")
