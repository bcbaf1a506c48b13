"""Nothing leaves the device: export, run, chat and bench of the default model open no internet socket."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Raises where Python itself makes an internet socket, in every Python process started below.
AUDIT = """
import socket, sys
def refuse(event, arguments):
    if event == "socket.__new__" and arguments[1] in (socket.AF_INET, socket.AF_INET6):
        sys.stderr.write("OPENED AN INTERNET SOCKET\\n")
sys.addaudithook(refuse)
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which Python reports internet sockets, and no cache or token of the user's is seen."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "sitecustomize.py").write_text(AUDIT)
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "ORT_"))}
    return {**keep, "PYTHONPATH": str(folder), "HOME": str(folder)}


def run(environment: dict[str, str], folder: Path, *arguments: str, text: str = "") -> None:
    """Run edgelm, under strace where there is one, and fail on any internet socket."""
    trace = folder / "trace"
    strace = shutil.which("strace")
    prefix = [strace, "-f", "-qq", "-e", "trace=socket", "-o", str(trace)] if strace else []
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "edgelm", *arguments],
        env=environment,
        cwd=folder,
        input=text,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "INTERNET SOCKET" not in done.stderr
    if strace:
        assert not re.findall(r"socket\(AF_INET6?.*", trace.read_text())


def test_the_watch_itself_works(watched: dict[str, str]) -> None:
    code = "import socket; socket.socket()"
    assert (
        "INTERNET SOCKET"
        in subprocess.run([sys.executable, "-c", code], env=watched, capture_output=True, text=True).stderr
    )


def test_the_default_model_never_opens_an_internet_socket(watched: dict[str, str], tmp_path: Path) -> None:
    run(watched, tmp_path, "export", "--target", "rpi5", "-o", "bundle")
    run(watched, tmp_path, "run", "bundle", "-p", "turn on the kitchen light", "--max-tokens", "8")
    run(watched, tmp_path, "chat", "bundle", text="turn on the kitchen light\n/exit\n")
    run(watched, tmp_path, "bench", "bundle", "-p", "16", "-n", "4", "-r", "1")
    run(watched, tmp_path, "inspect", "bundle")
    run(watched, tmp_path, "verify", "bundle")


def test_telemetry_is_off_before_onnxruntime_is_imported() -> None:
    code = "import os, edgelm.runtime.ort.session; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    subprocess.run([sys.executable, "-c", code], check=True)
    source = (Path(__file__).parents[1] / "edgelm" / "runtime" / "ort" / "session.py").read_text()
    assert source.index('os.environ["ORT_DISABLE_TELEMETRY"]') < source.index("import onnxruntime")
