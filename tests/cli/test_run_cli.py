"""``edgelm run``."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

import edgelm as library
from edgelm.cli import run
from edgelm.cli.run import speed
from edgelm.runtime.loop.results import Timings

FEW = ("--max-tokens", "8", "--temperature", "0.5", "--seed", "1")
# `edgelm run` with a model that takes its time
SLOW = """
import sys, time
from edgelm.runtime.engine import Engine
forward = Engine.forward
Engine.forward = lambda self, *args, **kwargs: (time.sleep(0.03), forward(self, *args, **kwargs))[1]
from edgelm.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch):
    """Sets standard input."""

    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return give


@pytest.fixture(scope="module")
def expected(tiny_bundle):
    with library.load(tiny_bundle.path) as lm:
        return lm.generate("lamp", max_tokens=8, temperature=0.5, seed=1)


def test_it_prints_what_the_library_gives(edgelm, tiny_bundle, expected):
    ended = edgelm("run", tiny_bundle.path, "-p", "lamp", *FEW)
    assert ended == (0, expected.text.removesuffix("\n") + "\n", "")


@pytest.mark.parametrize("data", [b"lamp", b"lamp\n", b"lamp\r\n"])
def test_the_prompt_on_standard_input(edgelm, tiny_bundle, expected, stdin, data):
    stdin(data)
    assert edgelm("run", tiny_bundle.path, *FEW).out == expected.text.removesuffix("\n") + "\n"


def test_standard_input_that_someone_left_open_is_told(edgelm, tiny_bundle, monkeypatch):
    """As a program's own is which starts edgelm: it waits for what may belong to the prompt, and says so."""
    reading, writing = os.pipe()
    monkeypatch.setattr(run, "_PATIENCE", 0.05)
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading, "r"))
    closing = threading.Timer(0.5, os.close, [writing])
    closing.start()
    ended = edgelm("run", tiny_bundle.path, "lamp", *FEW)
    closing.join()
    assert ended.code == 0
    assert ended.err.startswith("note: the text on standard input belongs to the prompt")


def test_json(edgelm, tiny_bundle, expected):
    ended = edgelm("run", tiny_bundle.path, "-p", "lamp", *FEW, "--json")
    answer = json.loads(ended.out)
    assert ended.out.count("\n") == 1
    assert (answer["text"], answer["finish_reason"]) == (expected.text, expected.finish_reason)
    assert answer["completion_tokens"] == len(expected.tokens)
    assert answer["prompt_tokens"] == expected.timings.prompt_tokens
    assert answer["timings"].keys() == expected.timings.to_dict().keys()
    assert answer["load_seconds"] > 0
    assert answer["model"] == tiny_bundle.manifest.model.id


def test_stats(edgelm, tiny_bundle):
    ended = edgelm("run", tiny_bundle.path, "-p", "lamp", *FEW, "--stats")
    assert re.fullmatch(
        r"load [\d.]+ s, prompt \d+ tokens at [\d.]+ tok/s, first token after [\d.]+ s, \d+ tokens( at [\d.]+ tok/s)?, "
        r"ended by (length|stop)\n",
        ended.err,
    )


def test_speed_of_an_answer_that_never_came():
    assert speed(Timings(5, 0, 0, None, 0.0, 0.0)) == "prompt 5 tokens, 0 tokens"


def test_speed_tells_what_was_cached():
    line = "prompt 12 tokens (8 cached) at 40.00 tok/s, first token after 0.110 s, 11 tokens at 20.00 tok/s"
    assert speed(Timings(12, 8, 11, 0.11, 0.1, 0.5)) == line


def test_options_reach_the_library(edgelm, tiny_bundle):
    def text(*options: str) -> str:
        return edgelm("run", tiny_bundle.path, "-p", "x", "--max-tokens", "12", "--temperature", "1", *options).out

    assert text("--seed", "3") == text("--seed", "3")
    assert len({text("--seed", str(seed)) for seed in range(5)}) > 1
    assert text("--seed", "3", "--raw") != text("--seed", "3")
    assert text("--seed", "3", "--system", "be brief") != text("--seed", "3")


