"""Files and programs over a real sshd: sent on after a cut, ended with the connection, one line for what goes wrong."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress

import pytest

from edgelm.errors import DeviceError, OptionError, RemoteError
from edgelm.remote.environment import check
from edgelm.remote.place import open_place
from edgelm.remote.session import Session

FACTS = {"arch": "aarch64", "python": [3, 11], "wide": True, "libc": "glibc", "libc_version": "2.36"}


def test_files_there_and_back(sshd, tmp_path):
    local = tmp_path / "a file's name"
    local.write_bytes(os.urandom(3_000_000))
    with open_place("ssh:board") as place:
        session = Session.open(place)
        assert session.base == str(sshd.base)
        sent: list[int] = []
        session.put({local: f"{session.base}/deep/er/a b"}, sent.append)
        assert sum(sent) == 3_000_000
        assert session.get(f"{session.base}/deep/er/a b") == local.read_bytes()
        sent.clear()
        session.put({local: f"{session.base}/deep/er/a b"}, sent.append)
        assert sent == [3_000_000]  # was there
        session.call("remove", paths=[f"{session.base}/deep"])
    assert not (sshd.base / "deep").exists()
    assert sshd.left() == []


def test_a_part_is_gone_on_with(sshd, tmp_path):
    local = tmp_path / "f"
    data = os.urandom(1_000_000)
    local.write_bytes(data)
    sshd.base.mkdir(parents=True)
    (sshd.base / "f.part").write_bytes(data[:700_000])
    with open_place("ssh:board") as place:
        sent: list[int] = []
        Session.open(place).put({local: f"{sshd.base}/f"}, sent.append)
    assert sent[0] == 700_000
    assert (sshd.base / "f").read_bytes() == data
    assert not (sshd.base / "f.part").exists()


def test_a_part_of_something_else_is_noticed(sshd, tmp_path):
    local = tmp_path / "f"
    local.write_bytes(b"right" * 1000)
    sshd.base.mkdir(parents=True)
    (sshd.base / "f.part").write_bytes(b"wrong")
    with open_place("ssh:board") as place:
        session = Session.open(place)
        with pytest.raises(RemoteError, match="came damaged: it is sent again next time"):
            session.put({local: f"{sshd.base}/f"})
        session.put({local: f"{sshd.base}/f"})
    assert (sshd.base / "f").read_bytes() == local.read_bytes()


def test_a_program_runs_and_its_end_is_ours(sshd, tmp_path, capfd):
    with open_place("ssh:board") as place:
        session = Session.open(place)
        script = "import os, sys; print(os.environ['SAID']); print('progress', file=sys.stderr); sys.exit(7)"
        code = session.run(
            [str(session.facts["executable"]), "-c", script], {"SAID": "hello 'there'"}, f"{sshd.base}/run-1"
        )
    assert code == 7
    out, err = capfd.readouterr()
    assert (out, err) == ("hello 'there'\n", "progress\n")


@pytest.mark.parametrize("how", ["session", "client"])
def test_what_runs_ends_with_the_connection(sshd, how):
    script = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    with open_place("ssh:board") as place:
        session = Session.open(place)
        ended: list[BaseException | int] = []

        def run() -> None:
            try:
                ended.append(session.run([str(session.facts["executable"]), "-c", script], {}, f"{sshd.base}/run-1"))
            except RemoteError as error:
                ended.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        _wait(lambda: any("sleep 600" in line for line in sshd.left()))
        if how == "session":
            for pid in sshd.sessions():
                os.kill(pid, signal.SIGKILL)
        else:
            place.close()
        thread.join(20)
        assert not thread.is_alive()
    assert isinstance(ended[0], RemoteError)
    assert "the connection to board was lost" in str(ended[0])
    assert ended[0].hint == "run it again: it goes on where it was"
    _wait(lambda: sshd.left() == [])


def test_a_shell_that_greets(sshd, tmp_path):
    force = sshd.folder / "force-board"
    force.write_text(force.read_text().replace("exec sh", "echo Welcome to the board; exec sh"))
    local = tmp_path / "f"
    local.write_bytes(os.urandom(1000))
    with open_place("ssh:board") as place:
        session = Session.open(place)
        session.put({local: f"{sshd.base}/f"})
        assert session.get(f"{sshd.base}/f") == local.read_bytes()
        with pytest.raises(RemoteError, match="No such file"):
            session.get(f"{sshd.base}/g")


def test_a_program_that_the_system_ends(sshd):
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with open_place("ssh:board") as place:
        session = Session.open(place)
        argv = [str(session.facts["executable"]), "-c", script]
        with pytest.raises(RemoteError, match="ended edgelm by signal SIGKILL") as error:
            session.run(argv, {}, f"{sshd.base}/run-1")
    assert "memory" in str(error.value.hint)


@pytest.mark.parametrize("wanted", [2, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_cut_at_random_moments_a_transfer_goes_on(sshd, tmp_path, wanted):
    """However often it is cut, what was sent is not sent again, and nothing half-written has the file's name."""
    local, path = tmp_path / "f", sshd.base / "f"
    local.write_bytes(os.urandom(2_000_000 * wanted))
    chance, cuts = random.Random(0), 0

    def cut() -> None:
        for pid in sshd.sessions():
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(pid, signal.SIGKILL)

    for attempt in range(4 * wanted):
        sent: list[int] = []
        most = chance.uniform(0, local.stat().st_size / wanted)  # of one call, so that there are as many calls

        def count(size: int, sent: list[int] = sent, most: float = most, ends: bool = cuts < wanted) -> None:
            sent.append(size)  # what was there already is the first
            if ends and sum(sent[1:]) > most:
                cut()

        timer = threading.Timer(chance.uniform(0.0, 0.6), cut)  # and at any time, while connecting, too
        try:
            if attempt % 2 and cuts < wanted:
                timer.start()
            with open_place("ssh:board") as place:
                Session.open(place).put({local: str(path)}, count)
        except RemoteError:
            cuts += 1
            assert not path.exists()
        finally:
            timer.cancel()
        if path.exists():
            break
    assert path.read_bytes() == local.read_bytes()
    assert cuts >= wanted
    _wait(lambda: sshd.left() == [])


