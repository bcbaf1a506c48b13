"""What `pip install edgelm` puts on a device."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE = {"onnxruntime", "numpy", "tokenizers", "click", "jinja2"}
HEAVY = [
    "torch",
    "transformers",
    "onnx",
    "onnx_ir",
    "optimum",
    "huggingface_hub",
    "safetensors",
    "pyinfra",
    "gevent",
    "distributed",
    "dask",
]


def test_the_base_install_is_five_packages() -> None:
    requirements = importlib.metadata.requires("edgelm") or []
    assert {re.split(r"[^\w-]", r)[0] for r in requirements if "extra ==" not in r} == BASE


@pytest.mark.parametrize("module", ["edgelm", "edgelm.cli"])
def test_importing_is_light(module: str) -> None:
    heavy = [*HEAVY, "onnxruntime", "numpy", "tokenizers", "jinja2"]
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_running_needs_no_export_packages() -> None:
    code = f"import sys, edgelm; edgelm.load, edgelm.LM; print([m for m in {[m for m in HEAVY if m != 'huggingface_hub']} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT],
        check=True,
    )
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_targets_and_the_default_model(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    sizes = {info.filename: info.file_size for info in zipfile.ZipFile(wheel).infolist()}
    for target in (ROOT / "targets").glob("*.toml"):
        assert f"edgelm/_targets/{target.name}" in sizes
    assert "edgelm/py.typed" in sizes
    assert {"edgelm/serve/page/index.html", "edgelm/serve/page/vendor/LICENSE-marked.txt"} <= sizes.keys()
    (weights,) = [name for name in sizes if name.endswith(".safetensors")]
    assert sizes[weights] <= 8_000_000
    assert "optimum/commands/register/register_edgelm.py" in sizes
    assert not [name for name in sizes if name.startswith("optimum/") and name.endswith("__init__.py")]
    assert {"edgelm/catalogue/models.toml", "edgelm/catalogue/figures.json"} <= sizes.keys()
    assert not [name for name in sizes if name.startswith(("tests/", "tools/"))]


@pytest.mark.slow
def test_a_device_install_runs_a_bundle_without_any_extra(wheel: Path, tmp_path: Path) -> None:
    """A fresh environment with the wheel alone; the bundle comes from here, as it would from a host."""
    from edgelm.exporter.pipeline import export

    bundle = export(None, "rpi5", output=tmp_path / "bundle")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", wheel], check=True)
    installed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split("==")[0].lower() for line in installed.splitlines()}
    assert not names & {"torch", "transformers", "onnx", "onnx-ir", "optimum"}
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def edgelm(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [tmp_path / "venv" / "bin" / "edgelm", *arguments]
        return subprocess.run(command, env=clean, cwd=tmp_path, capture_output=True, text=True)

    assert "rpi5" in edgelm("targets").stdout
    answer = edgelm("run", str(bundle.path), "-p", "turn on the kitchen light", "--max-tokens", "64")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()
    refused = edgelm("export", "--target", "rpi5")
    assert refused.returncode == 1
    assert "pip install 'edgelm[export]'" in refused.stderr
    assert "Traceback" not in refused.stderr
