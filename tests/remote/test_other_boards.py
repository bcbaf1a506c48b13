"""Boards that a test of one sshd does not show: of another processor, and behind a network that goes down."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from ssh_server import Server, serving

from edgelm.emulate import Board, prepare
from edgelm.errors import DeviceError
from edgelm.target.target import load_target

BENCH = ("-p", "8", "-n", "4", "-r", "1", "--no-sensors", "-o", "json")


def edgelm(*args: object, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgelm", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings}, timeout=900)


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Accounts of one server: two whose Python is this machine's, and one, `arm`, with an emulated aarch64 one."""
    try:
        board = Board.of(prepare(), load_target("rpi5"))
    except DeviceError as error:
        pytest.skip(f"no sandbox: {error}")
    folder = tmp_path_factory.mktemp("sshd")
    (folder / "bin").mkdir()
    qemu, *options = board.command([])
    for name in ("python3", "python3.11", "python3.12", "python3.13"):  # all, lest this machine's own are found
        python = folder / "bin" / name
        # QEMU tells the program that it is this file, so that what it starts as its own interpreter is emulated, too.
        python.write_text(f'#!/bin/sh\nexec "{qemu}" -0 "$0" {" ".join(options)} "$@"\n')
        python.chmod(0o755)
    arm = f"export PATH={folder}/bin:$PATH PYTHONHOME={board.sandbox.root}/usr; unset PYTHONPATH LD_PRELOAD LD_LIBRARY_PATH"
    with serving(folder, {"arm": arm, "board": "", "second": ""}) as server:
        monkeypatch.setenv("EDGELM_SSH_CONFIG", str(server.config))
        yield server


@pytest.mark.board
@pytest.mark.timeout(1800)
def test_accounts_of_a_server_one_of_them_aarch64(boards, tiny_bundle, tmp_path):
    """doctor, bench, eval and tune on a board whose wheels are not this machine's; two more beside it have their own."""
    own = {"EDGELM_RESULTS": str(tmp_path / "results.sqlite3"), "EDGELM_PROFILES": str(tmp_path / "profiles")}
    for name in ("arm", "board", "second"):
        ended = edgelm("bench", tiny_bundle.path, *BENCH, "--on", f"ssh:{name}", "--keep", **own)
        assert ended.returncode == 0, ended.stderr
        assert [row["test"] for row in json.loads(ended.stdout)["results"]] == ["pp8", "tg4"]
    rows = json.loads(edgelm("results", "list", "--json", **own).stdout)["results"]
    assert {row["place"] for row in rows} == {"ssh:arm", "ssh:board", "ssh:second"}
    told = json.loads(edgelm("doctor", "--json", "--on", "ssh:arm").stdout)
    assert "aarch64" in json.dumps(told)
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a text that was long enough. " * 40)
    perplexity = []
    for where in ((), ("--on", "ssh:arm", "--keep")):
        ended = edgelm("eval", tiny_bundle.path, "--text", text, "--json", *where)
        assert ended.returncode == 0, ended.stderr
        perplexity.append(json.loads(ended.stdout)["perplexity"]["perplexity"])
    assert perplexity[1] == pytest.approx(perplexity[0], rel=1e-3)
    tuned = edgelm("tune", tiny_bundle.path, "--time", "5s", "--json", "--on", "ssh:arm", **own)
    assert tuned.returncode == 0, tuned.stderr
    assert len(list((tmp_path / "profiles").iterdir())) == 1
    assert sorted(path.name for path in boards.folder.glob("home-*/.cache/edgelm/remote/bundles/*")) == [
        tiny_bundle.digest,
        tiny_bundle.digest,
    ]  # tune was the last on `arm`, and took its bundle away
    assert boards.left() == []


@pytest.fixture
def network(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Callable[[str], None]]]:
    """A board in a network of its own, and what takes that `up` or `down`."""
    name = f"edgelm{os.getpid()}"
    near, far = f"v{os.getpid()}a", f"v{os.getpid()}b"

    def ip(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["ip", *words], capture_output=True, check=False)

    if shutil.which("ip") is None or ip("netns", "add", name).returncode:
        pytest.skip("needs the right to make network namespaces, and ip of iproute2")
    try:
        for words in (
            ("link", "add", near, "type", "veth", "peer", "name", far, "netns", name),
            ("addr", "add", "10.231.77.1/30", "dev", near),
            ("link", "set", near, "up"),
            ("-n", name, "addr", "add", "10.231.77.2/30", "dev", far),
            ("-n", name, "link", "set", far, "up"),
        ):
            if (done := ip(*words)).returncode:
                pytest.skip(f"no network of its own: {done.stderr.decode()}")
        folder = tmp_path_factory.mktemp("sshd")
        with serving(folder, {"board": ""}, address="10.231.77.2", within=("ip", "netns", "exec", name)) as server:
            monkeypatch.setenv("EDGELM_SSH_CONFIG", str(server.config))

            def set_link(state: str) -> None:
                ip("-n", name, "link", "set", far, state)
                until = time.monotonic() + 30
                # The kernel gives a cable some time to settle: until then this side still says "No route to host".
                while state == "up" and not server.answers() and time.monotonic() < until:
                    time.sleep(0.1)

            yield server, set_link
    finally:
        ip("netns", "del", name)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_network_goes_down_and_the_next_call_finishes(network, tiny_bundle):
    """Nobody ends a connection here: both ends notice by themselves. ``EDGELM_CUTS`` cuts it more than once."""
    server, set_link = network
    chance = random.Random(2)
    for _ in range(int(os.environ.get("EDGELM_CUTS", "1"))):
        command = [sys.executable, "-m", "edgelm", "bench", str(tiny_bundle.path), *BENCH, "--on", "ssh:board"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(chance.uniform(0.5, 6.0))
        set_link("down")
        _, said = process.communicate(timeout=900)
        set_link("up")
        assert "Traceback" not in said
        if process.returncode:
            assert [line for line in said.splitlines() if line.startswith("error: ")], said
        ended = edgelm(*command[3:])
        assert ended.returncode == 0, ended.stderr
    assert {path.name.partition("-")[0] for path in server.base.iterdir()} == {"bundles", "edgelm", "site"}
    assert list((server.base / "bundles").iterdir()) == []
    until = time.monotonic() + 60
    while server.left() and time.monotonic() < until:
        time.sleep(0.5)
    assert server.left() == []
