"""What a BUNDLE argument means: a folder, or the name of a model, which is exported for this machine once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelm.bundle.reader import MANIFEST
from edgelm.cli.failures import say
from edgelm.errors import BundleError, DependencyError, EdgeLMError, ExportError, near, suggest

if TYPE_CHECKING:
    from edgelm.bundle.reader import Bundle
    from edgelm.target.target import Target


def find_bundle(name: str | os.PathLike[str], *, make: bool = True, quiet: bool = False) -> Path:
    """The folder of a bundle, by its path or its name.

    A path that is there is that path. A name is that of a bundle of the store (`edgelm list`), or that of a model
    (`edgelm models`, an id of the hub, an address of its pages): its bundle for this machine, which is exported now where
    there is none yet, with a note and a progress bar on stderr.

    Args:
        name: what was typed.
        make: whether a model is exported where it is not there yet.
        quiet: show no progress bar.

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
        if os.path.lexists(Path(given).expanduser()):
            return Path(given).expanduser()
        if (stored := store.find(given)) is None:
            raise _unknown(given)
        return stored.bundle.path
    board = load_target("auto")
    if (stored := store.find(model, board.name, board.default)) is not None:
        return stored.bundle.path
    if not make:
        what = f"bundle {given} does not exist" if "/" in model else f"{model} was not exported for this machine yet"
        raise BundleError(what, hint=f"to fetch and export the model: edgelm pull {model}")
    try:
        return pull(model, Order(target=board), quiet=quiet).path
    except ExportError as error:  # its hint names options of an export
        hint = "" if error.hint is None else f"{error.hint}; "
        raise ExportError(str(error), hint=f"{hint}such options are those of: {suggest('pull', model)}") from None


def stored_bundle(name: str) -> Path | None:
    """The folder of the bundle that a name means, without making one; None where there is none, or for a path."""
    if os.path.lexists(Path(name)):
        return None
    try:
        return find_bundle(name, make=False)
    except EdgeLMError:
        return None


@dataclass(frozen=True)
class Order:
    """How a model is to be exported into the store; the arguments of `edgelm.export`, None for its defaults."""

    target: Target
    quant: str | None = None
    context: int | None = None
    calibrate: str | None = None
    overwrite: bool = False
    force: bool = False


def pull(model: str, order: Order, *, quiet: bool = False) -> Bundle:
    """Export a model into the store.

    Args:
        model: a name of the catalogue, or an id of the hub.
        order: for which target, and how.
        quiet: show no progress bar.

    Raises:
        EdgeLMError: it cannot be fetched or exported.
    """
    from edgelm.catalogue.store import Store
    from edgelm.cli.export import load_export
    from edgelm.cli.show import Bar

    quant = order.quant or order.target.default
    order.target.recipe(quant)
    output = Store.of_user().path(model, order.target.name, quant)
    try:
        export = load_export()
    except DependencyError as error:
        raise DependencyError(
            f"{model} is not here yet, and {str(error)[:1].lower()}{str(error)[1:]}",
            hint=f"{error.hint}; or export it on another machine, and give the bundle's folder",
        ) from None
    say("note", f"exporting {model} for this machine ({order.target.name}, {quant}), once, into {output}")
    output.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"context": order.context, "calibrate": order.calibrate, "overwrite": order.overwrite}
    options["force"] = order.force
    with Bar(silent=quiet) as bar:
        return export(model, order.target, quant, output=output, progress=bar, **options)


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

    here = [str(path.parent) for path in Path("bundles").glob(f"*/{MANIFEST}")]
    if (path := next((path for path in here if Path(path).name == Path(given).name), None)) is not None:
        return BundleError(f"bundle {given} does not exist", hint=f"did you mean {path}?")
    known = [*names(), *(stored.name for stored in Store.of_user().bundles()), *here]
    close = near(given, known)
    return BundleError(
        f"bundle {given} does not exist",
        hint=close if close.startswith("did you mean") else "make one with: edgelm export --target auto",
    )
