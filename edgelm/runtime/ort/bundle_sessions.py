"""The sessions of a bundle: decode's, and one for prefill where the bundle or the machine wants that."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgelm.bundle.reader import DATA, PREFILL_DATA, Bundle
from edgelm.errors import EdgeLMWarning
from edgelm.machine.host import CpuInfo, recommended_threads
from edgelm.runtime.ort.options import DEFAULTS, LoadOptions
from edgelm.runtime.ort.packing import PACKED
from edgelm.runtime.ort.pages import NOWHERE, Pages, watching
from edgelm.runtime.ort.prepared import open_prepared
from edgelm.runtime.ort.session import open_mapped, open_or_fall_back
from edgelm.target.fallback import exact_int8


@dataclass(frozen=True)
class Sessions:
    """What `open_sessions` opened.

    Attributes:
        decode: reads single tokens, and prompts where there is no other.
        prompts: reads prompts; None where `decode` does.
        threads, prefill_threads: with which they compute.
        packed: the cache's folder whose prepacked weights are mapped, or None.
        decode_pages, prompt_pages: where their weights are mapped, where each has a set of its own; else empty, as for
            weights on the heap.
    """

    decode: Any
    prompts: Any = None
    threads: int = 1
    prefill_threads: int = 1
    packed: Path | None = None
    decode_pages: Pages = NOWHERE
    prompt_pages: Pages = NOWHERE

    @property
    def opened(self) -> list[Any]:
        """All of them."""
        return [session for session in (self.decode, self.prompts) if session is not None]


def open_sessions(bundle: Bundle, cpu: CpuInfo, options: LoadOptions = DEFAULTS) -> Sessions:
    """Open them, on this machine's `cpu`.

    Raises:
        BundleError: onnxruntime cannot load a graph.
        DeviceError: not enough memory.
        OptionError: see `LoadOptions.cache`.
    """
    prefill = bundle.prefill_path if exact_int8(cpu) else None
    decode, prompts = _threads(bundle, cpu, options)
    with watching() as watch:
        found = _of_one_graph(bundle, cpu, options, decode, prompts if prefill is None else decode)
        files = [bundle.path / DATA, *([] if found.packed is None else [found.packed / PACKED])]
        # All that was packed was read, and compared. What is needed again is mapped again from the page cache.
        watch.pages(found.opened, *files).release()
        if prefill is None:
            return found
        session = open_mapped(prefill, prompts, disable_spinning=True)
    return replace(
        found,
        prompts=session,
        prefill_threads=prompts,
        decode_pages=watch.pages([found.decode], *files),
        prompt_pages=watch.pages([session], bundle.path / PREFILL_DATA),
    )


def _of_one_graph(bundle: Bundle, cpu: CpuInfo, options: LoadOptions, threads: int, prefill_threads: int) -> Sessions:
    """One session, or two on the same weights where prompts have another number of threads."""
    counts = (threads, prefill_threads) if threads != prefill_threads else (threads,)
    if (cache := options.cache()) is not None:
        prepared = open_prepared(bundle, cache, cpu, counts, options)
        if prepared is not None:
            decode, *more = prepared.sessions
            return Sessions(decode, more[0] if more else None, threads, prefill_threads, prepared.folder)
    provider, quiet = bundle.manifest.provider, options.disable_spinning
    session, reason = open_or_fall_back(bundle.model_path, threads, provider, disable_spinning=quiet)
    if reason is not None:
        message = f"{reason}: running on the CPU instead (see README, Jetson)"
        warnings.warn(message, EdgeLMWarning, stacklevel=4)
    if len(counts) == 1 or options.prefill_threads is None:  # a second session would pack the weights again
        return Sessions(session, None, threads, threads)
    second = open_or_fall_back(bundle.model_path, prefill_threads, provider, disable_spinning=quiet)[0]
    return Sessions(session, second, threads, prefill_threads)


def _threads(bundle: Bundle, cpu: CpuInfo, options: LoadOptions) -> tuple[int, int]:
    """For decode and for prefill: what is asked for; else the target's figures, as far as this machine has cores."""
    target, prefill = bundle.manifest.threads, options.prefill_threads
    decode = options.threads or recommended_threads(target.decode, cpu)
    if prefill is None and options.threads is None:
        prefill = recommended_threads(target.prefill, cpu)
    return decode, prefill or decode
