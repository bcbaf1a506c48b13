"""A sweep: every recipe exported, compared with the model in fp32, and released.

Each recipe is a task of its own (`Step`), done here in turn or on a cluster. On a machine that does them there are two
bundles on disk at any time, the one in fp32 and the one that is measured, unless they are to be kept; for each process that
does them beside others one more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgelm.bundle.reader import MANIFEST, Bundle, sha256
from edgelm.cluster.executor import LOCAL, Executor
from edgelm.cluster.shared import alone, release, shared_folder
from edgelm.errors import BundleError, ClusterError, EdgeLMError, ExportError
from edgelm.evaluate.card import compare
from edgelm.evaluate.divergence import Divergence
from edgelm.evaluate.items import Item
from edgelm.evaluate.outcome import Score
from edgelm.evaluate.passages import Passages, starting_token
from edgelm.evaluate.perplexity import Perplexity, perplexity
from edgelm.evaluate.task import run_task
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.hub import resolve
from edgelm.exporter.manifest import source_hashes
from edgelm.exporter.pipeline import export
from edgelm.exporter.progress import Progress, counted
from edgelm.files import aside, expanded, is_there, scratch
from edgelm.runtime.engine import Engine
from edgelm.runtime.lm import LM
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.text.prompt import text_tools
from edgelm.sweep.candidates import BASE, Candidate
from edgelm.sweep.record import NAME, Record, kept_file
from edgelm.sweep.rows import Row
from edgelm.target.target import Target
from edgelm.version import __version__

OnRow = Callable[[Row], None]


@dataclass(frozen=True)
class Sweep:
    """What is to be measured, and how.

    Attributes:
        model: a folder, a hub id, or None for the embedded default.
        target: the board.
        candidates: the recipes; the first is the model in fp32.
        text: to measure on; of it `chunks` chunks.
        calibrate: a text for `export` to calibrate on, which those candidates take that are `calibrated`.
        items, task: a task, and what tells it from others; None for none.
        context: longest prompt plus answer; None for the target's choice.
        output: folder where bundles are kept, or None.
        threads: of the runtime; None for what suits this machine.
    """

    model: str | None
    target: Target
    candidates: Sequence[Candidate]
    text: Passages
    chunks: int
    calibrate: str
    items: Sequence[Item] | None = None
    task: Mapping[str, Any] | None = None
    context: int | None = None
    output: Path | None = None
    threads: int | None = None

    def settings(self, progress: Progress) -> dict[str, Any]:
        """What the figures follow from, as JSON: a record of the same settings can be gone on with."""
        source = resolve(self.model, progress=progress)
        calibration = Path(self.calibrate)
        return {
            "edgelm": __version__,
            "model": {"id": source.id, "sources": source_hashes(Checkpoint(source.path), progress)},
            "target": self.target.to_dict(),
            "context": self.context,
            "text": {**self.text.facts(), "chunks": self.chunks},
            "calibration": sha256(calibration) if calibration.is_file() else self.calibrate,
            "task": self.task,
        }

    def record(self, progress: Progress, *, overwrite: bool = False) -> Record:
        """The rows that an interrupted sweep left.

        Raises:
            EdgeLMError: the model cannot be read, or `output` holds something else.
        """
        settings = self.settings(progress)
        if self.output is None:
            return Record.open(kept_file(settings), settings, overwrite=overwrite)
        path = self.output / NAME
        if not path.exists() and self.output.exists() and not _is_empty(self.output):
            raise ExportError(f"{self.output} is there already and no sweep", hint="choose another folder with -o")
        return Record.open(path, settings, overwrite=overwrite)

    def done(self, candidate: Candidate, record: Record) -> bool:
        """Whether a candidate is measured, and its bundle there where it is to be kept."""
        if candidate.name not in record.rows:
            return False
        return self.output is None or (self.output / candidate.name / MANIFEST).is_file()

    def run(
        self, record: Record, progress: Progress, on_row: OnRow = lambda row: None, executor: Executor = LOCAL
    ) -> dict[str, EdgeLMError]:
        """Measure the candidates that are not in the record, and add them to it.

        Args:
            record: see `record`; it is written after every candidate.
            progress: is called with how far each is.
            on_row: is called with every row that is added.
            executor: measures them.

        Returns:
            why candidates could not be measured, by name.

        Raises:
            EdgeLMError: the model in fp32 cannot be made or measured.
        """
        left = [candidate for candidate in self.candidates if not self.done(candidate, record)]
        failed: dict[str, EdgeLMError] = {}
        if not left:
            return failed
        if self.output is not None:
            record.keep()  # so that one which is interrupted before its first row is known as a sweep
            executor.check_folder(self.output)
        key = kept_file(record.settings).stem
        with self._folder(executor) as folder, _forgotten_where_empty(record, self.output):
            steps = [Step(self, candidate, folder, key) for candidate in left]
            try:
                for place, found in executor.run(measured, steps, progress):
                    if isinstance(found, EdgeLMError):
                        if left[place].name == BASE:
                            raise found
                        failed[left[place].name] = found
                        continue
                    record.add(found)
                    on_row(found)
            finally:
                if not executor.local:
                    with suppress(ClusterError):  # which may be gone; the folder goes with the next sweep there
                        executor.everywhere(release, key)
        return failed

    @contextmanager
    def _folder(self, executor: Executor) -> Iterator[Path | None]:
        """Where bundles are made; None where processes are to agree on a folder of their machine."""
        if self.output is not None or not executor.local:
            yield self.output
            return
        with scratch() as folder:
            yield folder

    def measure(self, candidate: Candidate, folder: Path, progress: Progress) -> Row:
        """Export a recipe and measure it.

        Args:
            candidate: the recipe.
            folder: where bundles are made, that of the model in fp32 too, if it is not there.
            progress: is called with how far it is.

        Raises:
            EdgeLMError: it cannot be made or measured.
        """
        number, count = self.candidates.index(candidate) + 1, len(self.candidates)
        named = _Named(progress, f"{candidate.name} ({number}/{count})")
        with alone(folder, BASE):  # one process makes it, where several share the folder
            original = self._base(self.candidates[0], folder, progress)
        with self._made(candidate, original, folder, named) as bundle:
            return self._row(candidate, original, bundle, named)

    def _base(self, candidate: Candidate, folder: Path, progress: Progress) -> Bundle:
        """The model in fp32, as an interrupted sweep left it or made now."""
        path = folder / candidate.name
        if path.exists():
            try:
                return Bundle.open(path)
            except BundleError as error:
                progress.say(f"{error}: it is made again")
        return self._export(candidate, path, _Named(progress, candidate.name))

    @contextmanager
    def _made(self, candidate: Candidate, base: Bundle, folder: Path, progress: Progress) -> Iterator[Bundle]:
        """A candidate's bundle, gone afterwards where it is not to be kept."""
        if candidate.name == BASE:
            yield base
        elif self.output is not None:
            yield self._export(candidate, folder / candidate.name, progress)
        else:
            with aside(folder / candidate.name) as own:
                yield self._export(candidate, own / candidate.name, progress)

    def _export(self, candidate: Candidate, path: Path, progress: Progress) -> Bundle:
        options = dict(candidate.options) | {"calibrate": self.calibrate if candidate.calibrated else "none"}
        return export(
            self.model,
            candidate.target,
            candidate.quant,
            context=self.context,
            output=path,
            card="none",
            overwrite=os.path.lexists(path),
            force=True,  # a recipe that does not fit the board is measured, and its row says so
            progress=progress,
            **options,
        )

    def _row(self, candidate: Candidate, base: Bundle, bundle: Bundle, progress: Progress) -> Row:
        here, original = _here(bundle), _here(base)
        found: Perplexity | Divergence
        if candidate.name == BASE:
            found = self._perplexity(here, progress)
        else:
            step = counted(progress, "measuring")
            found = compare(original, here, self.text, chunks=self.chunks, threads=self.threads, on_chunk=step)
        usable = self.target.memory.usable_mb << 20
        row = Row.of(candidate.name, bundle, usable, found, self._score(here, progress))
        progress.finish()
        return row

    def _perplexity(self, bundle: Bundle, progress: Progress) -> Perplexity:
        tokenizer, template = text_tools(bundle)
        ids, step = self.text.encode(tokenizer, template), counted(progress, "measuring")
        with closing(self._engine(bundle)) as engine:
            return perplexity(engine, ids, bos=starting_token(tokenizer), chunks=self.chunks, on_chunk=step)

    def _engine(self, bundle: Bundle) -> Engine:
        return Engine.load(bundle, threads=self.threads, weight_cache=False)  # which is there for this once

    def _score(self, bundle: Bundle, progress: Progress) -> Score | None:
        if self.items is None:
            return None
        tokenizer, template = text_tools(bundle)
        config = GenerationConfig.from_hf(bundle.generation_config)
        with LM(self._engine(bundle), tokenizer, bundle, template, config) as lm:
            return run_task(lm, self.items, on_example=counted(progress, "task")).accuracy


