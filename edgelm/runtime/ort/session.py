"""The only module that imports onnxruntime.

Official onnxruntime builds carry a usage uploader that is on unless ``ORT_DISABLE_TELEMETRY=1`` is in
the environment before the import. edgelm promises that nothing leaves the device: it is set here, first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from edgelm.machine import wheels

wheels.require()  # a core that the wheel was not made for is named, not met with SIGILL

import onnxruntime as ort  # noqa: E402
from onnxruntime.capi.onnxruntime_pybind11_state import OrtDevice, OrtValueVector  # noqa: E402

from edgelm.errors import BundleError, DeviceError, suggest  # noqa: E402
from edgelm.machine.affinity import on_cpus  # noqa: E402
from edgelm.machine.heap import give_back  # noqa: E402
from edgelm.machine.host import read_cpu  # noqa: E402
from edgelm.runtime.ort.pages import make  # noqa: E402
from edgelm.runtime.ort.workers import Workers  # noqa: E402
from edgelm.target.fallback import exact_int8  # noqa: E402

ort.set_default_logger_severity(4)  # what goes wrong arrives as an exception, told once

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Threads of a session do not wait actively once its run is done: those of another one want the cores.
NO_SPINNING = {"session.force_spinning_stop": "1"}
_CPU = OrtDevice(OrtDevice.cpu(), OrtDevice.default_memory(), 0)
# Where the thread that calls a session must run, too, as the session's own threads do.
_CPUS: WeakKeyDictionary[Any, tuple[int, ...]] = WeakKeyDictionary()


def version() -> str:
    """Onnxruntime's version."""
    return str(ort.__version__)


def providers(wanted: str) -> list[str]:
    """Onnxruntime's names for a provider, and CPU behind it; without it when this build does not have it."""
    name = _PROVIDERS.get(wanted)
    if name is None:
        raise DeviceError(f"unknown provider {wanted!r}", hint=f"known: {', '.join(_PROVIDERS)}")
    return [p for p in dict.fromkeys([name, _PROVIDERS["cpu"]]) if p in ort.get_available_providers()]


def open_or_fall_back(
    model: Path, threads: int | Workers, wanted: str, *, disable_spinning: bool = False
) -> tuple[Any, str | None]:
    """A session on the provider `wanted`, or on the CPU where that is missing or fails; and the reason for the CPU.

    For `disable_spinning` see `open_session`.

    Raises:
        BundleError, DeviceError: the CPU cannot load it either.
    """
    names = providers(wanted)
    if wanted == "cpu":
        return open_session(model, threads, names, disable_spinning=disable_spinning), None
    reason = f"this onnxruntime has no {wanted} provider"
    if names[0] == _PROVIDERS[wanted]:
        try:
            session = open_session(model, threads, names, disable_spinning=disable_spinning)
        except (BundleError, DeviceError) as error:
            reason = f"the {wanted} provider failed ({error})"
        else:
            if session.get_providers()[:1] == names[:1]:
                return session, None
            # onnxruntime goes on without a provider whose libraries do not load.
            return session, f"the {wanted} provider's libraries cannot be loaded"
    return open_session(model, threads, [_PROVIDERS["cpu"]], disable_spinning=disable_spinning), reason


def open_session(
    model: Path, threads: int | Workers, wanted: list[str], *, disable_spinning: bool = False, **entries: str
) -> Any:
    """An InferenceSession on `threads` threads; `entries` are further settings of onnxruntime.

    Where several sessions run `disable_spinning` on the same cores, their threads sleep between runs: awake they would wait for
    their own next run on the cores that the other session needs.

    Raises:
        BundleError: onnxruntime cannot load the graph.
        DeviceError: there is not enough memory.
    """
    try:
        options = _options(threads, **(NO_SPINNING if disable_spinning else {}), **entries)
        return _session(str(model), options, wanted, cpus=Workers.of(threads).cpus)
    except MemoryError:
        raise DeviceError(f"not enough memory to load {model}", hint="see: edgelm doctor") from None
    except Exception as error:  # its exceptions have no public base class
        line = str(error).strip().splitlines()[0]
        raise BundleError(
            f"{model} cannot be loaded by onnxruntime {version()}: {line}",
            hint=f"see: {suggest('verify', Path(model).parent)}, edgelm doctor",
        ) from None


def open_mapped(model: Path, threads: int | Workers, *, disable_spinning: bool = False) -> Any:
    """A session on the CPU whose kernels read the weights as the file has them, mapped: nothing is packed or copied.

    Raises:
        BundleError, DeviceError: as `open_session`.
    """
    return open_session(
        model, threads, [_PROVIDERS["cpu"]], disable_spinning=disable_spinning, **{"session.disable_prepacking": "1"}
    )


def save_optimized(model: Path, path: Path) -> None:
    """Write the graph that a session on the CPU runs to `path`; weights in other files stay there.

    Raises:
        Exception: what onnxruntime raises.
    """
    options = _options(1, **{"session.disable_prepacking": "1"})  # which would take memory, and time
    options.optimized_model_filepath = str(path)
    _session(str(model), options, [_PROVIDERS["cpu"]], lasting=False)


def save_packed(model: bytes, folder: Path, path: Path, data: str) -> Any:
    """The session of a graph, which is also written to `path`, its weights and what kernels made of them to `data`.

    Args:
        model: the graph.
        folder: where its own weights are.
        path: of the graph that is written, which says for each weight where its packed form lies.
        data: a name beside `path`.

    Raises:
        Exception: what onnxruntime raises.
    """
    entries = {
        "session.model_external_initializers_file_folder_path": str(folder),
        "session.optimized_model_external_initializers_file_name": data,
        "session.save_external_prepacked_constant_initializers": "1",
    }
    options = _options(1, **entries)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(path)
    return _session(model, options, [_PROVIDERS["cpu"]], lasting=False)


