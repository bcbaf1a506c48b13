"""``edgelm families``: which models are exported natively."""

from __future__ import annotations

import json
import textwrap

import click

from edgelm.cli.show import width as terminal

_WIDTH = 100


@click.command("families")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the model families that are exported natively, and what is particular to each.

    A model's family is told by `model_type` in its config.json. Other text-generation models go through Optimum.

    \b
    Examples:
      edgelm families
      edgelm families --json
    """
    from edgelm.exporter.families import all_families

    families = all_families()
    if as_json:
        rows = [{"name": f.name, "model_types": list(f.model_types), "about": f.about} for f in families]
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(len(name) for family in families for name in family.model_types)
    columns = min(terminal() or _WIDTH, _WIDTH)
    for family in families:
        about = textwrap.wrap(family.about, columns - width - 2)
        names = [*family.model_types, *[""] * (len(about) - len(family.model_types))]
        about += [""] * (len(names) - len(about))
        for name, line in zip(names, about, strict=True):
            click.echo(f"{name:<{width}}  {line}".rstrip())
    click.echo("\nOther text-generation models go through Optimum: pip install 'edgelm[optimum]'")
