"""Places of --on as a connector of pyinfra."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgelm.errors import RemoteError

pytest.importorskip("pyinfra")
from pyinfra.api import Config, Inventory, State, StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host

from edgelm.fleet import connector
from edgelm.fleet.connector import Reached


@dataclass(frozen=True)
class Here:
    """A board that is this machine."""

    base: str
    name: str = "ssh:here"
    launcher: tuple[str, ...] = ()

    def start(self, args: Any, **pipes: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, *args], **pipes)

    def explain(self, code: int, said: str) -> RemoteError:
        return RemoteError(f"{self.name}: {said}")


@pytest.fixture
def reached(tmp_path, monkeypatch) -> Reached:
    monkeypatch.setattr(connector, "open_place", lambda name: contextlib.nullcontext(Here(str(tmp_path / "base"))))
    inventory = Inventory(([], {}))
    ((name, data, _),) = Reached.make_names_data("ssh:here")
    inventory.host_data[name] = data
    inventory.hosts[name] = Host(name, inventory, [], connector_cls=Reached)
    State(inventory, Config())
    return inventory.hosts[name].connector


def test_shell_lines_and_files(reached, tmp_path):
    reached.connect()
    ended, output = reached.run_shell_command(StringCommand("echo out; echo err >&2"))
    assert ended
    assert (output.stdout, output.stderr) == ("out", "err")
    assert reached.run_shell_command(StringCommand("exit 3"))[0] is False
    there = tmp_path / "there" / "file"
    assert reached.put_file(io.BytesIO(b"one"), str(there))
    (tmp_path / "two").write_bytes(b"two")
    assert reached.put_file(str(tmp_path / "two"), str(there))
    assert there.read_bytes() == b"two"
    back = io.BytesIO()
    assert reached.get_file(str(there), back)
    assert reached.get_file(str(there), str(tmp_path / "back"))
    assert back.getvalue() == (tmp_path / "back").read_bytes() == b"two"


def test_a_board_that_does_not_answer(reached, monkeypatch):
    def absent(place: str) -> None:
        raise RemoteError(f"{place} does not answer")

    reached.host.connector_data["reach"] = absent
    with pytest.raises(ConnectError, match="ssh:here does not answer"):
        reached.connect()


def test_the_connector_is_installed_for_pyinfra():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["pyinfra.connectors"]["edgelm"].partition(":")
    assert getattr(sys.modules[module], name) is Reached
