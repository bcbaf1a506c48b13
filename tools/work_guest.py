"""The part of tools/work_table.py that runs on the emulated core: one product a call, and marks between them.

Marks go to the stream that QEMU's log goes to, and so stand in it where they belong.
"""

import os
import sys
from pathlib import Path

import numpy as np

from edgelm.runtime.ort import open_session


def mark(text: str) -> None:
    os.write(2, f"MARK {text}\n".encode())


def main(folder: Path, rows: list[int]) -> None:
    for path in sorted(folder.iterdir()):
        session = open_session(path / "model.onnx", 1, ["CPUExecutionProvider"])
        width = session.get_inputs()[0].shape[2]
        for count in rows:
            feeds = {"x": np.random.default_rng(0).standard_normal((1, count, width), np.float32)}
            mark("first")
            session.run(None, feeds)
            mark(f"{path.name} {count}")
            session.run(None, feeds)
            mark("end")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(text) for text in sys.argv[2:]])
