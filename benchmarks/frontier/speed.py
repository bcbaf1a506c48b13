"""How fast each quantised model is, beside how good: through the workers of `benchmarks.peers`, all in turn."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.frontier.measure import Case, Row
from benchmarks.peers.engines import EngineSpec
from benchmarks.peers.measure import Contender, Record, Settings, machine_facts, measure
from edgelm.machine.host import usable_cpus

_WORKERS = {"edgelm": ("on_edgelm", "edgelm"), "llama.cpp": ("on_llama", "llama")}


@dataclass(frozen=True)
class Speeds:
    """What was timed, and where.

    Attributes:
        rows: with their speeds.
        facts: of the machine, and the settings.
    """

    rows: list[Row]
    facts: dict[str, Any]


def timed(
    rows: Sequence[Row], cases: Sequence[Case], folder: Path, llama_python: str | None, vocab: int, repetitions: int
) -> Speeds:
    """The rows with tokens a second in a prompt of 512 and in a decode of 128, and the peak of memory.

    Raises:
        click.ClickException: an engine cannot run its model.
    """
    settings = Settings(depths=(0,), repetitions=repetitions, threads=usable_cpus())
    contenders = [_contender(case, folder, llama_python) for case in cases]
    measure(contenders, vocab, settings, lambda text: click.echo(text, err=True))
    records = [contender.record for contender in contenders]
    if problem := next((record for record in records if record.problem), None):
        raise click.ClickException(f"{problem.label}: {problem.problem}")
    decode, prefill = f"tg{settings.steps}", f"pp{settings.prompt}"
    found = [
        replace(
            row,
            prefill=tuple(record.values[prefill]),
            decode=tuple(record.values[decode]),
            peak=median(record.values["peak_bytes"]) if record.values.get("peak_bytes") else None,
        )
        for row, record in zip(rows, records, strict=True)
    ]
    return Speeds(found, {**machine_facts(settings), "repetitions": repetitions})


def _contender(case: Case, folder: Path, llama_python: str | None) -> Contender:
    worker, kind = _WORKERS[case.engine]
    label = f"{case.engine} {case.name}"
    python = sys.executable if kind == "edgelm" else str(llama_python)
    return Contender(
        EngineSpec(label, label, worker, kind, case.name),
        python,
        (folder / case.file).absolute(),
        Record(label, label, ()),
    )
