"""``edgelm export`` of several models, in turn or on a cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from edgelm.bundle.reader import Bundle
from edgelm.cli.scheduler import executor
from edgelm.cli.show import Bar, print_lines, size, table
from edgelm.errors import EdgeLMError, ExportError, OptionError
from edgelm.target.target import Target

_OF_ONE = ("recipe", "revision", "file")  # options that mean one model


def export_many(
    models: Sequence[str],
    target: Target,
    quant: str | None,
    options: Mapping[str, Any],
    *,
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Export models, each into its folder; those that cannot be exported are told at the end, by the first error.

    Raises:
        EdgeLMError: one could not be exported.
    """
    for name in _OF_ONE:
        if options.get(name) is not None and len(models) > 1:
            raise OptionError(f"--{name} goes with one model alone")
    from edgelm.cluster.exporting import Export, exported
    from edgelm.exporter.plan.options import ExportOptions

    folder = Path(options["output"] or "bundles")
    kept = {name: value for name, value in options.items() if name != "output"}
    tasks, taken = [], dict[Path, str]()
    for model in models:
        named = ExportOptions(model=model, **kept).folder(target, quant or target.default).name
        output = (folder / named).absolute()
        if (other := taken.setdefault(output, model)) != model or models.count(model) > 1:
            raise OptionError(f"{other} and {model} would both become {output}", hint="export one of them by itself")
        tasks.append(Export(model, target, quant, output, kept))
    found, failed = dict[str, Bundle](), dict[str, EdgeLMError]()
    with Bar(silent=as_json) as bar, executor(scheduler, bar, silent=as_json) as (does, progress):
        if not does.local:
            does.check_folder(folder)
        for place, outcome in does.run(exported, tasks, progress):
            model = tasks[place].model
            if isinstance(outcome, EdgeLMError):
                failed[model] = outcome
                progress.say(f"{model}: {outcome}")
                continue
            found[model] = Bundle.open(outcome)
            progress.say(f"{model}: {outcome} ({len(found)}/{len(tasks)})")
    _tell(models, found, failed, as_json=as_json)


def _tell(
    models: Sequence[str], found: Mapping[str, Bundle], failed: Mapping[str, EdgeLMError], *, as_json: bool
) -> None:
    if as_json:
        told = [
            {"model": m, "path": str(found[m].path), "bytes": found[m].size, "manifest": found[m].manifest.to_dict()}
            for m in models
            if m in found
        ]
        reasons = {model: str(error) for model, error in failed.items()}
        click.echo(json.dumps({"bundles": told, "failed": reasons}, indent=2, ensure_ascii=False))
    elif found:
        rows = [("model", "bundle", "size")]
        rows += [(m, str(found[m].path), size(found[m].size)) for m in models if m in found]
        print_lines(table(rows, left=(0, 1), keep=(1,)))
    if failed:
        model, error = next(iter(failed.items()))
        raise ExportError(f"{len(failed)} of {len(models)} models: {model}: {error}", hint=error.hint)