def _wait(condition, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_keys_and_hosts_that_are_not_right(sshd, tmp_path):
    known = sshd.folder / "known"
    right = known.read_text()
    known.write_text("")
    with pytest.raises(RemoteError, match="the host key of board is not known") as error, open_place("ssh:board"):
        pass
    assert "ssh board" in str(error.value.hint)
    other = (sshd.folder / "board.key.pub").read_text().split()[1]
    known.write_text(f"{right.split()[0]} ssh-ed25519 {other}\n")
    with pytest.raises(RemoteError, match="the host key of board has changed"), open_place("ssh:board"):
        pass
    known.write_text(right)
    (sshd.folder / "authorized").write_text("")
    with pytest.raises(RemoteError, match="board takes none of your keys"), open_place("ssh:board"):
        pass
    sshd.process.terminate()
    sshd.process.wait()
    with pytest.raises(RemoteError, match="board does not answer"), open_place("ssh:board"):
        pass


@pytest.mark.parametrize("name", ["", "ssh:", "ssh", "ssh:-oProxyCommand=x", "ftp:host", "ssh:a b", "rpi5"])
def test_what_names_no_board(name):
    with pytest.raises(OptionError, match="names no board"), open_place(name):
        pass


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arch": "armv7l"}, "this is armv7l"),
        ({"wide": False}, "32-bit program"),
        ({"python": [3, 9]}, "this is 3.9"),
        ({"libc": ""}, "another C library"),
        ({"libc_version": "2.27"}, "glibc 2.28 or later"),
    ],
)
def test_boards_that_cannot_run_it(change, said):
    check(FACTS, "ssh:pi")
    with pytest.raises(DeviceError, match=said):
        check(FACTS | change, "ssh:pi")


def test_a_full_card(sshd, tmp_path):
    """Through the file size limit of a shell, which ends a write as a full card does."""
    force = sshd.folder / "force-board"
    force.write_text(force.read_text().replace("exec sh", "trap '' XFSZ; ulimit -f 1000; exec sh"))
    local = tmp_path / "f"
    local.write_bytes(os.urandom(2_000_000))
    with open_place("ssh:board") as place, pytest.raises(RemoteError) as error:
        Session.open(place).put({local: f"{sshd.base}/f"})
    assert "File too large" in str(error.value)
    assert not (sshd.base / "f").exists()
