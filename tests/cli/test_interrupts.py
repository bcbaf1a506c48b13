"""Ctrl-C ends ``edgelm eval`` soon, wherever it is, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgelm.cli.interrupts import ends_at_once
from edgelm.exporter.pipeline import export


@pytest.fixture(scope="module")
def heavy(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, bundle) of a model whose passes over 4,000 tokens take many seconds."""
    checkpoint = tiny_checkpoint(
        num_hidden_layers=24,
        hidden_size=256,
        intermediate_size=1024,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
    )
    output = tmp_path_factory.mktemp("heavy") / "b"
    return checkpoint, export(checkpoint, "x86-64", "fp32", output=output, context=4096, card="none").path


@pytest.mark.parametrize(
    "options", [["--chunk", 4000], ["--chunk", 512], ["--chunk", 4000, "--against"]], ids=["long", "short", "against"]
)
def test_eval_ends_within_a_second(heavy: tuple[Path, Path], tmp_path: Path, options: list[object]) -> None:
    checkpoint, bundle = heavy
    text, scratch = tmp_path / "text.txt", tmp_path / "tmp"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 2000)
    scratch.mkdir()
    command = [sys.executable, "-m", "edgelm", "eval", bundle, "--text", text, *options]
    if options[-1] == "--against":
        command.append(checkpoint)
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    time.sleep(9 if options[-1] == "--against" else 5)  # into the passes
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    started = time.perf_counter()
    out, err = process.communicate(timeout=30)
    assert time.perf_counter() - started < 2  # on a busy machine
    assert (process.returncode, out) == (130, b"")
    assert b"error" not in err
    assert list(scratch.iterdir()) == []


def test_where_python_hears_of_it_it_ends_as_always() -> None:
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), ends_at_once():
        time.sleep(10)  # which a signal ends
    assert signal.set_wakeup_fd(-1) == -1


def test_elsewhere_than_in_the_main_thread_nothing_changes() -> None:
    done: list[int] = []

    def run() -> None:
        with ends_at_once():
            done.append(signal.SIGINT)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [signal.SIGINT]
