"""``edgelm cache``: the prepacked weights cached for this processor."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from edgelm.bundle.reader import Bundle
from edgelm.cli.bundles import find_bundle
from edgelm.cli.options import json_option
from edgelm.cli.show import Bar, fact, print_lines, size, table
from edgelm.errors import DeviceError, OptionError
from edgelm.runtime.ort.weightcache import LIMIT, SWITCH, Entry, WeightCache, limit_bytes, switched_on, user_folder


@click.group("cache", invoke_without_command=True, subcommand_metavar="[COMMAND] [ARGS]...")
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List, verify or clear the cache of prepacked weights.

    The first load of a bundle writes its weights in the layout of this processor's kernels (prepacked); later loads map
    that file instead of holding a copy in memory. EDGELM_WEIGHT_CACHE=off does without, EDGELM_WEIGHT_CACHE_MB is the
    most that all of it may take.

    \b
    Examples:
      edgelm cache
      edgelm cache --json
      edgelm cache verify
      edgelm cache clear my-bundle
    """
    if ctx.invoked_subcommand is not None:
        return
    cache = _cache()
    entries = [entry for entry in cache.entries() if entry.useful]
    if as_json:
        facts = {"folder": str(cache.folder), "limit_bytes": cache.limit, "on": switched_on()}
        click.echo(json.dumps(facts | {"entries": [_facts(entry) for entry in entries]}, indent=2))
        return
    click.echo(f"{cache.folder}")
    print_lines(
        [
            fact("size", f"{size(sum(entry.size for entry in entries))} of {size(cache.limit)} ({LIMIT})"),
            *([] if switched_on() else [fact("switched off", f"by {SWITCH}")]),
        ]
    )
    if entries:
        rows = [("model", "quant", "size", "used", "onnxruntime", "processor", "bundle")]
        print_lines(["", *table([*rows, *map(_row, reversed(entries))], left=(0, 1, 3, 4, 5, 6))])


@command.command("clear")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--down-to", type=float, metavar="MB", help="Remove what was unused for longest, until no more is left.")
@json_option
def clear(bundle: Path | None, down_to: float | None, as_json: bool) -> None:
    """Remove all prepacked weights, or those of one bundle.

    A model that is running keeps what it has mapped.

    \b
    Examples:
      edgelm cache clear
      edgelm cache clear my-bundle
      edgelm cache clear --down-to 500
    """
    if bundle is not None and down_to is not None:
        raise click.UsageError("BUNDLE and --down-to exclude each other")
    if down_to is not None and not 0 <= down_to < float("inf"):
        raise OptionError(f"--down-to must be a number of MB, not {down_to}")
    cache = _cache()
    cache.sweep()
    if down_to is not None:
        before = {entry.folder: entry.size for entry in cache.entries()}
        gone = [before.get(entry.folder, 0) for entry in cache.shrink(int(down_to * 1e6))]
    else:
        digest = None if bundle is None else Bundle.open(find_bundle(bundle, make=False), check=False).digest
        chosen = [entry for entry in cache.entries() if digest in (None, entry.facts.get("bundle"))]
        gone = [entry.size for entry in chosen]
        for entry in chosen:
            entry.remove()
    left = [entry for entry in cache.entries() if entry.folder.is_dir()] if down_to is None and bundle is None else []
    if left:
        raise DeviceError(f"{left[0].folder} cannot be removed", hint="is it another user's?")
    if as_json:
        click.echo(json.dumps({"folder": str(cache.folder), "removed": len(gone), "removed_bytes": sum(gone)}))
    else:
        click.echo(f"removed {len(gone)} {'entry' if len(gone) == 1 else 'entries'}, {size(sum(gone))}")


@command.command("verify")
@json_option
def verify(as_json: bool) -> None:
    """Read all prepacked weights and compare them with their checksums; what is damaged is removed.

    Exits with 1 if something is. Nothing wrong comes of damage: a load compares with what it would pack.
    """
    cache = _cache()
    entries = [entry for entry in cache.entries() if entry.useful]
    problems = _check(entries)
    bad = [(entry, problem) for entry, problem in zip(entries, problems, strict=True) if problem is not None]
    if as_json:
        found = [_facts(e) | {"ok": p is None, "problem": p} for e, p in zip(entries, problems, strict=True)]
        click.echo(json.dumps({"ok": not bad, "folder": str(cache.folder), "entries": found}, indent=2))
    else:
        rows = [
            ("ok" if p is None else "bad", e.folder.name, str(e.facts.get("model")))
            for e, p in zip(entries, problems, strict=True)
        ]
        print_lines(table(rows, left=(0, 1, 2)) if rows else [])
    for entry, _ in bad:
        entry.remove()
    if bad:
        entry, problem = bad[0]
        raise DeviceError(
            f"{entry.folder}: {problem}; {len(bad)} of {len(entries)} entries were damaged and are removed",
            hint="they are made anew when the model is loaded; damage to files may mean that the disk fails",
        )


def _check(entries: Sequence[Entry]) -> list[str | None]:
    with Bar() as bar:
        bar.start("reading", sum(entry.size for entry in entries))
        return [entry.problem(on_bytes=partial(bar.advance, detail=entry.folder.name)) for entry in entries]


def _cache() -> WeightCache:
    folder = user_folder()
    if folder is None:
        raise DeviceError("this user has no home folder, and so no cache", hint="set XDG_CACHE_HOME")
    return WeightCache(folder, limit_bytes())


def _facts(entry: Entry) -> dict[str, Any]:
    names = ("model", "quant", "bundle", "path", "onnxruntime", "cpu")
    used = datetime.datetime.fromtimestamp(entry.used, datetime.UTC).isoformat(timespec="seconds")
    facts = {"key": entry.folder.name, "bytes": entry.size, "last_used": used}
    return facts | {name: entry.facts.get(name) for name in names}


def _row(entry: Entry) -> tuple[str, ...]:
    facts = _facts(entry)
    return (
        str(facts["model"]),
        str(facts["quant"]),
        size(entry.size),
        _ago(time.time() - entry.used),
        str(facts["onnxruntime"]),
        str(facts["cpu"]),
        str(facts["path"]),
    )


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
