"""A model loaded for a command, with a line on stderr while its weights are prepacked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelm.cli.bundles import find_bundle
from edgelm.cli.failures import say
from edgelm.cli.show import Bar

if TYPE_CHECKING:
    from edgelm.runtime.lm import LM


@contextmanager
def loaded(bundle: str | Path, **options: Any) -> Iterator[LM]:
    """`edgelm.load` with its `options`, to generate; `bundle` and its ``draft`` may be names. A bundle that embeds texts
    is refused before it is loaded.
    """
    from edgelm.bundle.reader import Bundle

    path = find_bundle(bundle)
    Bundle.open(path, check=False).expect_generator()
    if (draft := options.get("draft")) is not None:
        options["draft"] = find_bundle(draft)
    with _loaded(path, **options) as lm:
        yield lm


@contextmanager
def loaded_to_embed(bundle: str | Path, **options: Any) -> Iterator[LM]:
    """The same to embed texts."""
    from edgelm.bundle.reader import Bundle

    path = find_bundle(bundle)
    Bundle.open(path, check=False).expect_embedding()
    with _loaded(path, **options) as lm:
        yield lm


@contextmanager
def _loaded(path: Path, **options: Any) -> Iterator[LM]:
    warn_of_threads(options.get("threads"), options.get("prefill_threads"))
    from edgelm.runtime.lm import load

    with Bar() as bar:
        lm = load(path, on_bytes=packing(bar), **options)
    with lm:
        yield lm


def warn_of_threads(*threads: int | None) -> None:
    """Say so where there are more threads than CPUs that this process may use: they only wait for each other."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = max((count for count in threads if count is not None), default=0)
    if most > cpus:
        say("warning", f"{most} threads on {cpus} CPU{'s' if cpus > 1 else ''}: more threads than CPUs are slower")


def packing(bar: Bar) -> Callable[[int, int], None]:
    """What to do with the progress of prepacking."""
    before = 0

    def show(done: int, total: int) -> None:
        nonlocal before
        if done == 0:
            bar.start("prepacking (first load only)", total)
        bar.advance(done - before)
        before = done

    return show
