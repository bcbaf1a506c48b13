"""``edgelm targets``: the boards that edgelm knows."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from edgelm.cli.show import size, table, width, wrap
from edgelm.target.target import ROLES, RecipeSpec, Target, load_all, load_target, target_toml

_WIDTH = 100


@click.command("targets")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--toml", "as_toml", is_flag=True, help="Print NAME's file, to begin one of your own with.")
def command(name: str | None, as_json: bool, as_toml: bool) -> None:
    """List the boards a model can be exported for, or show one of them.

    NAME is a target's name or your own .toml file.

    \b
    Examples:
      edgelm targets
      edgelm targets rpi5
      edgelm targets ./myboard.toml --json
      edgelm targets rpi5 --toml > myboard.toml
    """
    if as_toml and (as_json or name is None):
        raise click.UsageError("--toml prints the file of one target: edgelm targets NAME --toml")
    if name is None:
        targets = load_all()
        click.echo(json.dumps([t.to_dict() for t in targets], indent=2) if as_json else _table(targets))
    elif as_toml:
        click.echo(target_toml(name), nl=False)
    else:
        target = load_target(name)
        click.echo(json.dumps(target.to_dict(), indent=2) if as_json else _details(target))


def _table(targets: Sequence[Target]) -> str:
    rows = [("target", "core", "cores", "RAM GiB", "GB/s", "default", "threads", "context")]
    rows += [
        (
            target.name,
            target.cpu.core,
            str(target.cpu.cores),
            f"{target.memory.ram_mb / 1024:g}",
            f"{target.memory.bandwidth_gbs:.1f}",
            target.default,
            str(target.cpu.threads),
            str(target.runtime.context),
        )
        for target in targets
    ]
    note = "GB/s: at which decode reads weights. More about one: edgelm targets NAME"
    return "\n".join([*table(rows, left=(0, 1, 5), drop=(2, 6, 7)), "", note])


def _details(target: Target) -> str:
    cpu, memory, runtime = target.cpu, target.memory, target.runtime
    large = f" ({cpu.large_threads} for weights of {cpu.large_mb} MB and more)" if cpu.large_mb else ""
    rows = [
        ("cpu", f"{cpu.cores} x {cpu.core} ({cpu.arch}): {' '.join(cpu.features)}"),
        ("threads", f"{cpu.threads} in decode{large}, {cpu.prefill_threads} in prefill"),
        ("memory", f"{size(memory.ram_mb << 20)}, {size(memory.usable_mb << 20)} of it for a model"),
        ("bandwidth", f"{memory.bandwidth_gbs:g} GB/s in decode. {memory.source}"),
        ("runtime", f"{runtime.provider}, {runtime.activations} activations, context of {runtime.context} tokens"),
    ]
    lines = [target.name, f"  {target.description}", ""]
    lines += [_row(label, text) for label, text in rows]
    if target.rates is not None:
        lines.append(_row("rates", f"{'measured' if target.rates.measured else 'not measured'}. {target.rates.source}"))
    for quant, recipe in target.recipes.items():
        lines += ["", f"  {quant}{' (default)' if quant == target.default else ''}", *_recipe(recipe)]
    built_in = [quant for quant in target.quants if quant not in target.recipes]
    return "\n".join([*lines, "", _row("also", f"{' and '.join(built_in)}: weights that are not quantised")])


def _recipe(recipe: RecipeSpec) -> list[str]:
    lines = [_row(f"  {role}", str(getattr(recipe, role))) for role in ROLES if role != "kv"]
    lines.append(
        _row(
            "  kv", f"{recipe.kv.bits}-bit" + (" floats" if recipe.kv.op == "none" else " integers, scales per channel")
        )
    )
    return lines + ([_row("  note", recipe.note)] if recipe.note else [])


def _row(label: str, text: str) -> str:
    return "\n".join(wrap(text, min(width() or _WIDTH, _WIDTH), f"  {label:<13}", " " * 15))
