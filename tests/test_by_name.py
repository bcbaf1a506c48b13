"""`edgelm.load` by name: the model's bundle for this machine, exported once; paths stay paths."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import Hub, serving

import edgelm
from edgelm.bundle.reader import Bundle
from edgelm.errors import BundleError, DependencyError, EdgeLMError
from edgelm.target.target import load_target

ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, and a home without bundles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGELM_MODELS", str(tmp_path / "store"))
    return tmp_path


@pytest.fixture
def process(here: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python with a hub at an address: its client reads the environment once."""

    def run(code: str, address: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()}
        env |= {"HF_ENDPOINT": address, "HOME": str(here)}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)

    return run


def test_a_model_of_the_hub_is_exported_once(process, tiny_checkpoint: Callable[..., Path], here: Path) -> None:
    code = (
        "import edgelm\n"
        f"for name in ('smollm2-135m', {ID!r}):\n"
        "    with edgelm.load(name, threads=1) as lm:\n"
        "        print(lm.generate('hi', max_tokens=4, temperature=0).text == '', lm.bundle.path.name)\n"
    )
    with serving(Hub()) as hub:
        hub.publish(ID, {path.name: path.read_bytes() for path in tiny_checkpoint(num_hidden_layers=1).iterdir()})
        ended = process(code, hub.url)
    name = f"smollm2-135m-{load_target('auto').name}-{load_target('auto').default}"
    assert ended.returncode == 0, ended.stderr
    assert [line.split()[1] for line in ended.stdout.splitlines()] == [name] * 2
    assert ended.stderr.startswith("exporting smollm2-135m for this machine (")
    assert ended.stderr.count("exporting") == 1
    assert str(here / "store" / name) in ended.stderr
    assert Bundle.open(here / "store" / name).manifest.model.id == ID


def test_a_hub_out_of_reach_is_told_in_a_line_and_a_hint(process, here: Path) -> None:
    code = (
        "import edgelm\n"
        "try:\n"
        "    edgelm.load('smollm2-135m')\n"
        "except edgelm.EdgeLMError as error:\n"
        "    print(type(error).__name__, error, error.hint, sep='|')\n"
    )
    with serving(Hub()) as hub:
        address = hub.url
    ended = process(code, address)  # where nothing listens any more
    kind, message, hint = ended.stdout.strip().split("|")
    assert (kind, "\n" in message) == ("CheckpointError", False)
    assert ID in message
    assert "network" in hint
    assert hint.endswith("; from a copy on this machine: edgelm pull smollm2-135m --from FOLDER")
    assert not list((here / "store").glob("[!.]*"))


def test_the_embedded_model_and_a_draft(caplog: pytest.LogCaptureFixture, here: Path) -> None:
    with edgelm.load("edgelm-home", threads=1, draft="edgelm-home") as lm:
        assert lm.draft is not None
        answer = lm.generate("turn on the kitchen light", max_tokens=24, temperature=0)
    assert '"kitchen' in answer.text
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("edgelm", "WARNING")
    assert edgelm.load(lm.bundle.path.name).bundle.path == lm.bundle.path  # its folder's name in the store


def test_what_is_neither_path_nor_name(here: Path) -> None:
    with pytest.raises(BundleError, match="bundle edgelm-hom does not exist") as raised:
        edgelm.load("edgelm-hom")
    assert raised.value.hint == "did you mean edgelm-home?"
    with pytest.raises(BundleError, match="bundles/smollm2 does not exist"):
        edgelm.load("bundles/smollm2")
    with pytest.raises(BundleError, match="smollm2-135m"):
        edgelm.load(Path("smollm2-135m"))  # a Path is a path, and nothing is fetched
    assert not (here / "store").exists()


def test_a_folder_of_a_models_name_is_that_folder(tiny_bundle: Bundle, here: Path) -> None:
    (here / "smollm2-135m").symlink_to(tiny_bundle.path)
    with edgelm.load("smollm2-135m", threads=1) as lm:
        assert lm.bundle.digest == tiny_bundle.digest


def test_without_the_exporter_the_extra_is_named(
    tiny_bundle: Bundle, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("edgelm.exporter", "safetensors", "ml_dtypes"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    monkeypatch.delitem(vars(edgelm), "export", raising=False)
    with pytest.raises(DependencyError, match="smollm2-135m is not here yet, and exporting needs ml_dtypes") as raised:
        edgelm.load("smollm2-135m")
    assert raised.value.hint == "give the folder of a bundle made elsewhere; or pip install 'edgelm[export]'"
    (here / "bundles").mkdir()
    (here / "bundles" / "smollm2-135m-rpi5-int4").symlink_to(tiny_bundle.path)
    with pytest.raises(DependencyError) as raised:
        edgelm.load("smollm2-135m")
    assert str(raised.value.hint).startswith("give the folder of a bundle: bundles/smollm2-135m-rpi5-int4; or ")
    with pytest.raises(DependencyError, match="exporting needs ml_dtypes, which is not installed"):
        _ = edgelm.export


def test_a_traceback_shows_the_hint() -> None:
    shown = "".join(traceback.format_exception(EdgeLMError("it went wrong", hint="do this")))
    assert "EdgeLMError: it went wrong\nhint: do this\n" in shown
    assert not hasattr(EdgeLMError("plain"), "__notes__")
