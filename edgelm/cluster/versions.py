"""What a figure depends on beside its inputs: host and workers must have the same."""

from __future__ import annotations

import functools
import hashlib
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from edgelm.errors import ClusterError
from edgelm.machine.host import read_cpu
from edgelm.version import __version__

_PACKAGES = ("onnxruntime", "numpy", "tokenizers", "onnx-ir", "safetensors", "ml-dtypes")


@dataclass(frozen=True)
class Versions:
    """Of a process.

    Attributes:
        edgelm: the version, and the beginning of a hash of its code.
        python: major and minor.
        packages: those that compute, by name.
        machine: the architecture.
        features: of the processor, hashed: which kernels are chosen, and so the last bits of a figure.
    """

    edgelm: str
    python: str
    packages: Mapping[str, str]
    machine: str
    features: str


@functools.cache
def versions() -> Versions:
    """Of this process."""
    features = ",".join(sorted(read_cpu().features or ()))
    return Versions(
        f"{__version__} ({_code()[:8]})",
        f"{sys.version_info[0]}.{sys.version_info[1]}",
        {name: _version(name) for name in _PACKAGES},
        platform.machine(),
        hashlib.sha256(features.encode()).hexdigest()[:12],
    )


def check(here: Versions, there: Versions, worker: str) -> None:
    """Raise ClusterError where a worker has other versions than the host."""
    one, other = asdict(here), asdict(there)
    one |= one.pop("packages")
    other |= other.pop("packages")
    for name in one:
        if name != "features" and one[name] != other[name]:
            raise ClusterError(
                f"worker {worker} has {name} {other[name]}, this machine {one[name]}: figures would not compare",
                hint="install the same on both: pip install 'edgelm[cluster,export]' with the versions of this machine",
            )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _code() -> str:
    """A hash of edgelm's own code, as a version stands for many states of a checkout."""
    package, found = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        found.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
    return found.hexdigest()
