"""The coordinator: who computes when, and what is written down.

Every repetition asks each engine once before any is asked again, A B C, then B C A …: what slows the machine for a
while slows all alike, no one always follows the same neighbour, and repetition i of one engine pairs with repetition i of another.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.peers.client import Worker, WorkerError, worker
from benchmarks.peers.cold import cached_share, evict
from benchmarks.peers.engines import EngineSpec
from benchmarks.peers.prepare import files
from edgelm.machine.host import read_cpu, read_memory, usable_cpus

_MEMORY_STEPS = 16  # decode steps before memory is read: the first one allocates what there is to allocate
_AGREEMENT = 64  # tokens whose last logits are compared; edgelm takes fewer than 32 for a guess, not for a prompt
_REFERENCES = (
    "edgelm-fp32",
    "torch-fp32",
    "optimum-fp32",
    "llama-f32",
    "edgelm-int8",
    "llama-q8_0",
    "edgelm-int4",
)  # the most exact first
Say = Callable[[str], None]
Ids = Callable[[int, int], list[int]]  # (how many, of which repetition): the same for all engines
Member = TypeVar("Member")


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        prompt: tokens of a prefill.
        steps: of a decode.
        depths: tokens in the cache before a decode.
        repetitions: of everything, after a warm-up.
        threads: of every engine.
        seed: of the random ids.
        drop: the machine's whole page cache, before a cold load.
        spare: MB of memory that must stay free.
    """

    prompt: int = 512
    steps: int = 128
    depths: tuple[int, ...] = (0, 512, 2048)
    repetitions: int = 5
    threads: int = 1
    seed: int = 0
    drop: bool = False
    spare: int = 1500

    @property
    def context(self) -> int:
        """Of every engine: what the tests need, in whole multiples of 256."""
        return -(-max(self.prompt + _MEMORY_STEPS, max(self.depths) + self.steps) // 256) * 256


@dataclass
class Record:
    """What was measured of an engine, one value a repetition. Rates are tokens per second, memory is bytes.

    Attributes:
        engine, label, against: see `EngineSpec`.
        version: of the engine.
        problem: why it has no figures, or no more of them.
        file_bytes: of the model, and of `made_files`.
        made_files: what the engine itself writes when it loads the model first, and reads later, seen from the folder of
            the model.
        import_seconds: of the library, not part of a load.
        agreement: correlation of its logits with the most exact engine's, after the same tokens.
        cold_by, cold_cached: how files left the page cache, and the share of them that was still there.
        values: by column: ``pp512``, ``tg128 @ d512``, ``ttft_seconds``, ``load_cold_seconds``, ``load_warm_seconds``,
            ``peak_bytes``, ``anonymous_bytes``.
    """

    engine: str
    label: str
    against: tuple[str, ...]
    version: str | None = None
    problem: str | None = None
    file_bytes: int | None = None
    import_seconds: float | None = None
    agreement: float | None = None
    cold_by: str | None = None
    cold_cached: float | None = None
    made_files: list[str] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, column: str, value: float | None) -> None:
        """Write a value down; None, what the system does not tell, leaves the column out."""
        if value is not None:
            self.values.setdefault(column, []).append(value)


@dataclass(frozen=True)
class Contender:
    """An engine that takes part: what runs it, what it loads, what is written down of it."""

    spec: EngineSpec
    python: str
    path: Path
    record: Record


def measure(contenders: Sequence[Contender], vocab: int, settings: Settings, say: Say) -> None:
    """Measure all, into their records. One that fails drops out; its record says why."""

    def ids(count: int, repetition: int) -> list[int]:
        random = np.random.default_rng((settings.seed, repetition))
        return [int(i) for i in random.integers(0, vocab, count)]

    _loads(contenders, ids, settings, say)
    with ExitStack() as stack:
        running = _start(contenders, settings, stack, say)
        _agree(running, ids(_AGREEMENT, 0), say)
        _speeds(running, ids, settings, say)


def _loads(contenders: Sequence[Contender], ids: Ids, settings: Settings, say: Say) -> None:
    """Loads and memory, each in a fresh process. No other one lives: its mapped files could not leave the page cache."""
    for repetition, contender in _rounds(contenders, settings.repetitions):
        if contender.record.problem is not None:
            continue
        try:
            _load(contender, repetition, ids(settings.prompt + _MEMORY_STEPS, repetition), settings, say)
        except WorkerError as error:
            _drop_out(contender, error, say)


