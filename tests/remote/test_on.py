"""--on, from the command line to what is left on the board."""

from __future__ import annotations

import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from edgelm.cli import main
from edgelm.cli.on import _without
from edgelm.remote.command import Command, _free, _translated
from edgelm.target.target import load_target

ROOT = Path(__file__).parents[2]

BENCH = ("-p", "8", "-n", "4", "-r", "2")


def edgelm(
    *args: object, cwd: Path | None = None, piped: str | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgelm", *map(str, args)]
    how = {"capture_output": True, "text": True, "timeout": 900}
    return subprocess.run(command, cwd=cwd, env={**os.environ, **settings}, input=piped, **how)  # type: ignore[call-overload,no-any-return]


def kinds(base: Path) -> set[str]:
    """Of what is left on a board: there may be an environment more where edgelm was changed meanwhile."""
    return {path.name.partition("-")[0] for path in base.iterdir()}


def test_own_options_stay_here():
    args = ["b", "--on", "ssh:x", "-p", "8", "--keep", "--offline-wheels=w", "--on=ssh:y", "-n", "4"]
    own = {"flags": ("--keep",), "options": ("--on", "--offline-wheels")}
    assert _without(args, **own) == ["b", "-p", "8", "-n", "4"]


def test_paths_become_those_of_the_board():
    paths = {Path("my/bundle"): "/there/1", Path("a.svg"): "/there/a.svg"}
    args = ["bench", "my/bundle/", "--plot=a.svg", "--plot", "a.svg", "-p", "a.svgx"]
    found = ["bench", "/there/1", "--plot=/there/a.svg", "--plot", "/there/a.svg", "-p", "a.svgx"]
    assert _translated(args, paths) == found
    assert _translated(["run", "-fa.svg", "--a.svg", "-f"], paths) == ["run", "-f/there/a.svg", "--a.svg", "-f"]


def test_files_of_one_name_do_not_meet():
    taken: set[str] = set()
    assert [_free(name, taken) for name in ("a.txt", "b.txt", "a.txt", "a.txt")] == [
        "a.txt", "b.txt", "2-a.txt", "3-a.txt"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "sent"),
    [
        (["Summarise:"], "a letter\n"),
        ([], "a letter\n"),
        (["-f", "{tools}"], None),
        (["-p", "of its own"], None),
        (["-f", "{tools}", "Summarise:"], "a letter\n"),
    ],
)
def test_what_is_piped_goes_along(monkeypatch, tiny_bundle, tmp_path, args, sent):
    """As a file behind the prompt; and so do the files of options."""
    tools = tmp_path / "tools.json"
    tools.write_text("[]")
    seen = {}

    def ran(name: str, command: Command, hooks: object) -> int:
        seen.update({path.name: path.read_text() for path in command.inputs.values() if path.is_file()})
        seen["args"] = command.args
        return 0

    monkeypatch.setattr("edgelm.remote.command.run_on", ran)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a letter\n")))
    words = [word.format(tools=tools) for word in args]
    assert main(["run", str(tiny_bundle.path), *words, "--tools", str(tools), "--on", "ssh:board"]) == 0
    assert seen["tools.json"] == "[]"
    assert seen.get("standard-input.txt") == sent
    assert seen["args"][: 2 + len(words)] == ["run", str(tiny_bundle.path), *words]
    assert (seen["args"][-2] == "--prompt-file") == (sent is not None)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("run", "b", "-p", "x", "--keep"), "--keep and --offline-wheels are for --on"),
        (("run", "b", "-p", "x", "--on", "nowhere"), "--on 'nowhere' names no board"),
        (("bench", "b", "--power-meter", "x", "--on", "ssh:board"), "--power-meter does not go with --on"),
    ],
)
def test_what_does_not_go_together(args, said):
    ended = edgelm(*args)
    assert ended.returncode in (1, 2)
    assert said in ended.stderr
    assert len(ended.stderr.strip().splitlines()) <= 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_board_by_ssh(used, tiny_bundle, tmp_path):
    """bench, doctor, run and eval; figures come home, and nothing but the environment stays."""
    kept = tmp_path / "results.sqlite3"
    ended = edgelm("bench", tiny_bundle.path, *BENCH, "-o", "json", "--on", "ssh:board", EDGELM_RESULTS=str(kept))
    assert ended.returncode == 0, ended.stderr
    assert [row["test"] for row in json.loads(ended.stdout)["results"]] == ["pp8", "tg4"]
    rows = json.loads(edgelm("results", "list", "--json", EDGELM_RESULTS=str(kept)).stdout)["results"]
    assert {(row["place"], row["bundle"]) for row in rows} == {("ssh:board", tiny_bundle.digest)}
    assert (
        edgelm("run", tiny_bundle.path, "-p", "hi", "--raw", "--max-tokens", "2", "--on", "ssh:board").returncode == 0
    )
    said = edgelm("run", tiny_bundle.path, "one", *("--raw", "--echo", "-n", "1", "--on", "ssh:board"), piped="two\n")
    assert said.stdout.startswith("one\n\ntwo"), said
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a text that was long enough. " * 40)
    told = edgelm("eval", tiny_bundle.path, "--text", text, "--json", "--on", "ssh:board", "--keep")
    here = edgelm("eval", tiny_bundle.path, "--text", text, "--json")
    figures = [json.loads(ended.stdout)["perplexity"] for ended in (told, here)]  # what else is in there are paths
    assert figures[0]["perplexity"] == figures[1]["perplexity"]
    assert figures[0]["tokens"] == figures[1]["tokens"]
    assert edgelm("doctor", "--on", "ssh:board").stdout.strip()
    assert kinds(used.base) == {"bundles", "edgelm", "site"}
    assert (used.base / "bundles" / tiny_bundle.digest).is_dir()
    assert used.left() == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_board_is_tuned_by_ssh(used, tiny_bundle, tmp_path):
    """The profile stays on the board, where bench takes it; a copy comes home."""
    home = {"EDGELM_PROFILES": str(tmp_path / "profiles")}
    told = edgelm("tune", tiny_bundle.path, "--time", "5s", "--json", "--on", "ssh:board", "--keep", **home)
    assert told.returncode == 0, told.stderr
    profile = json.loads(told.stdout)["profile"]
    (there,) = (used.home / ".config/edgelm/profiles").iterdir()
    (here,) = (tmp_path / "profiles").iterdir()
    assert json.loads(there.read_text()) == json.loads(here.read_text()) == profile
    assert f"a copy is here: {here}" in told.stderr
    ended = edgelm("bench", tiny_bundle.path, *BENCH, "-o", "json", "--on", "ssh:board", "--keep")
    assert json.loads(ended.stdout)["profile"] == profile["id"]
    shown = edgelm("tune", tiny_bundle.path, "--show", "--json", "--on", "ssh:board", "--keep")
    assert [each["id"] for each in json.loads(shown.stdout)] == [profile["id"]]
    assert edgelm("tune", tiny_bundle.path, "--forget", "--on", "ssh:board").returncode == 0
    assert not there.exists()
    assert not list(used.base.glob("run-*"))


