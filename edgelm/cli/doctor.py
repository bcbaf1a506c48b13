"""``edgelm doctor``: look at this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgelm.cli.bundles import stored_bundle
from edgelm.cli.on import BoardCommand
from edgelm.cli.show import width, wrap
from edgelm.device.doctor import Examination, examine
from edgelm.device.finding import Finding
from edgelm.device.save import check_file, save_target

_WHAT = 12  # columns of what a finding is about
_SYMBOLS = {"ok": "✓", "warn": "!", "fail": "✗"}
_ASCII = str.maketrans({"✓": "+", "✗": "x", "→": "->", "·": "-", "°": "", "…": "..."})  # for terminals without UTF-8


@click.command("doctor", cls=BoardCommand, reads=("bundle",), writes=("save",))
@click.option("--bundle", type=click.Path(path_type=Path), help="Also judge whether this bundle suits the machine.")
@click.option(
    "--save", type=click.Path(path_type=Path), metavar="FILE.toml", help="Also write a target file for this machine."
)
@click.option("--overwrite", is_flag=True, help="Replace a file that --save finds there already.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, bundle: Path | None, save: Path | None, overwrite: bool, as_json: bool) -> None:
    """Say what this machine is, whether it is ready, and what slows it down.

    Reads memory for about two seconds to measure its bandwidth. Exits with 1 if something must be mended first.

    \b
    Examples:
      edgelm doctor
      edgelm doctor --bundle bundles/demo-rpi5-int4
      edgelm doctor --on ssh:pi@raspberrypi
      edgelm doctor --save myboard.toml    for: --target ./myboard.toml
    """
    if save is not None:
        check_file(save, overwrite=overwrite)  # before anything is measured
    shown: list[Finding] = []

    def tell(finding: Finding) -> None:
        """As it comes: measuring takes seconds."""
        shown.append(finding)
        if not as_json:
            click.echo(_printable(_lines(finding)))

    examined = examine(bundle=None if bundle is None else stored_bundle(str(bundle)) or bundle, tell=tell)
    findings = examined.findings
    if save is not None:
        save_target(examined, save, overwrite=overwrite)
    failed = any(finding.level == "fail" for finding in findings)
    if as_json:
        click.echo(json.dumps(_facts(examined, failed, save), indent=2))
    else:
        click.echo(f"\n{_summary(findings)}")
        if save is not None:
            click.echo(f"saved: {save}")
    ctx.exit(1 if failed else 0)


def _facts(examined: Examination, failed: bool, save: Path | None) -> dict[str, Any]:
    saved = {} if save is None else {"saved": str(save)}
    return {"ok": not failed, "findings": [f.to_dict() for f in examined.findings], **saved}


def _lines(finding: Finding) -> str:
    """A finding, within the terminal: what it is about, how it stands, what to do."""
    columns = width() or 200
    indent = " " * (_WHAT + 4)
    lines = wrap(finding.detail, columns, f"{_SYMBOLS[finding.level]} {finding.what:<{_WHAT}}  ", indent)
    if finding.todo:
        lines += wrap(finding.todo, columns, f"{indent}→ ", f"{indent}  ")
    return "\n".join(lines)


def _summary(findings: Sequence[Finding]) -> str:
    fails, warnings = (sum(finding.level == level for finding in findings) for level in ("fail", "warn"))
    if fails:
        return f"{fails} to mend before models can run here" + (f", {warnings} to look at" if warnings else "")
    return f"ready, {warnings} to look at" if warnings else "ready"


def _printable(text: str) -> str:
    """`text` as the terminal can show it."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text
