"""A whole benchmark of a bundle, and its formats: Markdown, CSV, JSON, JSON lines."""

from __future__ import annotations

import csv
import datetime
import io
import json
import platform
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from os import PathLike
from typing import Any

from edgelm.bench import sustained
from edgelm.bench.drafted import measure_drafted
from edgelm.bench.energy import Log, Meters, lines, reading, with_energy
from edgelm.bench.memory import MemoryUse, memory_use
from edgelm.bench.speed import OnStep, Rates, SpeedTest, measure, plan
from edgelm.bench.sustained import UNRELIABLE, Sustained
from edgelm.bundle.reader import Bundle
from edgelm.machine.host import read_cpu
from edgelm.machine.others import Others
from edgelm.machine.sensors import SensorSummary
from edgelm.profile.profile import Profile
from edgelm.runtime.engine import Engine
from edgelm.runtime.loop.draft import DraftModel, load_both
from edgelm.runtime.lora_adapter import RuntimeAdapter
from edgelm.runtime.ort.options import DEFAULTS, LoadOptions
from edgelm.runtime.ort.session import version as onnxruntime_version
from edgelm.runtime.text.prompt import open_tokenizer
from edgelm.version import __version__

_SPARE = 0.2  # of a processor that others may take: the system's own work
FORMATS = ("md", "json", "csv", "jsonl")


@dataclass(frozen=True)
class Report:
    """A benchmark.

    Attributes:
        model, target, quant: from the manifest.
        parameters: of the model; `size_bytes` of the bundle on disk; `weights_bytes` read for every token.
        cpu, threads, provider, onnxruntime, edgelm: what it ran on.
        load_seconds: what loading took.
        memory: at the end.
        results: of each test.
        notes: what was measured otherwise than usual.
        prefill_threads: for prefill.
        packed: whether prepacked weights were mapped from the cache.
        sensors: heat, clocks, throttling and power meanwhile; None where they were not read.
        bundle_sha256: its digest; `adapter` the one computed with.
        arch, cores, emulated, python: the machine, and the Python that ran.
        sustained: speed by the minute, where that was asked for; `results` then has every round.
        profile: the device profile that it ran by, and its `settings`; None for none.
        other_cpus: how many processors' time other programs took meanwhile; None where the machine does not tell.
        at: when it ended, in UTC.
    """

    model: str
    target: str
    quant: str
    parameters: int
    size_bytes: int
    weights_bytes: int
    cpu: str | None
    threads: int
    provider: str
    onnxruntime: str
    edgelm: str
    load_seconds: float
    memory: MemoryUse
    results: tuple[Rates, ...]
    notes: tuple[str, ...] = ()
    prefill_threads: int | None = None
    packed: bool = False
    sensors: SensorSummary | None = None
    sustained: Sustained | None = None
    bundle_sha256: str | None = None
    adapter: str | None = None
    arch: str | None = None
    cores: int | None = None
    emulated: bool = False
    python: str | None = None
    profile: str | None = None
    settings: Mapping[str, Any] | None = None
    other_cpus: float | None = None
    at: str | None = None

    @property
    def disturbed(self) -> bool:
        """Whether other programs took processors that it would have computed with."""
        if self.other_cpus is None or not self.cores:
            return False
        return min(self.threads, self.cores) + self.other_cpus > self.cores + _SPARE

    def effective_gbs(self, rates: Rates) -> float | None:
        """Weight bytes read per second of a decode test, in GB/s (10**9); None for a prompt, and with drafts."""
        single = rates.test.generation and not rates.test.kind
        return self.weights_bytes * rates.mean / 1e9 if single else None

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        facts = asdict(replace(self, sensors=None, results=(), sustained=None))
        told = {
            name: None if (part := getattr(self, name)) is None else part.to_dict() for name in ("sensors", "sustained")
        }
        return facts | told | {"results": [self._result(rates) for rates in self.results]}

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict for each test, what they share included."""
        nested = ("results", "memory", "notes", "sensors", "sustained", "settings")
        facts = {
            key: value
            for key, value in asdict(replace(self, sensors=None, sustained=None)).items()
            if key not in nested
        }
        memory = {"peak_memory_bytes": self.memory.peak, "anonymous_memory_bytes": self.memory.anonymous}
        lists = ("rates", "ttft_seconds_each")
        told = self._sensed()
        return [
            facts | memory | told | {key: value for key, value in self._result(rates).items() if key not in lists}
            for rates in self.results
        ]

    def _sensed(self) -> dict[str, Any]:
        """The sensors' figures, flat."""
        sensors = self.sensors
        return {
            "power_source": sensors and sensors.power,
            "idle_watts": sensors and sensors.idle_watts,
            "celsius_start": sensors and sensors.celsius_start,
            "celsius_end": sensors and sensors.celsius_end,
            "throttled_share": sensors and sensors.throttled_share,
        }

    def _result(self, rates: Rates) -> dict[str, Any]:
        return {
            "test": rates.test.name,
            "n_prompt": rates.test.prompt,
            "n_gen": rates.test.generation,
            "n_depth": rates.test.depth,
            "avg_ts": rates.mean,
            "stddev_ts": rates.stddev,
            "unreliable": self.disturbed or unreliable(rates),
            "repetitions": len(rates.rates),
            "ttft_seconds": rates.ttft,
            "effective_gbs": self.effective_gbs(rates),
            "joules_per_token": rates.joules_per_token,
            "gross_joules_per_token": rates.gross_joules_per_token,
            "rates": list(rates.rates),
            "ttft_seconds_each": list(rates.ttft_seconds),
        }


