"""``--adapter-only``: a LoRA adapter as a file beside a bundle; and what such a file holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgelm.cli.show import Bar, fact, print_lines, size
from edgelm.errors import suggest

if TYPE_CHECKING:
    from edgelm.runtime.lora_adapter import RuntimeAdapter

_TAKEN = ("model", "more", "adapter_only", "base", "output", "overwrite", "as_json")


def export_file(load: Callable[[], Callable[..., Path]]) -> None:
    """Do what a command line with ``--adapter-only`` asks for.

    Args:
        load: gives the exporter, once the command line is known to be right.
    """
    context = click.get_current_context()
    given = context.params
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in _TAKEN and context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[-1]} does not go with --adapter-only: the base bundle tells it")
    if given["model"] is None or given["base"] is None:
        raise click.UsageError("--adapter-only needs an adapter's folder, and --base BUNDLE")
    export = load()
    with Bar(silent=given["as_json"]) as bar:
        path = export(given["model"], given["base"], output=given["output"], overwrite=given["overwrite"], progress=bar)
    if given["as_json"]:
        click.echo(json.dumps(adapter_facts(path), indent=2, ensure_ascii=False))
        return
    print_lines([*adapter_lines(path), "", "next: " + suggest("run", given["base"], "--adapter", path, '"…"')])


def adapter_facts(path: Path) -> dict[str, Any]:
    """What an adapter's file holds, for JSON; it is read and checked."""
    adapter = _open(path)
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        "tensor_bytes": adapter.nbytes,
        "matrices": len(adapter.arrays) // 2,
        "adapter": dict(adapter.facts),
    }


def adapter_lines(path: Path) -> Iterator[str]:
    """The same to be read."""
    adapter = _open(path)
    facts = adapter.facts
    yield f"{path}  ({size(path.stat().st_size)})"
    yield fact("adapter", f"{adapter.id}, rank {facts.get('rank')}, alpha {facts.get('alpha')}")
    if facts.get("revision"):
        yield fact("revision", str(facts["revision"]))
    count = len(adapter.arrays) // 2
    beside = f"{count} matri{'x' if count == 1 else 'ces'}"
    yield fact("beside", f"{beside}, {size(adapter.nbytes)} of memory while in use")
    yield fact("base", f"{str(facts['base'])[:12]}…, as lora.json of its bundles says")


def _open(path: Path) -> RuntimeAdapter:
    from edgelm.runtime.lora_adapter import RuntimeAdapter

    return RuntimeAdapter.open(path)
