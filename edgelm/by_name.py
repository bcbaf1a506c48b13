"""What a bundle's name means: a folder, or the name of a model, which is exported for this machine once.

Above the exporter, so that `edgelm.load`, the command line and the server's settings take names alike. Nothing heavy is
imported until a name is no path.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelm.errors import (
    BundleError,
    CheckpointError,
    DependencyError,
    EdgeLMError,
    ExportError,
    names_keywords,
    near,
    suggest,
)
from edgelm.files import expanded, path_argument

if TYPE_CHECKING:
    from edgelm.bundle.reader import Bundle
    from edgelm.exporter.progress import Progress
    from edgelm.runtime.lm import LM
    from edgelm.runtime.ort.packing import OnBytes
    from edgelm.runtime.ort.weightcache import WeightCache
    from edgelm.target.target import Target

# What `edgelm[export]` brings.
_EXTRA = ("onnx_ir", "safetensors", "ml_dtypes", "huggingface_hub", "gguf", "threadpoolctl")


@names_keywords
def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    prefill_threads: int | None = None,
    max_memory_mb: float | None = None,
    weight_cache: WeightCache | bool = True,
    on_bytes: OnBytes | None = None,
    draft: str | os.PathLike[str] | None = None,
    parallel: int | None = None,
    max_queue: int | None = None,
    profile: bool = True,
) -> LM:
    """Load a bundle: the folder `path`, or that of a name.

    A str that is no path may be a name: that of a bundle (`edgelm list`), of a model (`edgelm models`) or its id on the
    hub. Where there is no bundle of the model for this machine yet, it is fetched and exported, once, into the user's
    cache; the logger ``edgelm`` says so, as a warning. That needs ``edgelm[export]``.

    Args:
        path: the folder, or a name.
        threads: CPU threads; None takes this machine's profile (`edgelm tune`), or what suits the machine.
        prefill_threads: for prefill; None takes the same, or `threads` where that is given.
        max_memory_mb: what the process may take, in 10^6 bytes, by the manifest's figures: the context shrinks to what
            fits, and sessions share it. None for no limit.
        weight_cache: True caches prepacked weights in the user's folder, where the first load writes them and others map
            them; False does without; a `WeightCache` is another folder or limit.
        on_bytes: called with (bytes done, bytes in all) while the cache is being filled.
        draft: a smaller bundle with the same tokens, its folder or name, whose drafts this one checks several at a time:
            the same text, faster, where it drafts well. None for none.
        parallel: how many generations may run at once, called for from any threads: their next tokens are computed in one
            pass, and more wait for their turn, first come, first served. Memory is taken as texts grow, within
            `max_memory_mb`. Nothing is drafted then. None for one at a time, where another one is refused.
        max_queue: how many may wait before `BusyError` refuses the next; None for any number.
        profile: whether this machine's profile is taken for what is not given here, where there is one.

    Raises:
        BundleError: no bundle there, or it is damaged.
        OptionError, DeviceError: it cannot run so, or not here.
        DependencyError, CheckpointError, ExportError: the model of that name cannot be fetched or exported.
    """
    from edgelm.runtime import lm

    return lm.load(
        folder_of("path", path),
        threads=threads,
        prefill_threads=prefill_threads,
        max_memory_mb=max_memory_mb,
        weight_cache=weight_cache,
        on_bytes=on_bytes,
        draft=None if draft is None else folder_of("draft", draft),
        parallel=parallel,
        max_queue=max_queue,
        profile=profile,
    )


def folder_of(argument: str, given: str | os.PathLike[str]) -> Path:
    """The folder that an argument means; of what is no str, and so no name, the path as it is."""
    path = path_argument(argument, given)
    if not isinstance(given, str):
        return path
    return find_bundle(given, note=_warn)


def _warn(text: str) -> None:
    import logging  # it takes milliseconds, which a command does not need

    logging.getLogger("edgelm").warning(text)


def find_bundle(
    name: str | os.PathLike[str],
    *,
    make: bool = True,
    note: Callable[[str], None],
    progress: Progress | None = None,
) -> Path:
    """The folder of a bundle, by its path or its name.

    A path that is there is that path. A name is that of a bundle of the store (`edgelm list`), or that of a model
    (`edgelm models`, an id of the hub, an address of its pages): its bundle for this machine, which is exported now where
    there is none yet.

    Args:
        name: what was typed.
        make: whether a model is exported where it is not there yet.
        note: is told that a model is going to be exported.
        progress: see `pull`.

    Raises:
        BundleError: no bundle of that name, and no model; or it would have to be made.
        EdgeLMError: the model cannot be fetched or exported.
    """
    given = os.fspath(name)
    if os.path.lexists(Path(given)):
        return Path(given)
    from edgelm.catalogue.store import Store
    from edgelm.target.target import load_target

    store, model = Store.of_user(), model_named(given)
    if model is None:
        if os.path.lexists(expanded(given)):
            return expanded(given)
        if (stored := store.find(given)) is None:
            raise _unknown(given)
        return stored.bundle.path
    board = load_target("auto")
    if (stored := store.find(model, board.name, board.default)) is not None:
        return stored.bundle.path
    if "/" in given and (near_by := _near_here(given, 0.85)) is not None:  # before a typing error goes to the hub
        raise BundleError(f"bundle {given} does not exist", hint=f"did you mean {near_by}?")
    if not make:
        what = f"bundle {given} does not exist" if "/" in model else f"{model} was not exported for this machine yet"
        raise BundleError(what, hint=f"to fetch and export the model: {suggest('pull', model)}")
    try:
        return pull(model, Order(target=board), note=note, progress=progress).path
    except ExportError as error:  # its hint names options of an export
        hint = "" if error.hint is None else f"{error.hint}; "
        raise ExportError(str(error), hint=f"{hint}such options are those of: {suggest('pull', model)}") from None


@dataclass(frozen=True)
class Order:
    """How a model is to be exported into the store; the arguments of `edgelm.export`, None for its defaults."""

    target: Target
    quant: str | None = None
    context: int | None = None
    calibrate: str | None = None
    overwrite: bool = False
    force: bool = False


def pull(model: str, order: Order, *, note: Callable[[str], None], progress: Progress | None = None) -> Bundle:
    """Export a model into the store.

    Args:
        model: a name of the catalogue, or an id of the hub.
        order: for which target, and how.
        note: is told what is going to happen, before it does.
        progress: of the export; None shows the hub's own bars where there is a terminal, and nothing else.

    Raises:
        EdgeLMError: it cannot be fetched or exported.
    """
    from edgelm.catalogue.store import Store, stem

    quant = order.quant or order.target.default
    order.target.recipe(quant)
    output = Store.of_user().path(model, order.target.name, quant)
    try:
        export = load_export()
    except DependencyError as error:
        near_by = sorted(path for path in _bundles_here() if Path(path).name.startswith(f"{stem(model)}-"))
        other = (
            f"give the folder of a bundle: {near_by[0]}" if near_by else "give the folder of a bundle made elsewhere"
        )
        raise DependencyError(
            f"{model} is not here yet, and {str(error)[:1].lower()}{str(error)[1:]}", hint=f"{other}; or {error.hint}"
        ) from None
    note(f"exporting {model} for this machine ({order.target.name}, {quant}), once, into {output}")
    output.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"context": order.context, "calibrate": order.calibrate, "overwrite": order.overwrite}
    options["force"] = order.force
    try:
        return export(model, order.target, quant, output=output, progress=progress or _downloads(), **options)
    except CheckpointError as error:
        where = f"from a copy on this machine: {suggest('pull', model, '--from', 'FOLDER')}"
        raise CheckpointError(str(error), hint=where if error.hint is None else f"{error.hint}; {where}") from None


def _downloads() -> Progress:
    """Shows what others show by themselves, the bars of downloads, to whom sits before a terminal."""
    from edgelm.exporter.progress import Progress

    progress = Progress()
    progress.visible = sys.stderr is not None and sys.stderr.isatty()
    return progress


def load_export() -> Callable[..., Bundle]:
    """The exporter.

    Raises:
        DependencyError: what it needs besides is not installed.
    """
    with needing_extra():
        from edgelm.exporter.pipeline import export
    return export


@contextlib.contextmanager
def needing_extra() -> Iterator[None]:
    """Says what to install where importing the exporter fails for one of its own packages."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise DependencyError(
            f"exporting needs {error.name}, which is not installed", hint="pip install 'edgelm[export]'"
        ) from None