def unreliable(rates: Rates) -> bool:
    """Whether the repetitions differ too widely for their mean to stand for them."""
    return rates.stddev > UNRELIABLE * rates.mean


@dataclass(frozen=True)
class BenchOptions:
    """What is measured of a bundle.

    Attributes:
        prompts, generations, depths: see `plan`.
        repetitions, seed: see `measure`.
        draft: a draft bundle, with which decoding a text is measured, too.
        adapter: a LoRA adapter's file to compute with.
        meters: which sensors are read meanwhile; None for none.
        sustained: seconds for which a prompt and a generation are repeated, and told by the minute; in place of
            `repetitions`, and without `draft` and `depths`.
        profile: the device profile whose settings are taken where none are given; None for none.
    """

    prompts: Sequence[int] | None = None
    generations: Sequence[int] | None = None
    depths: Sequence[int] = (0,)
    repetitions: int = 5
    seed: int = 0
    draft: Bundle | None = None
    adapter: str | PathLike[str] | None = None
    meters: Meters | None = None
    sustained: float | None = None
    profile: Profile | None = None


def benchmark(
    bundle: Bundle,
    options: BenchOptions = BenchOptions(),
    loading: LoadOptions = DEFAULTS,
    *,
    on_step: OnStep = lambda done, total, name: None,
) -> Report:
    """Load a bundle and measure it.

    Args:
        bundle: the bundle.
        options: what is measured.
        loading: how it is loaded.
        on_step: called before each run.

    Raises:
        OptionError: lengths that do not fit, or other arguments out of range.
        AdapterError: the adapter is not this bundle's.
        BundleError, DeviceError: the bundle cannot be loaded or run here.
    """
    tests, notes = plan(bundle.context, options.prompts, options.generations, options.depths)
    tuned = options.profile
    loading = loading if tuned is None else replace(loading, settings=tuned.settings)
    adapter = None if options.adapter is None else RuntimeAdapter.open(options.adapter)
    if adapter is not None:
        adapter.expect_for(bundle)
        notes.append(f"with the adapter {adapter.id}")
    with reading(options.meters) as log, _loaded(bundle, options.draft, loading) as (engine, small):
        tokenizer = open_tokenizer(bundle)  # after the engine, as `edgelm.load` does it
        bos = tokenizer.bos if tokenizer.encode("")[:1] == [tokenizer.bos] else None
        engine.adapt(adapter)
        over_time, others = None, Others.watch()
        if options.sustained is None:
            results = measure(
                engine, tests, repetitions=options.repetitions, bos=bos, seed=options.seed, on_step=on_step
            )
        else:
            results, over_time = sustained.run(
                engine,
                _one_of_each(tests),
                options.sustained,
                log,
                bos=bos,
                seed=options.seed,
                on_round=lambda done, total, what: on_step(int(done), int(total), what),
            )
        if small is not None:
            counts = list(dict.fromkeys(test.generation for test in tests))
            more, told = measure_drafted(engine, small, tokenizer, counts, options.repetitions, on_step=on_step)
            results, notes = results + more, notes + told
        busy = others.cpus()
        report = _report(bundle, engine, results, notes, log)
        report = replace(report, sustained=over_time, adapter=None if adapter is None else adapter.id)
        report = replace(report, other_cpus=busy)
        return report if tuned is None else replace(report, profile=tuned.id, settings=tuned.settings.to_dict())


def _one_of_each(tests: Sequence[SpeedTest]) -> list[SpeedTest]:
    """The first prompt and the first generation."""
    first = {bool(test.prompt): test for test in reversed(tests)}
    return [first[kind] for kind in (True, False) if kind in first]


@contextmanager
def _loaded(bundle: Bundle, draft: Bundle | None, loading: LoadOptions) -> Iterator[tuple[Engine, DraftModel | None]]:
    """The bundle's engine, and its draft model's."""
    small: DraftModel | None = None
    if draft is None:
        engine = Engine.load(bundle, loading)
    else:
        engine, small = load_both(bundle, draft, replace(loading, disable_spinning=True))
    try:
        yield engine, small
    finally:
        engine.close()
        if small is not None:
            small.close()


