"""``edgelm list``: the bundles that are here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelm.cli.options import json_option
from edgelm.cli.show import print_lines, size, table

if TYPE_CHECKING:
    from edgelm.bundle.reader import Bundle


@click.command("list")
@json_option
def command(as_json: bool) -> None:
    """List the bundles that are here: those exported by name, and those in ./bundles.

    The first column is what `edgelm run`, `chat`, `bench` and the others take as a BUNDLE.

    \b
    Examples:
      edgelm list
      edgelm list --json
    """
    from edgelm.catalogue.store import Store

    store = Store.of_user()
    found = [*((stored.name, stored.bundle) for stored in store.bundles()), *_here()]
    if as_json:
        told = [_facts(name, bundle) for name, bundle in found]
        click.echo(json.dumps({"folder": str(store.folder), "bundles": told}, indent=2, ensure_ascii=False))
        return
    if not found:
        print_lines(["no bundles yet", "", 'next: edgelm run smollm2-135m "Hello", or edgelm export --target auto'])
        return
    rows = [("bundle", "model", "target", "quant", "context", "size")]
    for name, bundle in found:
        manifest = bundle.manifest
        figures = (f"{bundle.context:,}", size(bundle.size))
        rows.append((name, manifest.model.id, manifest.target, manifest.quant, *figures))
    print_lines([*table(rows, left=(0, 1, 2, 3)), "", f"by name: {store.folder}"])


def _facts(name: str, bundle: Bundle) -> dict[str, object]:
    manifest = bundle.manifest
    facts = {"name": name, "path": str(bundle.path), "model": manifest.model.id, "target": manifest.target}
    return facts | {"quant": manifest.quant, "context": bundle.context, "bytes": bundle.size}


def _here() -> Iterator[tuple[str, Bundle]]:
    """Those in ./bundles."""
    from edgelm.catalogue.store import Store

    for stored in Store(Path("bundles")).bundles():
        yield f"bundles/{stored.name}", stored.bundle
