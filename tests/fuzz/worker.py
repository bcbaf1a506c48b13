"""Reads damaged files in a process of its own, so that an abort ends it alone: worker.py KIND FOLDER.

For each input on standard input, its length in 4 bytes before it, a line on standard output: ``ok``, ``error: …`` for an
EdgeLMError of one line, or what went wrong. An input may allocate 1 GB and compute for 10 seconds; then SIGPROF ends the
process. Who asks ends it where it waits for a minute.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from pathlib import Path

from readers import READERS

from edgelm.errors import EdgeLMError

GIGABYTE = 1 << 30
SECONDS = 10


def outcome(kind: str, path: Path, data: bytes) -> str:
    """What comes of an input."""
    path.unlink(missing_ok=True)  # what is mapped of an earlier one stays
    path.write_bytes(data)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        READERS[kind].read(path)
    except EdgeLMError as error:
        text = str(error)
        return f"error: {text[:200]}" if "\n" not in text and "internal" not in text else f"not one line: {text!r}"
    except BaseException as error:  # whatever it is, a panic of Rust included, it must not be
        frames = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-3:]]
        return f"{type(error).__name__}: {str(error)[:200]!r} at {' > '.join(frames)}".replace("\n", " ")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "ok"


def main() -> None:
    """Answer until the input ends."""
    kind, path = sys.argv[1], Path(sys.argv[2]) / READERS[sys.argv[1]].name
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    inputs = os.fdopen(os.dup(0), "rb")
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY)):  # commands read and write their own
        os.dup2(os.open(os.devnull, mode), descriptor)
    answers.write(outcome(kind, path, path.read_bytes()) + "\n")  # the sound one, which also imports what is needed
    answers.flush()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + GIGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while head := inputs.read(4):
        data = inputs.read(int.from_bytes(head, "little"))
        answers.write(outcome(kind, path, data) + "\n")
        answers.flush()


main()
