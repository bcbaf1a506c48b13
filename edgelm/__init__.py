"""edgelm: small language models on edge devices.

    >>> import edgelm
    >>> bundle = edgelm.export("path/to/checkpoint", target="rpi5")     # needs edgelm[export]
    >>> lm = edgelm.load(bundle.path)                                   # or by name: edgelm.load("smollm2-135m")
    >>> for chunk in lm.stream("Turn on the lamp"):
    ...     print(chunk.text, end="")

Names are resolved on first use: ``import edgelm`` loads neither onnxruntime nor onnx nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgelm.version import __version__

if TYPE_CHECKING:
    from edgelm.bundle.reader import Bundle
    from edgelm.by_name import load
    from edgelm.errors import EdgeLMError
    from edgelm.exporter.lora_adapter import export_adapter
    from edgelm.exporter.pipeline import export
    from edgelm.runtime.lm import LM
    from edgelm.runtime.sample.config import GenerationConfig
    from edgelm.target.target import Target
    from edgelm.tuning.tune import tune

__all__ = [
    "LM",
    "Bundle",
    "EdgeLMError",
    "GenerationConfig",
    "Target",
    "__version__",
    "export",
    "export_adapter",
    "load",
    "tune",
]

_HOMES = {
    "LM": "edgelm.runtime.lm",
    "Bundle": "edgelm.bundle.reader",
    "EdgeLMError": "edgelm.errors",
    "GenerationConfig": "edgelm.runtime.sample.config",
    "Target": "edgelm.target.target",
    "export": "edgelm.exporter.pipeline",
    "export_adapter": "edgelm.exporter.lora_adapter",
    "load": "edgelm.by_name",
    "tune": "edgelm.tuning.tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name in ("export", "export_adapter"):
        from edgelm.by_name import needing_extra

        with needing_extra():
            value = getattr(import_module(_HOMES[name]), name)
    else:
        value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
