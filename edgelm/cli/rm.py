"""``edgelm rm``: remove bundles that were exported by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from edgelm.cli.options import json_option
from edgelm.cli.show import print_lines, size
from edgelm.errors import BundleError, near

if TYPE_CHECKING:
    from edgelm.bundle.reader import Bundle
    from edgelm.catalogue.store import Store, Stored


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@json_option
def command(names: tuple[str, ...], as_json: bool) -> None:
    """Remove bundles that were exported by name, with their prepacked weights.

    NAME is the first column of `edgelm list`, or that of a model, of which all bundles go. What was downloaded stays in
    the hub's own cache. Bundles in folders of your own are yours to remove.

    \b
    Examples:
      edgelm rm smollm2-135m
      edgelm rm smollm2-135m-x86-64-int8 edgelm-home
    """
    from edgelm.catalogue.store import Store

    store = Store.of_user()
    chosen = {stored.name: stored for name in names for stored in _meant(store, name)}  # all known before one goes
    gone = []
    for stored in chosen.values():
        freed = _forget(stored.bundle)
        gone.append((stored.name, store.remove(stored.name) + freed))
    if as_json:
        click.echo(json.dumps([{"name": name, "bytes": nbytes} for name, nbytes in gone], indent=2))
    else:
        print_lines(f"removed {name}, {size(nbytes)}" for name, nbytes in gone)


def _meant(store: Store, name: str) -> list[Stored]:
    """The bundle of that name, or all of a model's.

    Raises:
        BundleError: there is none.
    """
    from edgelm.catalogue.store import stem

    found = list(store.bundles())
    exact = [stored for stored in found if stored.name == name]
    of_model = [s for s in found if s.name == f"{stem(name)}-{s.bundle.manifest.target}-{s.bundle.manifest.quant}"]
    if exact or of_model:
        return exact or of_model
    known = [stored.name for stored in found]
    hint = near(name, known, listing="there are") if known else "none is there: edgelm pull smollm2-135m makes one"
    raise BundleError(f"no bundle is called {name} in {store.folder}", hint=hint)


def _forget(bundle: Bundle) -> int:
    """Remove a bundle's prepacked weights; returns how many bytes they took."""
    from edgelm.runtime.ort.weightcache import WeightCache, limit_bytes, user_folder

    folder = user_folder()
    if folder is None or not folder.is_dir():
        return 0
    entries = [e for e in WeightCache(folder, limit_bytes()).entries() if e.facts.get("bundle") == bundle.digest]
    freed = sum(entry.size for entry in entries)
    for entry in entries:
        entry.remove()
    return freed
