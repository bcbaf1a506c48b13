"""``edgelm pull``: fetch a model by name, and export it for this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from edgelm.cli.bundles import Order, model_named, pull
from edgelm.cli.options import json_option
from edgelm.cli.show import print_lines, size
from edgelm.errors import OptionError, near, suggest
from edgelm.target.target import load_target


@click.command("pull")
@click.argument("name")
@click.option(
    "--target",
    metavar="NAME|FILE",
    default="auto",
    show_default=True,
    help="The board; auto: this machine's.",
)
@click.option("--quant", metavar="NAME", help="Recipe.  [default: the target's]")
@click.option(
    "-c", "--context", type=int, metavar="N", help="Longest prompt plus answer in tokens.  [default: the target's]"
)
@click.option(
    "--calibrate", metavar="TEXT|builtin|auto|none", help="As of edgelm export; none is the quick way.  [default: auto]"
)
@click.option(
    "--from",
    "mirror",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Look for the model in this folder before the hub: owner/name/, name/ or NAME*.gguf.",
)
@click.option("--force", is_flag=True, help="Export even where memory or disk seem too small.")
@click.option("--overwrite", is_flag=True, help="Make it anew where it is there already.")
@json_option
def command(
    name: str,
    target: str,
    quant: str | None,
    context: int | None,
    calibrate: str | None,
    mirror: Path | None,
    force: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Fetch a model by its name, and export it for this machine into the user's cache.

    `edgelm run NAME` does the same where it is not there yet. NAME is one that `edgelm models` lists, or an id of the
    hub. Bundles lie in ~/.cache/edgelm/models, or where EDGELM_MODELS says; EDGELM_MIRROR is a --from for every command.

    \b
    Examples:
      edgelm pull smollm2-135m
      edgelm pull qwen2.5-0.5b --quant int8 --context 2048
      edgelm pull smollm2-135m --from /media/usb/models --calibrate none
    """
    from edgelm.bundle.reader import Bundle
    from edgelm.catalogue.models import names
    from edgelm.catalogue.store import MIRROR, Store

    board = load_target(target)
    board.recipe(quant)
    if mirror is not None:
        if not mirror.is_dir():
            raise OptionError(f"--from {mirror} is not a folder")
        os.environ[MIRROR] = str(mirror)
    model = model_named(name)
    if model is None:
        raise OptionError(f"{name} is no model's name", hint=near(name, names(), listing="see edgelm models"))
    path = Store.of_user().path(model, board.name, quant or board.default)
    there = path.is_dir() and not overwrite
    if there and context not in (None, Bundle.open(path).context):
        raise OptionError(
            f"{path.name} is there with a context of {Bundle.open(path).context:,}", hint="--overwrite makes it anew"
        )
    bundle = (
        Bundle.open(path)
        if there
        else pull(model, Order(board, quant, context, calibrate, overwrite, force), quiet=as_json)
    )
    if as_json:
        facts = {"name": path.name, "path": str(path), "bytes": bundle.size, "there": there}
        click.echo(json.dumps(facts | {"manifest": bundle.manifest.to_dict()}, indent=2, ensure_ascii=False))
        return
    verb = "is there already" if there else "is ready"
    following = suggest("run", path.name, '"…"')
    print_lines([f"{path.name} {verb}: {size(bundle.size)} in {path}", "", f"next: {following}"])