def test_a_stop_string_ends_the_text(edgelm, tiny_bundle, expected):
    stop = expected.text[3:5]
    ended = edgelm("run", tiny_bundle.path, "-p", "lamp", *FEW, "--stop", "never", "--stop", stop, "--json")
    answer = json.loads(ended.out)
    assert answer["text"] == expected.text[: expected.text.index(stop)]
    assert answer["finish_reason"] == "stop"


def test_a_deadline(edgelm, tiny_bundle):
    ended = edgelm("run", tiny_bundle.path, "-p", "x", "--deadline", "0.0000001", "--json")
    assert json.loads(ended.out)["finish_reason"] == "deadline"
    assert ended.code == 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["-p", "x", "--temperature", "-1"], 1, "error: temperature must be a number 0 or more, not -1.0\n"),
        (["-p", "x", "--max-tokens", "0"], 1, "error: max_tokens must be an integer, 1 or more, not 0\n"),
        (["-p", "x", "--deadline", "-1"], 1, "error: deadline must be a number of seconds above 0, not -1.0\n"),
        (["-p", "x", "-t", "0"], 1, "error: threads must be at least 1, and at most 1024, not 0\n"),
        (["-p", "x" * 200], 1, "error: the prompt has "),
        (["-p", "x", "--system", "y", "--raw"], 2, "error: --system and --raw exclude each other"),
    ],
)
def test_wrong_options(edgelm, tiny_bundle, options, code, said):
    ended = edgelm("run", tiny_bundle.path, *options)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(said)
    assert all(line.startswith(("error: ", "hint: ")) for line in ended.err.splitlines())


def test_no_bundle(edgelm, tmp_path):
    ended = edgelm("run", tmp_path / "nope", "-p", "x")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(f"error: bundle {tmp_path / 'nope'} does not exist\nhint: ")


def test_standard_input_that_is_no_text(edgelm, tiny_bundle, stdin):
    stdin(b"caf\xe9")
    ended = edgelm("run", tiny_bundle.path)
    assert ended.code == 1
    assert ended.err.startswith("error: standard input is not valid UTF-8: byte 3 is 0xe9\nhint: ")


def test_no_prompt_at_all(edgelm, tiny_bundle, stdin, monkeypatch):
    stdin(b"")
    assert edgelm("run", tiny_bundle.path).err.startswith("error: no prompt: standard input is empty\n")
    monkeypatch.setattr(sys, "stdin", None)
    assert edgelm("run", tiny_bundle.path).err.startswith("error: no prompt\n")


def test_text_appears_as_it_comes_and_ctrl_c_ends_it(start, tiny_bundle):
    process = start("-c", SLOW, "run", tiny_bundle.path, "-p", "x", "--temperature", "2", "--seed", "5")
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 1)  # there long before the end: 100 tokens take 3 seconds
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert (first + out).endswith(b"\n")


BEGUN = """
import sys
sys.stdout.write("."); sys.stdout.flush()
from edgelm.cli import main
sys.exit(main())
"""


def test_ctrl_c_while_loading(start, tiny_bundle):
    for seconds in (0.0, 0.05, 0.1, 0.15):
        process = start("-c", BEGUN, "run", tiny_bundle.path, "-p", "x")
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)  # before it Python itself starts, and what that says is not ours
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, 130, -signal.SIGINT)  # the last before main is there
        assert b"edgelm/cli/" not in err  # a slow machine may still be at the import of what comes before that


def test_a_closed_pipe_is_quiet(tiny_bundle, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    run = f"{sys.executable} {script} run {tiny_bundle.path} -p x --temperature 2 --seed 5 --max-tokens 60"
    ended = subprocess.run(["bash", "-c", f"set -o pipefail; {run} | head -c 3"], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr, len(ended.stdout)) == (141, b"", 3)


def test_a_terminal_that_cannot_show_it(tiny_bundle):
    ended = subprocess.run(
        [sys.executable, "-m", "edgelm", "run", str(tiny_bundle.path), "-p", "x", "--temperature", "2", "--seed", "5"],
        env={"PYTHONIOENCODING": "latin-1", "PATH": ""},
        capture_output=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"?" in ended.stdout