def model_named(given: str) -> str | None:
    """The model that a name means: its name in the catalogue, or its id on the hub; None where it is none."""
    from edgelm.catalogue.models import find

    if (known := find(given)) is not None:
        return known.name
    if "://" not in given and (given.count("/") != 1 or _looks_like_a_path(given)):
        return None
    try:
        from edgelm.exporter.checkpoint.hub import is_id, meant
    except ImportError:  # without the exporter nothing can be fetched
        return None
    model = meant(given).model
    known = None if model is None else find(model)
    return known.name if known is not None else model if model is not None and is_id(model) else None


def _looks_like_a_path(given: str) -> bool:
    """Whether it is a path that is not there, rather than an id: a typing error must not go to the hub."""
    return given.startswith((".", "/", "~", "bundles/")) or given.endswith("/") or Path(given).parent.is_dir()


def _unknown(given: str) -> EdgeLMError:
    """The error for a name of nothing."""
    from edgelm.catalogue.models import names
    from edgelm.catalogue.store import Store

    here = _bundles_here()
    if (path := next((path for path in here if Path(path).name == Path(given).name), None)) is not None:
        return BundleError(f"bundle {given} does not exist", hint=f"did you mean {path}?")
    if "/" in given.rstrip("/"):
        close_by = _near_here(given, 0.75)
        how = _made_by(Path(given).name) or "edgelm export --target auto"
        return BundleError(
            f"bundle {given} does not exist",
            hint=f"make {'one' if how.endswith('auto') else 'it'} with: {how}"
            if close_by is None
            else f"did you mean {close_by}?",
        )
    known = [*names(), *(stored.name for stored in Store.of_user().bundles()), *here]
    close = near(given, known)
    return BundleError(
        f"bundle {given} does not exist",
        hint=close if close.startswith("did you mean") else "make one with: edgelm export --target auto",
    )


def _bundles_here() -> list[str]:
    """The folders of ./bundles that are bundles."""
    from edgelm.bundle.reader import MANIFEST

    return [str(path.parent) for path in Path("bundles").glob(f"*/{MANIFEST}")]


def _near_here(given: str, likeness: float) -> str | None:
    """The bundle of ./bundles whose path is so much like this one."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(given.rstrip("/"), _bundles_here(), n=1, cutoff=likeness)), None)


def _made_by(name: str) -> str | None:
    """The command that makes a folder of this name, MODEL-TARGET-QUANT of a model that has a name; None for another."""
    from edgelm.catalogue.models import names
    from edgelm.target.target import load_target, target_names

    for model in names():
        target, _, quant = name.removeprefix(f"{model}-").rpartition("-")
        if name.startswith(f"{model}-") and target in target_names() and quant in load_target(target).quants:
            other = () if quant == load_target(target).default else ("--quant", quant)
            return suggest("export", model, "--target", target, *other)
    return None