@dataclass(frozen=True)
class Step:
    """A recipe of a sweep as a task.

    Attributes:
        sweep: of which it is.
        candidate: the recipe.
        folder: where bundles are made; None where processes that share a machine share one by the `key`.
    """

    sweep: Sweep
    candidate: Candidate
    folder: Path | None
    key: str

    @property
    def name(self) -> str:
        """The recipe's."""
        return self.candidate.name

    @property
    def inputs(self) -> tuple[str, ...]:
        """The checkpoint and the text to calibrate on, where they are files."""
        calibrate = self.sweep.calibrate if self.candidate.calibrated else None
        paths = [name for name in (self.sweep.model, calibrate) if name is not None]
        return tuple(name for name in paths if is_there(expanded(name)))

    def moved(self, paths: Mapping[str, str]) -> Step:
        """With the checkpoint and the text elsewhere."""
        model, calibrate = self.sweep.model, self.sweep.calibrate
        sweep = replace(
            self.sweep,
            model=None if model is None else paths.get(model, model),
            calibrate=paths.get(calibrate, calibrate),
        )
        return replace(self, sweep=sweep)


def measured(step: Step, progress: Progress) -> Row:
    """Do a step; raises as `Sweep.measure`."""
    return step.sweep.measure(step.candidate, step.folder or shared_folder(step.key), progress)


