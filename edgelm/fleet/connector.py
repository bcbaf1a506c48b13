"""A place that --on takes, as a connector of pyinfra: also ``pyinfra @edgelm/ssh:pi@raspberrypi exec -- uptime``."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import IOBase
from pathlib import Path
from typing import Any

from pyinfra.api import StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.connectors.base import BaseConnector
from pyinfra.connectors.util import CommandOutput, OutputLine

from edgelm.errors import EdgeLMError
from edgelm.fleet.plan import HERE
from edgelm.remote import environment
from edgelm.remote.place import open_place
from edgelm.remote.session import Session


def probe(place: str) -> None:
    """See that a board can be reached, and that edgelm can run there.

    Raises:
        EdgeLMError: it cannot.
    """
    if place != HERE:
        with open_place(place) as board:
            environment.check(Session.open(board).facts, place)


class Reached(BaseConnector):  # type: ignore[misc]
    """A host that is reached by `edgelm.remote`. Its `place` is in the host's data, how to wait for it in `reach`."""

    handles_execution = True

    @staticmethod
    def make_names_data(name: str) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        """A place is one host."""
        yield f"@edgelm/{name}", {"place": name}, []

    def connect(self) -> None:
        """See that the board answers.

        Raises:
            ConnectError: it does not.
        """
        reach: Callable[[str], None] = self.host.connector_data.get("reach", probe)
        try:
            reach(self.host.data.place)
        except EdgeLMError as error:
            raise ConnectError(str(error)) from None

    def run_shell_command(
        self, command: Any, print_output: bool = False, print_input: bool = False, **arguments: Any
    ) -> tuple[bool, Any]:
        """Run a line of a shell on the board."""
        line = command.get_raw_value() if isinstance(command, StringCommand) else str(command)
        start = f"import os; os.execvp('sh', {['sh', '-c', line]!r})"
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with open_place(self.host.data.place) as place:
            process = place.start(["-c", start], **pipes)
            said = dict(zip(("stdout", "stderr"), process.communicate(), strict=True))
        lines = [OutputLine(name, text) for name, data in said.items() for text in data.decode().splitlines()]
        return process.returncode == 0, CommandOutput(lines)

    def put_file(
        self, filename_or_io: str | IOBase, remote_filename: str, remote_temp_filename: str | None = None, **_: Any
    ) -> bool:
        """Send a file; one that is there is replaced."""
        with self._session() as session, ExitStack() as stack:
            if isinstance(filename_or_io, str):
                path = Path(filename_or_io)
            else:
                file = stack.enter_context(tempfile.NamedTemporaryFile())
                file.write(filename_or_io.read())
                file.flush()
                path = Path(file.name)
            session.call("remove", paths=[remote_filename])
            session.put({path: remote_filename})
        return True

    def get_file(
        self, remote_filename: str, filename_or_io: str | IOBase, remote_temp_filename: str | None = None, **_: Any
    ) -> bool:
        """Fetch a file."""
        with self._session() as session:
            data = session.get(remote_filename)
        if isinstance(filename_or_io, str):
            Path(filename_or_io).write_bytes(data)
        else:
            filename_or_io.write(data)
        return True

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with open_place(self.host.data.place) as place:
            yield Session.open(place)
