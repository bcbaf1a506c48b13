"""edgelm: a bundle in its Engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgelm.bundle.reader import Bundle
from edgelm.runtime.engine import Engine as Runs
from edgelm.runtime.ort.session import version as onnxruntime_version
from edgelm.runtime.ort.weightcache import WeightCache
from edgelm.version import __version__


def version() -> str:
    return f"{__version__} (onnxruntime {onnxruntime_version()})"


class Engine:
    def __init__(self, path: str, threads: int, context: int) -> None:
        # Comparison the bundle, not in the user's cache, where entries of random weights would take others' place.
        cache = WeightCache(Path(path).parent / "edgelm-weight-cache")
        self._runs = Runs.load(Bundle.open(path), threads=threads, weight_cache=cache)
        if self._runs.context < context:
            raise ValueError(f"the bundle's context is {self._runs.context}, {context} are needed")
        self._logits = np.empty(0, np.float32)
        packed = self._runs.packed
        self.files = [] if packed is None else [str(file) for file in sorted(packed.iterdir())]  # beside the bundle's

    def forward(self, ids: list[int]) -> None:
        self._logits = self._runs.prefill(ids)

    def logits(self) -> np.ndarray:
        return self._logits[-1]

    def rewind(self, position: int) -> None:
        self._runs.rewind(position)
