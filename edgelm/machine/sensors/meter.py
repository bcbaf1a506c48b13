"""A meter of the user's own: a command that prints watts, one number a line, once or again and again."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable

from edgelm.errors import OptionError
from edgelm.machine.sensors.source import Missing
from edgelm.machine.sensors.supply import PowerSource

_STALE = 5.0  # seconds after which the last number is none any more
_FIRST = 5.0  # seconds in which the first one must come
_PAUSE = 0.02  # seconds between two reads: one that floods waits for us, and takes no time from what is measured
_BLOCK, _LONGEST, _LINES = 1 << 16, 1 << 10, 20  # bytes of a read, and of a line; lines of which one has a number
_MOST = 10_000.0  # watts; what is beyond, or negative, is no board's power
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class Meter:
    """Runs the command for as long as it prints, and again once it has ended well.

    Of each line the last number counts, so that ``2.31``, ``power: 2.31 W`` and ``12:00:01;2.31`` all do.

    Args:
        command: split as a shell does it; no shell runs it.

    Raises:
        OptionError: it cannot be started, or prints no number within five seconds.
    """

    def __init__(self, command: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._command, self._clock = command, clock
        self._lock, self._fresh = threading.Lock(), threading.Event()
        self._watts: float | None = None
        self._at, self._failed, self._odd = 0.0, "", ""
        self._ended = False
        try:
            self._args = shlex.split(command)
        except ValueError as error:
            raise OptionError(f"--power-meter {command!r}: {error}") from None
        if not self._args:
            raise OptionError("--power-meter is empty", hint="a command that prints watts, such as ./read-plug.py")
        self._process = self._start()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="power meter")
        self._thread.start()
        if not self._fresh.wait(_FIRST) or self._watts is None:
            self.close()
            odd = f"prints {self._odd}, which is not from 0 to {_MOST:,.0f} watts" if self._odd else ""
            why = self._failed or odd or f"prints no number within {_FIRST:g} seconds"
            raise OptionError(f"--power-meter {command!r} {why}", hint="it must print watts, one number a line")

    def source(self) -> PowerSource:
        """As sources of power are."""
        return PowerSource("meter", f"by {self._command}", self.read, check=self.check, close=self.close)

    def read(self, _: float) -> float | None:
        """The last number that came, while it is fresh."""
        with self._lock:
            return self._watts if self._clock() - self._at < _STALE else None

    def check(self) -> float | Missing:
        """Whether it has worked to the end."""
        return Missing(f"--power-meter {self._failed}") if self._failed else 1.0

    def close(self) -> None:
        """End the command."""
        with self._lock:
            self._ended = True
            process = self._process
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(2)

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(self._args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0)
        except OSError as error:
            why = error.strerror or str(error)
            raise OptionError(f"--power-meter: {self._args[0]} cannot be run: {why}") from None

    def _follow(self) -> None:
        while True:
            process = self._process
            assert process.stdout is not None
            with process.stdout as pipe:
                self._read(pipe.fileno())
            code = process.wait()
            if self._closing():
                return
            if code:
                self._failed = f"ended with {code}"
                self._fresh.set()
                return
            time.sleep(0.2)  # one that prints once is asked again, but not without a pause
            with self._lock:
                if self._closing():
                    return
                try:
                    self._process = self._start()
                except OptionError as error:
                    self._failed = str(error)
                    return

    def _read(self, pipe: int) -> None:
        """Take the last whole line with a number of what has come, again and again; at the end one may be open."""
        rest = b""
        while data := os.read(pipe, _BLOCK):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[-_LONGEST:]
            any(self._take(line[-_LONGEST:].decode(errors="replace")) for line in reversed(lines[-_LINES:]))
            time.sleep(_PAUSE)
        self._take(rest.decode(errors="replace"))

    def _closing(self) -> bool:
        return self._ended

    def _take(self, line: str) -> bool:
        """Whether the line has a number; watts are kept."""
        numbers = _NUMBER.findall(line)
        if not numbers:
            return False
        if 0 <= (watts := float(numbers[-1])) <= _MOST:
            with self._lock:
                self._watts, self._at = watts, self._clock()
            self._fresh.set()
        else:
            self._odd = numbers[-1][:20]
        return True