def _load(contender: Contender, repetition: int, ids: list[int], settings: Settings, say: Say) -> None:
    record, how = contender.record, {"threads": settings.threads, "context": settings.context}
    if repetition:  # the warm-up only needs to have read everything once
        with worker(contender.spec, contender.python) as process:
            read = [*files(contender.path), *(contender.path.parent / file for file in record.made_files)]
            record.cold_by, record.cold_cached = evict(read, drop=settings.drop), cached_share(read)
            cold = process.ask("load", path=str(contender.path), **how)["seconds"]
        record.add("load_cold_seconds", cold)
    with worker(contender.spec, contender.python) as process:
        record.version, record.import_seconds = process.version, process.import_seconds
        answer = process.ask("load", path=str(contender.path), **how)
        warm = answer["seconds"]
        if not repetition:
            record.made_files = [os.path.relpath(file, contender.path.parent) for file in answer["files"]]
            record.file_bytes = (record.file_bytes or 0) + sum(Path(file).stat().st_size for file in answer["files"])
            return
        prompt = ids[: settings.prompt]
        process.ask("prefill", ids=prompt)
        process.ask("decode", before=prompt, ids=ids[settings.prompt :])
        memory = process.ask("memory")
    record.add("load_warm_seconds", warm)
    record.add("peak_bytes", memory["peak"])
    record.add("anonymous_bytes", memory["anonymous"])
    say(f"{record.label}: loads in {cold:.2f} s cold, {warm:.2f} s warm ({repetition}/{settings.repetitions})")


def _start(
    contenders: Sequence[Contender], settings: Settings, stack: ExitStack, say: Say
) -> list[tuple[Contender, Worker]]:
    """A loaded worker of each that is still in."""
    running = []
    for contender in contenders:
        if contender.record.problem is not None:
            continue
        try:
            free, peak = read_memory().usable, max(contender.record.values.get("peak_bytes", [0]))
            if free is not None and free < peak + settings.spare * 1e6:
                raise WorkerError(f"needs {peak / 1e6:,.0f} MB beside the others, {free / 1e6:,.0f} MB are left")
            process = stack.enter_context(worker(contender.spec, contender.python))
            process.ask("load", path=str(contender.path), threads=settings.threads, context=settings.context)
            running.append((contender, process))
        except WorkerError as error:
            _drop_out(contender, error, say)
    return running


def _agree(running: Sequence[tuple[Contender, Worker]], ids: list[int], say: Say) -> None:
    """Compare the logits after the same tokens: engines that run other weights, or run them wrongly, show here."""
    logits: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for contender, process in running:
            file = Path(folder) / f"{contender.spec.name}.npy"
            try:
                process.ask("logits", ids=ids, file=str(file))
                logits[contender.spec.name] = np.load(file)
            except WorkerError as error:
                _drop_out(contender, error, say)
    reference = next((logits[name] for name in _REFERENCES if name in logits), None)
    if reference is None:
        return
    for contender, _ in running:
        found = logits.get(contender.spec.name)
        if found is None:
            continue
        size = min(len(found), len(reference))  # some round the vocabulary up
        contender.record.agreement = float(np.corrcoef(found[:size], reference[:size])[0, 1])


def _speeds(running: Sequence[tuple[Contender, Worker]], ids: Ids, settings: Settings, say: Say) -> None:
    """Prefill and time to first token, then decode at every depth."""
    for depth in (None, *settings.depths):
        before = ids(depth or 0, 0)
        for repetition, (contender, process) in _rounds(running, settings.repetitions):
            if contender.record.problem is not None:
                continue
            try:
                if depth is None:
                    _prefill(contender.record, process, ids(settings.prompt, repetition), repetition, say)
                else:
                    steps = ids(settings.steps if repetition else 1, repetition)
                    _decode(contender.record, process, before, steps, repetition, say)
            except WorkerError as error:
                _drop_out(contender, error, say)


def _prefill(record: Record, process: Worker, ids: list[int], repetition: int, say: Say) -> None:
    answer = process.ask("prefill", ids=ids)
    if repetition:  # the first was the warm-up
        name, rate = f"pp{len(ids)}", len(ids) / answer["seconds"]
        record.add(name, rate)
        record.add("ttft_seconds", answer["ttft_seconds"])
        say(f"{record.label}: {name} {rate:.1f} tok/s ({repetition})")


def _decode(record: Record, process: Worker, before: list[int], ids: list[int], repetition: int, say: Say) -> None:
    answer = process.ask("decode", before=before, ids=ids)
    if repetition:
        name, rate = f"tg{len(ids)}" + (f" @ d{len(before)}" if before else ""), len(ids) / answer["seconds"]
        record.add(name, rate)
        say(f"{record.label}: {name} {rate:.1f} tok/s ({repetition})")


def _rounds(members: Sequence[Member], repetitions: int) -> Iterator[tuple[int, Member]]:
    """(repetition, member): 0 for the warm-up, then each in turn, every repetition beginning with the next one."""
    for repetition in range(repetitions + 1):
        first = repetition % max(1, len(members))
        for member in (*members[first:], *members[:first]):
            yield repetition, member


def _drop_out(contender: Contender, error: WorkerError, say: Say) -> None:
    contender.record.problem = str(error)
    say(f"{contender.record.label}: {error}")


def machine_facts(settings: Settings) -> Mapping[str, Any]:
    """What a table of figures must say of where they come from."""
    memory = read_memory()
    return {
        "cpu": read_cpu().model,
        "cpus": usable_cpus(),
        "threads": settings.threads,
        "memory_bytes": memory.total,
        "load_average": os.getloadavg()[0],
    }
