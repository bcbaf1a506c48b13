"""Evaluation in shares: items of a task, chunks of a text. None depends on another, so that shares give the same figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgelm.bundle.reader import Bundle
from edgelm.cluster.executor import Executor, Task
from edgelm.errors import EdgeLMError
from edgelm.evaluate.card import Pieces, compare_chunks, gathered
from edgelm.evaluate.divergence import Divergence
from edgelm.evaluate.items import Item
from edgelm.evaluate.outcome import TaskResult
from edgelm.evaluate.passages import Passages, starting_token
from edgelm.evaluate.perplexity import Perplexity, Share, chunked, losses_of, summary
from edgelm.evaluate.task import run_task
from edgelm.exporter.progress import Progress, counted
from edgelm.runtime.engine import Engine
from edgelm.runtime.lm import LM
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.text.prompt import text_tools

_SHARES = 4  # a worker, so that none waits long for the last one
T = TypeVar("T", bound=Task)
R = TypeVar("R")


@dataclass(frozen=True)
class Text:
    """A text in chunks: what, and how `edgelm.evaluate.perplexity.perplexity` takes it."""

    passages: Passages
    chunk: int | None = None
    chunks: int | None = None


@dataclass(frozen=True)
class Answers:
    """A share of a task's items.

    Attributes:
        bundle: its folder.
        items: of the share.
        threads: of the runtime.
        name: of the share.
        options: see `run_task`.
    """

    bundle: str
    items: tuple[Item, ...]
    threads: int | None
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The bundle."""
        return (self.bundle,)

    def moved(self, paths: Mapping[str, str]) -> Answers:
        """With the bundle elsewhere."""
        return replace(self, bundle=paths.get(self.bundle, self.bundle))


@dataclass(frozen=True)
class Chunks:
    """A share of a text's chunks, of one bundle, or of a bundle beside its base.

    Attributes:
        bundle, base: folders; None for no base.
        text: all of it.
        share: which chunks.
        threads: of the runtime.
        name: of the share.
    """

    bundle: str
    base: str | None
    text: Text
    share: Share
    threads: int | None
    name: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The bundles."""
        return (self.bundle, *([] if self.base is None else [self.base]))

    def moved(self, paths: Mapping[str, str]) -> Chunks:
        """With the bundles elsewhere."""
        base = None if self.base is None else paths.get(self.base, self.base)
        return replace(self, bundle=paths.get(self.bundle, self.bundle), base=base)


def answer_task(
    executor: Executor,
    bundle: Bundle,
    items: Sequence[Item],
    threads: int | None,
    progress: Progress,
    **options: Any,
) -> TaskResult:
    """What `run_task` gives, its items done by an executor.

    Raises:
        ClusterError: the cluster cannot do it.
        EdgeLMError: as `run_task`.
    """
    parts = _shares(executor, len(items))
    tasks = []
    for share in parts:
        mine = share.of(len(items))
        name = f"{bundle.manifest.quant}, items {mine.start + 1} to {mine.stop}"
        tasks.append(Answers(_path(bundle), tuple(items[i] for i in mine), threads, name, options))
    results = _in_order(executor, answered, tasks, progress, "task")
    return replace(results[0], outcomes=tuple(outcome for result in results for outcome in result.outcomes))


def text_perplexity(
    executor: Executor, bundle: Bundle, text: Text, threads: int | None, progress: Progress
) -> Perplexity:
    """What `perplexity` gives, its chunks done by an executor; raises as it does, or ClusterError."""
    _, size, count = _chunks(bundle, bundle.context, text)
    tasks = _text_tasks(executor, bundle, None, text, threads, count)
    return summary(np.concatenate(_in_order(executor, chunk_losses, tasks, progress, "text")), count, size)


def text_divergence(
    executor: Executor, base: Bundle, bundle: Bundle, text: Text, threads: int | None, progress: Progress
) -> Divergence:
    """What `compare` gives, its chunks done by an executor; raises as it does, or ClusterError."""
    _, _, count = _chunks(bundle, min(base.context, bundle.context), text)
    tasks = _text_tasks(executor, bundle, base, text, threads, count)
    return gathered(_in_order(executor, compared, tasks, progress, "text"))


def answered(task: Answers, progress: Progress) -> TaskResult:
    """Do a share of a task."""
    bundle = Bundle.open(Path(task.bundle))
    tokenizer, template = text_tools(bundle)
    config = GenerationConfig.from_hf(bundle.generation_config)
    with _engine(bundle, task.threads) as engine, LM(engine, tokenizer, bundle, template, config) as lm:
        return run_task(lm, task.items, on_example=counted(progress, "items"), **task.options)


def chunk_losses(task: Chunks, progress: Progress) -> np.ndarray:
    """Negative log-likelihoods [n] of a share of a text."""
    bundle = Bundle.open(Path(task.bundle))
    tokenizer, _ = text_tools(bundle)
    with _engine(bundle, task.threads) as engine:
        tokens, size, count = _chunks(bundle, engine.context, task.text)
        bos, step = starting_token(tokenizer), counted(progress, "chunks")
        return losses_of(engine, tokens, size, task.share.of(count), bos=bos, on_chunk=step)


def compared(task: Chunks, progress: Progress) -> Pieces:
    """Two bundles on a share of a text."""
    assert task.base is not None  # it is of two
    return compare_chunks(
        Bundle.open(Path(task.base)),
        Bundle.open(Path(task.bundle)),
        task.text.passages,
        chunk=task.text.chunk,
        chunks=task.text.chunks,
        threads=task.threads,
        share=task.share,
        on_chunk=counted(progress, "chunks"),
    )


def _text_tasks(
    executor: Executor, bundle: Bundle, base: Bundle | None, text: Text, threads: int | None, count: int
) -> list[Chunks]:
    other = None if base is None else _path(base)
    shares = [(share, share.of(count)) for share in _shares(executor, count)]
    return [
        Chunks(
            _path(bundle),
            other,
            text,
            share,
            threads,
            f"{bundle.manifest.quant}, chunks {mine.start + 1} to {mine.stop}",
        )
        for share, mine in shares
    ]


def _in_order(
    executor: Executor, function: Callable[[T, Progress], R], tasks: Sequence[T], progress: Progress, what: str
) -> list[R]:
    """The outcomes in the order of the tasks; the first error is raised."""
    found = dict[int, R]()
    progress.start(what, len(tasks))
    for place, outcome in executor.run(function, tasks, progress):
        if isinstance(outcome, EdgeLMError):
            raise outcome
        found[place] = outcome
        progress.advance(1, f"{len(found)}/{len(tasks)}")
    progress.finish()
    return [found[place] for place in range(len(tasks))]


def _shares(executor: Executor, count: int) -> list[Share]:
    number = 1 if executor.local else max(1, min(count, _SHARES * executor.workers))
    return [Share(place, number) for place in range(number)]


def _chunks(bundle: Bundle, context: int, text: Text) -> tuple[np.ndarray, int, int]:
    tokenizer, template = text_tools(bundle)
    return chunked(context, text.passages.encode(tokenizer, template), text.chunk, text.chunks)


def _path(bundle: Bundle) -> str:
    return str(bundle.path.absolute())


@contextmanager
def _engine(bundle: Bundle, threads: int | None) -> Iterator[Engine]:
    with closing(Engine.load(bundle, threads=threads)) as engine:
        yield engine
