"""``edgelm emulate``: edgelm on an emulated ARM core."""

from __future__ import annotations

import signal

import click

from edgelm.cli.failures import say
from edgelm.emulate import Board, prepare
from edgelm.errors import OptionError
from edgelm.target.target import load_target


@click.command("emulate", context_settings={"ignore_unknown_options": True})
@click.option("--target", metavar="NAME|FILE", help="The board: its core, name and memory.")
@click.option("--core", metavar="CORE", help="A core by QEMU's name instead: cortex-a55, neoverse-v1, max, …")
@click.option("--mirror", metavar="URL", help="A Debian mirror.  [default: the one in apt's sources]")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(
    ctx: click.Context, target: str | None, core: str | None, mirror: str | None, args: tuple[str, ...]
) -> None:
    """Run edgelm on an ARM core that this machine emulates: the board's own instructions, not its speed.

    ARGS is a command line of edgelm. The first time downloads QEMU, an aarch64 Python and the aarch64 wheels, about
    150 MB, into ~/.cache/edgelm; it needs Debian or Ubuntu on x86-64, and not root. Without ARGS that is all it does.

    \b
    Examples:
      edgelm emulate --target rpi4 -- run bundles/my-rpi4-int8 "Hello"
      edgelm emulate --target rpi-zero2w -- doctor
      edgelm emulate --core neoverse-v1 -- bench bundles/my-rpi5-int4
    """
    chosen = load_target(target) if target else None
    if args and not (target or core):
        raise OptionError("which board?", hint="--target rpi4, or --core cortex-a72")
    sandbox = prepare(mirror, lambda text: say("note", text))
    if not args:
        click.echo(f"ready: {sandbox.folder}")
        return
    board = Board.of(sandbox, chosen, core)
    wanted = core or (chosen.cpu.core if chosen else "")
    if board.core != wanted:
        say("note", f"QEMU has no {wanted}: {board.core} stands in for it")
    code = board.edgelm(args[1:] if args[0] == "edgelm" else args).returncode
    if code == -signal.SIGILL:
        say("error", f"a program used an instruction that {board.core} does not have")
    ctx.exit(code if code >= 0 else 128 - code)
