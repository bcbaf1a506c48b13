"""examples/cpp: the prompt's ids and the answer are edgelm's, natively and on an emulated Cortex-A76."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from edgelm.bundle.reader import Bundle
from edgelm.exporter.pipeline import export
from edgelm.runtime.lm import load

EXAMPLE = Path(__file__).parents[1] / "examples" / "cpp"
PROMPT = 'dim the bedroom lamp to 30 percent, "now", and lock the front door'
PACKAGES = ("onnxruntime-genai", "onnxruntime")
CROSS = "aarch64-linux-gnu-g++"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(None, "rpi5", calibrate="none", card="none", output=tmp_path_factory.mktemp("cpp") / "bundle")


def installed_libraries(folder: Path) -> None:
    """The two libraries of the packages that are installed here, where the Makefile puts those of wheels."""
    genai, onnxruntime = (Path(str(metadata.distribution(name).locate_file(""))) for name in PACKAGES)
    folder.mkdir()
    (folder / "libonnxruntime-genai.so").symlink_to(genai / "onnxruntime_genai" / "libonnxruntime-genai.so")
    (library,) = (onnxruntime / "onnxruntime" / "capi").glob("libonnxruntime.so.*")
    (folder / "libonnxruntime.so").symlink_to(library)


def build(folder: Path, *variables: str) -> Path:
    done = subprocess.run(
        ["make", "-C", EXAMPLE, f"BUILD={folder}", "CXXFLAGS=-O1 -Wall -Wextra -Werror", *variables],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    return folder / "chat"


def check(bundle: Bundle, command: list[str | Path]) -> None:
    """What the program says for a prompt is what edgelm says."""
    environment = os.environ | {"EDGELM_SHOW_IDS": "1"}
    done = subprocess.run(
        [*command, bundle.path, PROMPT, "64"], capture_output=True, text=True, env=environment, timeout=280, check=False
    )
    assert not done.returncode, done.stderr
    with load(bundle.path, threads=1) as lm:
        assert [int(word) for word in done.stderr.split()] == lm.encode_prompt(PROMPT)
        assert done.stdout.strip() == lm.generate(PROMPT, max_tokens=64).text


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime_genai")
    if not (shutil.which("g++") and shutil.which("make")):
        pytest.skip("no g++ or make here")
    folder = tmp_path_factory.mktemp("cpp") / "build"
    installed_libraries(folder)
    return build(folder)


def test_it_says_what_edgelm_says(program: Path, bundle: Bundle) -> None:
    check(bundle, [program])


def test_a_model_without_a_template_reads_bos_first(program: Path, bundle: Bundle, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(bundle.path, plain)
    (plain / "chat_template.jinja").unlink()
    environment = os.environ | {"EDGELM_SHOW_IDS": "1"}
    done = subprocess.run([program, plain, "lock", "1"], capture_output=True, text=True, env=environment, check=True)
    with load(bundle.path, threads=1) as lm:
        assert [int(word) for word in done.stderr.split()] == lm.encode_prompt("lock", raw=True)


def test_what_is_no_bundle_is_one_line(program: Path, tmp_path: Path) -> None:
    done = subprocess.run([program, tmp_path, "lock"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert subprocess.run([program], capture_output=True, check=False).returncode == 2


@pytest.mark.board
@pytest.mark.timeout(600)
def test_it_runs_on_an_emulated_cortex_a76(bundle: Bundle, tmp_path: Path) -> None:
    from edgelm.emulate import Board, prepare
    from edgelm.emulate.sandbox import unsupported
    from edgelm.errors import DeviceError
    from edgelm.target.target import load_target

    if problem := unsupported():
        pytest.skip(problem)
    if not shutil.which(CROSS):
        pytest.skip(f"no {CROSS} here")
    try:
        sandbox = prepare()
    except DeviceError as error:
        pytest.skip(f"no sandbox: {error}")
    wheels = tmp_path / "wheels"
    for name in PACKAGES:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        pin = f"{name}=={metadata.version(name)}"
        command = [*download, "--platform", "manylinux_2_28_aarch64", "--dest", str(wheels), pin]
        subprocess.run(command, check=True)
    program = build(tmp_path / "build", f"WHEELS={wheels}", f"CXX={CROSS}")
    board = Board.of(sandbox, load_target("rpi5"))
    check(bundle, [sandbox.qemu, "-cpu", board.core, "-L", sandbox.root, program])
