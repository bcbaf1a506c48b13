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
from edgelm.runtime.ort.weightcache import SMALLEST
from edgelm.runtime.ort.workers import Workers
from edgelm.target.fallback import exact_int8


@dataclass(frozen=True)
class Sessions:
    """What `open_sessions` opened.

    Attributes:
        decode: reads single tokens, and prompts where there is no other.
        prompts: reads prompts; None where `decode` does.
        threads, prefill_threads: with which they compute.
        packed: the cache's folder whose prepacked weights are mapped, or None.
        prefill_chunk: tokens that a pass over a prompt reads at most, by the profile; None where there is none.
        decode_pages, prompt_pages: where their weights are mapped, where each has a set of its own; else empty, as for
            weights on the heap.
    """

    decode: Any
    prompts: Any = None
    threads: int = 1
    prefill_threads: int = 1
    packed: Path | None = None
    prefill_chunk: int | None = None
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
    decode, prompts = _workers(bundle, cpu, options)
    with watching() as watch:
        found = _of_one_graph(bundle, cpu, options, decode, prompts if prefill is None else decode)
        found = replace(found, prefill_chunk=None if options.settings is None else options.settings.prefill_chunk)
        files = [bundle.path / DATA, *([] if found.packed is None else [found.packed / PACKED])]
        # All that was packed was read, and compared. What is needed again is mapped again from the page cache.
        watch.pages(found.opened, *files).release()
        if prefill is None:
            return found
        session = open_mapped(prefill, prompts, disable_spinning=True)
    return replace(
        found,
        prompts=session,
        prefill_threads=prompts.threads,
        decode_pages=watch.pages([found.decode], *files),
        prompt_pages=watch.pages([session], bundle.path / PREFILL_DATA),
    )


def _of_one_graph(bundle: Bundle, cpu: CpuInfo, options: LoadOptions, decode: Workers, prompts: Workers) -> Sessions:
    """One session, or two on the same weights where prompts have other threads."""
    each = (decode, prompts) if decode != prompts else (decode,)
    if (cache := options.cache()) is not None:
        prepared = open_prepared(bundle, cache, cpu, each, options)
        if prepared is not None:
            first, *more = prepared.sessions
            return Sessions(first, more[0] if more else None, decode.threads, prompts.threads, prepared.folder)
    provider, quiet = bundle.manifest.provider, options.disable_spinning
    session, reason = open_or_fall_back(bundle.model_path, decode, provider, disable_spinning=quiet)
    if reason is not None:
        message = f"{reason}: running on the CPU instead (see README, Jetson)"
        warnings.warn(message, EdgeLMWarning, stacklevel=4)
    if len(each) == 1 or not _twice(bundle, options):
        return Sessions(session, None, decode.threads, decode.threads)
    second = open_or_fall_back(bundle.model_path, prompts, provider, disable_spinning=quiet)[0]
    return Sessions(session, second, decode.threads, prompts.threads)


def _twice(bundle: Bundle, options: LoadOptions) -> bool:
    """Whether weights that two sessions cannot share are packed by each: where it is asked for, or where few were measured
    to be worth it.
    """
    small = bundle.manifest.memory.weights_bytes < SMALLEST
    return options.prefill_threads is not None or (options.settings is not None and small)


def _workers(bundle: Bundle, cpu: CpuInfo, options: LoadOptions) -> tuple[Workers, Workers]:
    """For decode and for prefill: what is asked for; else the profile's settings; else the target's figures, as far as this
    machine has cores.
    """
    target, prefill, own = bundle.manifest.threads, options.prefill_threads, options.settings
    if own is None:
        decode = options.threads or recommended_threads(target.decode, cpu)
        if prefill is None and options.threads is None:
            prefill = recommended_threads(target.prefill, cpu)
        return Workers(decode), Workers(prefill or decode)
    decode = options.threads or own.threads
    if prefill is None:
        prefill = own.prefill_threads if options.threads is None else decode
    cpus, prefill_cpus = (
        None if allowed is None or count > len(allowed) else allowed
        for allowed, count in ((own.cpus, decode), (own.prefill_cpus, prefill))
    )
    return Workers(decode, cpus, own.spinning), Workers(prefill, prefill_cpus, own.spinning)