class _Named(Progress):
    """A progress whose stages begin with a name."""

    def __init__(self, inner: Progress, name: str) -> None:
        self._inner, self._name = inner, name
        self.visible = inner.visible

    def start(self, what: str, total: int) -> None:
        """Of this name."""
        self._inner.start(f"{self._name}: {what}", total)

    def advance(self, units: int, detail: str = "") -> None:
        """As it is."""
        self._inner.advance(units, detail)

    def finish(self) -> None:
        """As it is."""
        self._inner.finish()

    def say(self, line: str) -> None:
        """Of this name."""
        self._inner.say(f"{self._name}: {line}")


def _here(bundle: Bundle) -> Bundle:
    """The bundle as this machine runs it, which is not the board."""
    return replace(bundle, manifest=replace(bundle.manifest, provider="cpu"))


def _is_empty(path: Path) -> bool:
    """Whether a folder holds nothing but what killed processes may have left."""
    return path.is_dir() and _holds_only(path)


def _holds_only(path: Path, *names: str) -> bool:
    """Whether there is nothing in a folder beside these names and what killed processes may have left."""
    return all(entry.name.startswith(".") or entry.name in names for entry in path.iterdir())


@contextmanager
def _forgotten_where_empty(record: Record, output: Path | None) -> Iterator[None]:
    """Leave nothing of a sweep that fails before its first bundle; with one it stays known as a sweep, to go on with."""
    try:
        yield
    except EdgeLMError:
        if output is not None and not record.rows and _holds_only(output, record.path.name):
            record.remove()
            with suppress(OSError):
                output.rmdir()
        raise