PAGES = {  # of boards -> the target that each exports for
    "raspberry-pi-5": "rpi5",
    "raspberry-pi-4": "rpi4",
    "raspberry-pi-zero-2w": "rpi-zero2w",
    "jetson": "rpi5",
    "android": "android-arm64",
}


def ten_lines(page: str) -> list[list[str]]:
    """From a bare board to a table, as a page of docs/boards tells it: words of each line."""
    text = (ROOT / "docs/boards" / f"{page}.md").read_text()
    block = text[text.index("## From a bare board to a table, in ten lines") :].split("```")[1]
    return [shlex.split(line, comments=True) for line in block.splitlines()[1:]]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_a_board_has_ten_lines(page):
    lines = ten_lines(page)
    assert len(lines) == 10
    told = [" ".join(line) for line in lines]
    assert told[2] == f"edgelm export --target {PAGES[page]}"
    bundles = {word for line in lines for word in line if word.startswith("bundles/")}
    assert bundles == {f"bundles/edgelm-home-{PAGES[page]}-{load_target(PAGES[page]).default}"}
    (board,) = {line[line.index("--on") + 1] for line in lines if "--on" in line}
    assert told[0] == f"ssh-copy-id {board.removeprefix('ssh:')}"
    assert [line[1] for line in lines[1:]] == [
        "doctor", "export", "run", "tune", "bench", "bench", "results", "results", "results"
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_ten_lines_of_a_page_lead_to_a_table(used, tmp_path):
    """All but the first, which copies a key, and the last, for which one bundle is not enough."""
    short = {"tune": ["--time", "5s"], "export": ["--calibrate", "none"]}
    own = {name: str(tmp_path / name) for name in ("EDGELM_RESULTS", "EDGELM_PROFILES", "XDG_CACHE_HOME")}
    for _, verb, *words in ten_lines("raspberry-pi-5")[1:]:
        words = ["ssh:board" if word == "ssh:pi@raspberrypi" else "10s" if word == "10m" else word for word in words]
        ended = edgelm(verb, *words, *short.get(verb, ()), cwd=tmp_path, PYTHONPATH=str(ROOT), **own)
        wanted = (0, 1) if verb == "doctor" else (1,) if "--calibrate" in words else (0,)
        assert ended.returncode in wanted, (verb, words, ended.stderr)
    assert "two bundles or more" in ended.stderr
    assert "<svg" in (tmp_path / "heat.svg").read_text()
    table = (tmp_path / "rpi5.md").read_text()
    assert "pp512" in table
    assert "| ssh:board |" in table
    assert used.left() == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_cut_at_random_moments_the_next_call_finishes(used, tiny_bundle):
    """Whatever moment the connection is cut at, the call ends with one line, and the next one goes on."""
    assert edgelm("doctor", "--on", "ssh:board").returncode in (0, 1)
    chance = random.Random(1)
    command = [sys.executable, "-m", "edgelm", "bench", str(tiny_bundle.path), *BENCH, "--on", "ssh:board"]
    for _ in range(10):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(chance.uniform(0.5, 6.0))
        for pid in used.sessions():
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(pid, signal.SIGKILL)
        _, said = process.communicate(timeout=120)
        assert "Traceback" not in said
        if process.returncode:
            assert [line for line in said.splitlines() if line.startswith("error: ")]
    ended = edgelm(*command[3:])
    assert ended.returncode == 0, ended.stderr
    assert kinds(used.base) == {"bundles", "edgelm", "site"}
    assert not (used.base / "bundles" / tiny_bundle.digest).exists()
    assert used.left() == []


@pytest.mark.board
@pytest.mark.timeout(1800)
def test_an_emulated_board(tiny_bundle):
    ended = edgelm("run", tiny_bundle.path, "-p", "hi", "--raw", "--max-tokens", "2", "--on", "emulate:rpi5")
    assert ended.returncode == 0, ended.stderr