def open_optimized(model: bytes, folder: Path, threads: int | Workers, **entries: str) -> Any:
    """A session on the CPU of a graph that `save_optimized` wrote, as it is.

    Args:
        model: the graph.
        folder: where its weights are, at any depth.
        threads: to compute with.
        entries: further settings of onnxruntime.

    Raises:
        Exception: what onnxruntime raises.
    """
    options = _options(threads, **{"session.model_external_initializers_file_folder_path": str(folder)}, **entries)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # that was done
    return _session(model, options, [_PROVIDERS["cpu"]], cpus=Workers.of(threads).cpus)


def _options(threads: int | Workers, **entries: str) -> Any:
    options, workers = ort.SessionOptions(), Workers.of(threads)
    options.intra_op_num_threads = workers.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_mem_pattern = False  # plans memory for one shape; prompts have many
    for name, value in {**_exact(), **workers.entries, **entries}.items():
        options.add_session_config_entry(name, value)
    return options


@cache
def _exact() -> dict[str, str]:
    """What keeps products of int8 exact on this processor: nothing where it has the instructions for that, else weights
    as unsigned bytes, which take longer but whose sums do not saturate.
    """
    return {} if exact_int8(read_cpu()) else {"session.x64quantprecision": "1"}


def _session(
    model: str | bytes,
    options: Any,
    wanted: list[str],
    *,
    lasting: bool = True,
    cpus: tuple[int, ...] | None = None,
) -> Any:
    with on_cpus(cpus):  # threads stay where they were started
        # Its own fallback prints to stdout and hides the reason.
        session = make(
            lambda: ort.InferenceSession(model, options, providers=wanted, enable_fallback=False), watched=lasting
        )
    if cpus is not None:
        _CPUS[session] = cpus
    return session


class Values:
    """Tensors for calls of a `Runner`: onnxruntime borrows the arrays' memory, so they are kept here with it."""

    def __init__(self, arrays: Iterable[np.ndarray]) -> None:
        self._values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays]
        self.vector = _vector(self._values)
        self._joined: tuple[Values, Any] | None = None

    def joined(self, others: Values | None) -> Any:
        """The vector of these and `others`; made once for the same ones."""
        if others is None:
            return self.vector
        if self._joined is None or self._joined[0] is not others:
            self._joined = others, _vector([*self._values, *others._values])
        return self._joined[1]


def _vector(values: Iterable[Any]) -> Any:
    vector = OrtValueVector()
    for value in values:
        vector.push_back(value._ortvalue)
    return vector


class Runner:
    """Runs a session on arrays that the caller owns, inputs and outputs alike.

    The call beneath takes inputs that have a default value and preallocated outputs both; IOBinding refuses the
    first.
    """

    def __init__(self, session: Any, outputs: list[str]) -> None:
        self._run = session._sess.run_with_ortvaluevector
        self._cpus = _CPUS.get(session)
        self._options = ort.RunOptions()
        self._outputs = outputs
        self._devices = [_CPU] * len(outputs)
        binding = session.io_binding()
        binding.bind_output(outputs[0], "cpu")
        self._unallocated = binding._iobinding.get_outputs()[0]
        self._known = {i.name for i in (*session.get_inputs(), *session.get_overridable_initializers())}
        self._more_names: list[str] = []
        self._more: Values | None = None

    def always(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Feed these inputs, too, as far as the graph has them, whatever else is fed; in place of those told before."""
        arrays = {name: array for name, array in arrays.items() if name in self._known}
        self._more_names, self._more = list(arrays), Values(arrays.values()) if arrays else None

    def run(self, names: list[str], feeds: Values, fetches: Values, *, prompt: bool = False) -> None:
        """Read `feeds`, the inputs `names`; write `fetches`, all outputs.

        After a `prompt` the memory of its activations is given back.
        """
        options = PROMPT if prompt else self._options
        given = feeds.joined(self._more)
        with on_cpus(self._cpus):
            self._run(options, [*names, *self._more_names], given, self._outputs, fetches.vector, self._devices)
        if prompt:
            give_back()

    def run_first(self, names: list[str], feeds: Values, others: Values, *, prompt: bool = False) -> np.ndarray:
        """Like `run`, but the first output, of a size the graph does not declare, is allocated and returned.

        After a `prompt` the memory of its activations is given back.
        """
        fetches = OrtValueVector()
        fetches.push_back(self._unallocated)
        for value in others.vector:
            fetches.push_back(value)
        options = PROMPT if prompt else self._options
        given = feeds.joined(self._more)
        with on_cpus(self._cpus):
            self._run(options, [*names, *self._more_names], given, self._outputs, fetches, self._devices)
        if prompt:
            give_back()
        result: np.ndarray = fetches[0].numpy()
        return result


PROMPT = ort.RunOptions()
"""For passes over many tokens: the arena keeps what they took otherwise, which decode has no use for."""
PROMPT.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

__all__ = [
    "PROMPT",
    "Runner",
    "Values",
    "open_mapped",
    "open_optimized",
    "open_or_fall_back",
    "open_session",
    "ort",
    "providers",
    "save_optimized",
    "save_packed",
    "version",
]
