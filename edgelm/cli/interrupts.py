"""Ctrl-C while a library computes, which Python would see only when that is done."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator

from edgelm.cli.failures import INTERRUPTED
from edgelm.files import remove_temporary

_GRACE = 0.5  # seconds in which the main thread may end the command itself


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Within this block Ctrl-C ends the process within a second, also in the middle of a long pass of onnxruntime.

    A signal reaches Python's handler only when the main thread is back from the library, and nothing can call it back from
    there: onnxruntime takes a copy of what would tell it to stop. So a thread waits for the byte that the signal writes; where
    the block is not left soon, it removes this process's temporary folders and ends the process. Outside the main thread
    nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, written = socket.socketpair()
    written.setblocking(False)
    left = threading.Event()
    before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(heard, left), name="edgelm-interrupt", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        written.close()  # ends the thread
        watcher.join()
        heard.close()


def _watch(heard: socket.socket, left: threading.Event) -> None:
    while data := heard.recv(64):
        if signal.SIGINT in data and not left.wait(_GRACE):
            remove_temporary()
            os._exit(INTERRUPTED)
