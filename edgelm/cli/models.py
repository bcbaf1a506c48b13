"""``edgelm models``: small models that have a name, and what to expect of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import click

from edgelm.catalogue.models import Expected, Model, find, models, names
from edgelm.cli.options import json_option
from edgelm.cli.show import fact, parameters, print_lines, size, table
from edgelm.errors import OptionError, near
from edgelm.target.target import AUTO, Target, load_target


@click.command("models")
@click.argument("name", required=False)
@click.option(
    "--target",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="The board that speeds are for; auto: this machine's.",
)
@json_option
def command(name: str | None, target: str, as_json: bool) -> None:
    """List small models by name, with licence, use, smallest board and expected speed; or show one of them.

    Any command that takes a MODEL or BUNDLE takes such a name. Speeds are those of `edgelm estimate`, in the target's
    default recipe behind a short prompt; a model that does not fit the target has none.

    \b
    Examples:
      edgelm models
      edgelm models --target rpi5
      edgelm models smollm2-135m
    """
    board = load_target(target)
    if board.name not in _known():
        raise OptionError(
            f"{target} is no target of the table", hint=f"edgelm estimate MODEL --target {target} tells its speed"
        )
    if name is None:
        found = models()
        lines = _table(found, board, auto=target in AUTO)
    else:
        model = find(name)
        if model is None:
            raise OptionError(f"no model is called {name!r}", hint=near(name, names(), listing="models"))
        found, lines = (model,), _details(model, board)
    if as_json:
        told = [_facts(model, board) for model in found]
        click.echo(json.dumps(told[0] if name is not None else told, indent=2, ensure_ascii=False))
    else:
        print_lines(lines)


def _known() -> frozenset[str]:
    from edgelm.target.target import target_names

    return frozenset(target_names())


def _facts(model: Model, board: Target) -> dict[str, Any]:
    expected = model.expected(board.name)
    return {
        "name": model.name,
        "id": model.id,
        "parameters": model.parameters,
        "licence": model.licence,
        "terms": model.terms,
        "about": model.about,
        "smallest_board": model.smallest,
        "target": board.name,
        "expected": None
        if expected is None
        else {
            "quant": expected.quant,
            "context": expected.context,
            "decode_tokens_per_second": expected.decode,
            "prefill_tokens_per_second": expected.prefill,
            "memory_bytes": expected.memory,
            "bundle_bytes": expected.bundle,
            "fits": _fits(expected, board),
        },
    }


def _fits(expected: Expected, board: Target) -> bool:
    """By the board's memory as it is here, where that is this machine."""
    return expected.memory <= board.memory.usable_mb << 20


def _table(found: Sequence[Model], board: Target, *, auto: bool) -> Iterator[str]:
    where = f"{board.name}, as this machine" if auto else board.name
    yield f"tok/s: tokens a second of an answer, forecast for {where} with {board.cpu.threads} threads;"
    yield "none where it does not fit. smallest: the board with the memory, however slow"
    yield ""
    rows = [("name", "size", "licence", "smallest", "tok/s", "for")]
    for model in found:
        expected = model.expected(board.name)
        speed = "" if expected is None or not _fits(expected, board) else _speed(expected.decode)
        licence = model.licence + ("*" if model.terms else "")
        rows.append((model.name, parameters(model.parameters), licence, model.smallest or "none", speed, model.about))
    yield from table(rows, left=(0, 2, 3, 5), drop=(1, 3))
    yield ""
    yield "* its terms must be accepted on the hub first"
    yield 'try one: edgelm run smollm2-135m "Hello"'
    yield "more of one, on every board: edgelm models NAME"


def _details(model: Model, board: Target) -> Iterator[str]:
    yield model.name
    yield fact("for", model.about)
    yield fact("model", "comes with edgelm" if model.embedded else f"{model.id} on the hub")
    yield fact("parameters", parameters(model.parameters))
    yield fact("licence", model.licence + ("; its terms must be accepted on the hub first" if model.terms else ""))
    yield fact("smallest", model.smallest or "none of the boards has the memory")
    yield ""
    rows: list[tuple[str, ...]] = [("target", "quant", "context", "bundle", "memory", "tok/s", "prefill", "fits")]
    for name in sorted(_known()):
        expected = model.expected(name)
        if expected is not None:
            rows.append(_row(name, expected, board))
    yield from table(rows, left=(0, 1, 7), drop=(6, 2), indent="  ")
    yield ""
    yield f'  run it here:          edgelm run {model.name} "Hello"'
    yield f"  export it for one:    edgelm export {model.name} --target {model.smallest or 'rpi5'}"


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _row(name: str, expected: Expected, board: Target) -> tuple[str, ...]:
    fits = _fits(expected, board) if name == board.name else expected.fits
    speeds = (_speed(expected.decode), f"{expected.prefill:,.0f}")
    figures = (f"{expected.context:,}", size(expected.bundle), size(expected.memory), *speeds)
    return (name, expected.quant, *figures, "yes" if fits else "no")
