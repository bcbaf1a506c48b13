"""The part of tools/work_table.py that runs on the emulated core: one product a call, and marks between them.

QEMU writes its log to the file descriptor that is this program's stderr. Marks written to it stand in the log where
they belong, and while it leads to /dev/null there is no log.
"""

import os
import sys
from pathlib import Path

import numpy as np

from edgelm.runtime.ort.session import open_session

_NOWHERE, _LOG = os.open(os.devnull, os.O_WRONLY), os.dup(2)


def mark(text: str) -> None:
    os.write(2, f"MARK {text}\n".encode())


def main(folder: Path, rows: list[int]) -> None:
    for path in sorted(folder.iterdir()):
        os.dup2(_NOWHERE, 2)
        session = open_session(path / "model.onnx", 1, ["CPUExecutionProvider"])
        width = session.get_inputs()[0].shape[2]
        for count in rows:
            feeds = {"x": np.random.default_rng(0).standard_normal((1, count, width), np.float32)}
            os.dup2(_LOG, 2)
            mark("first")
            session.run(None, feeds)
            mark(f"{path.name} {count}")
            session.run(None, feeds)
            mark("end")
            os.dup2(_NOWHERE, 2)
    os.dup2(_LOG, 2)


if __name__ == "__main__":
    os.dup2(_NOWHERE, 2)
    main(Path(sys.argv[1]), [int(text) for text in sys.argv[2:]])
