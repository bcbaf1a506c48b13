"""``edgelm verify``: check every byte of a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import click

from edgelm.bundle.reader import ANSWERS, PROMPT, Bundle
from edgelm.cli.bundles import find_bundle
from edgelm.cli.options import bundle_argument, json_option
from edgelm.cli.show import Bar, print_lines, size, table
from edgelm.errors import BundleError, PromptCacheError


@click.command("verify")
@bundle_argument
@json_option
def command(bundle: str, as_json: bool) -> None:
    """Read every file of a bundle whole and compare it with the manifest's SHA-256.

    Exits with 1 if a file is missing or differs.

    \b
    Examples:
      edgelm verify bundles/edgelm-home-rpi5-int4
      edgelm verify my-bundle --json
    """
    opened = Bundle.open(find_bundle(bundle, make=False), check=False)  # which would end at the first file that differs
    problems = _check(opened)
    bad = {name: problem for name, problem in problems.items() if problem}
    sizes = {name: opened.files[name].bytes for name in problems}
    if as_json:
        files = [{"name": n, "bytes": sizes[n], "ok": p is None, "problem": p} for n, p in problems.items()]
        click.echo(json.dumps({"ok": not bad, "path": str(bundle), "files": files}, indent=2))
    else:
        rows = [("ok" if problem is None else "bad", name, size(sizes[name])) for name, problem in problems.items()]
        print_lines(table(rows, left=(0, 1)))
        print_lines(bad.values())
    if bad:
        raise BundleError(
            f"{bundle}: {len(bad)} of {len(problems)} files differ from the manifest",
            hint="copy the bundle again, or export it again",
        )


def _check(bundle: Bundle) -> dict[str, str | None]:
    """What is wrong with each file; None where nothing is."""
    problems: dict[str, str | None] = {}
    with Bar() as bar:
        bar.start("reading", bundle.size)
        for name, entry in sorted(bundle.files.items()):
            one = replace(bundle, manifest=replace(bundle.manifest, files={name: entry}))
            problems[name] = next(iter(one.verify(on_bytes=partial(bar.advance, detail=name))), None)
    if problems.get(ANSWERS, "") is None:
        try:
            _ = bundle.answer_grammar
        except BundleError as error:
            problems[ANSWERS] = str(error)
    if PROMPT in problems and not any(problems.values()):
        from edgelm.runtime.kv.compiled_prompt import CompiledPrompt

        try:
            CompiledPrompt(bundle).load()
        except (BundleError, PromptCacheError) as error:
            problems[PROMPT] = str(error)
    return problems