def _report(bundle: Bundle, engine: Engine, results: Sequence[Rates], notes: Sequence[str], log: Log | None) -> Report:
    """What was found, and on what; memory as it is now."""
    summary, cpu = None if log is None else log.summary(), read_cpu()
    manifest = bundle.manifest
    return Report(
        model=manifest.model.id,
        target=manifest.target,
        quant=manifest.quant,
        parameters=manifest.model.parameters,
        size_bytes=bundle.size,
        weights_bytes=manifest.memory.weights_bytes,
        cpu=cpu.model,
        threads=engine.threads,
        provider=engine.provider.removesuffix("ExecutionProvider"),
        onnxruntime=onnxruntime_version(),
        edgelm=__version__,
        load_seconds=engine.load_seconds,
        memory=memory_use(),
        results=tuple(with_energy(results, log)),
        notes=tuple(notes),
        prefill_threads=engine.prefill_threads,
        packed=engine.packed is not None,
        sensors=summary,
        bundle_sha256=bundle.digest,
        arch=cpu.arch,
        cores=len(cpu.cores),
        emulated=cpu.emulated,
        python=platform.python_version(),
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def render(report: Report, form: str, columns: int | None = None) -> str:
    """The report as ``md``, ``json``, ``csv`` or ``jsonl``, without the last newline; for a terminal of so many columns,
    Markdown tells what all rows have in common below its table where that is too wide.
    """
    if form == "json":
        return json.dumps(report.to_dict(), indent=2)
    if form == "jsonl":
        return "\n".join(json.dumps(row) for row in report.rows())
    return _csv(report.rows()) if form == "csv" else _markdown(report, columns)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def _markdown(report: Report, columns: int | None) -> str:
    text, common = _speeds(report, columns)
    if report.sustained is not None:
        text += ["", *_table(sustained.rows(report.sustained), left=())]
    text.append("")
    if common:
        text.append("- " + ", ".join(f"{name}: {value}" for name, value in common.items()))
    found = text + [f"- {line}" for line in _remarks(report)]
    if columns is None:
        return "\n".join(found)
    return "\n".join(part for line in found for part in _wrapped(line, columns))


def _speeds(report: Report, columns: int | None) -> tuple[list[str], dict[str, str]]:
    """The table of speeds, and what of all rows is not in it, since it would not fit."""
    common = {
        "model": f"{report.model} {report.quant}",
        "size": f"{report.size_bytes / 1e6:.2f} MB",
        "params": f"{report.parameters / 1e6:.2f} M",
        "backend": report.provider,
        "threads": str(report.threads),
    }
    measured = [["test", "t/s", "TTFT s", "GB/s"]]
    for rates in report.results:
        ttft, gbs = rates.ttft, report.effective_gbs(rates)
        speed = f"{rates.mean:.2f} ± {rates.stddev:.2f}"
        told = ["" if ttft is None else f"{ttft:.3f}", "" if gbs is None else f"{gbs:.2f}"]
        measured.append([rates.test.name, speed, *told])
    kept = dict(common)
    while True:
        rows = [[*kept, *measured[0]], *([*kept.values(), *row] for row in measured[1:])]
        text = _table(rows, left=[i for i, name in enumerate(rows[0]) if name in ("model", "backend", "test")])
        if columns is None or not kept or max(map(len, text)) <= columns:
            return text, {name: value for name, value in common.items() if name not in kept}
        del kept[next(name for name in ("params", "backend", "size", "threads", "model") if name in kept)]


def _wrapped(line: str, columns: int) -> list[str]:
    """A remark in as many lines as it takes; rows of a table are as they are."""
    if not line.startswith("- "):
        return [line]
    return textwrap.wrap(line, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _remarks(report: Report) -> Iterator[str]:
    mapped = ", prepacked weights mapped from the cache" if report.packed else ""
    yield f"load: {report.load_seconds:.2f} s{mapped}"
    if report.prefill_threads not in (None, report.threads):
        yield f"threads for prefill: {report.prefill_threads}"
    if report.profile is not None:
        yield f"profile: {report.profile} (see: edgelm tune --show)"
    peak, anonymous = report.memory.peak, report.memory.anonymous
    if peak is not None:
        rest = "" if anonymous is None else f" ({anonymous / 1e6:.1f} MB anonymous at the end)"
        yield f"peak memory: {peak / 1e6:.1f} MB{rest}"
    if report.sustained is not None:
        yield from sustained.remarks(report.sustained)
    elif doubtful := [rates.test.name for rates in report.results if unreliable(rates)]:
        named = ", ".join(doubtful)
        yield f"unreliable: the repetitions of {named} vary by more than {UNRELIABLE:.0%}: does something else run?"
    if report.disturbed:
        yield (
            f"other programs took {report.other_cpus:.1f} of {report.cores} CPUs meanwhile: too slow to be this machine's "
            "speed; measure again when nothing else runs"
        )
    if report.sensors is not None:
        yield from lines(report.sensors, report.results)
    emulated = " (emulated: speeds are the emulator's, not the board's)" if report.emulated else ""
    yield f"cpu: {report.cpu or 'unknown'}{emulated}"
    yield f"edgelm {report.edgelm}, onnxruntime {report.onnxruntime}, bundle made for {report.target}"


def _table(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    """A Markdown table that is aligned as plain text too; the columns `left` are text, the others numbers."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * w if i in left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    cells = [
        [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))] for r in rows
    ]
    return ["| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])]
