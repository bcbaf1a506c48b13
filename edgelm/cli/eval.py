"""``edgelm eval``: measure how good a bundle is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.bundle.reader import MANIFEST, Bundle
from edgelm.bundle.writer import save_quality
from edgelm.by_name import load_export
from edgelm.cli.bundles import find_bundle, model_named, stored_bundle
from edgelm.cli.interrupts import ends_at_once
from edgelm.cli.loading import loaded
from edgelm.cli.on import BoardCommand
from edgelm.cli.options import answer_grammar_option, bundle_argument, json_option, threads_option
from edgelm.cli.quality import divergence_lines
from edgelm.cli.scheduler import executor, scheduler_option
from edgelm.cli.sections import section
from edgelm.cli.show import Bar, print_lines
from edgelm.cli.tasks import beside_lines, result_lines
from edgelm.exporter.progress import Progress
from edgelm.files import scratch

if TYPE_CHECKING:
    from edgelm.cluster.executor import Executor
    from edgelm.evaluate.divergence import Divergence
    from edgelm.evaluate.items import Item
    from edgelm.evaluate.outcome import TaskResult
    from edgelm.evaluate.passages import Passages
    from edgelm.evaluate.perplexity import Perplexity
    from edgelm.runtime.lm import LM


@click.command("eval", cls=BoardCommand, reads=("bundle", "task", "text", "against"), refuses=("save", "scheduler"))
@bundle_argument
@section(
    "Tasks",
    click.option(
        "--task",
        metavar="FILE|home",
        help="Exact match, multiple choice, minimal pairs (JSONL), CrowS-Pairs, TruthfulQA; home: the embedded model's.",
    ),
    click.option("--limit", type=int, metavar="N", help="Only N items of the task, evenly spread over the file."),
    click.option(
        "--seed", type=int, metavar="S", help="Draw the N items at random; also of the bootstrap.  [default: 0]"
    ),
    click.option("--show-errors", type=int, default=0, metavar="N", help="Also print N wrong, or changed, answers."),
    answer_grammar_option,
)
@section(
    "Texts",
    click.option("--text", metavar="FILE|builtin", help="Perplexity of a text file, or of edgelm's own sample."),
    click.option(
        "--chunk", type=int, metavar="N", help="Tokens in a chunk of the text.  [default: 512, or the context]"
    ),
    click.option("--chunks", type=int, metavar="N", help="Only the first N chunks.  [default: all]"),
)
@section(
    "Comparison",
    click.option(
        "--against",
        metavar="MODEL|BUNDLE",
        help="Compare with another bundle, or with a checkpoint in fp32: on the task; on the text by KL divergence.",
    ),
    click.option("--save", is_flag=True, help="Keep the comparison in the bundle, as its quality.json."),
)
@scheduler_option
@json_option
@threads_option
def command(
    bundle: str,
    task: str | None,
    limit: int | None,
    seed: int | None,
    show_errors: int,
    answer_grammar: bool | None,
    text: str | None,
    against: str | None,
    save: bool,
    chunk: int | None,
    chunks: int | None,
    scheduler: str | None,
    as_json: bool,
    threads: int | None,
) -> None:
    """Measure how good a bundle is: a task, perplexity of a text, distance to the original model.

    A file of a task tells by its content what it is (docs/reference/tasks.md): JSON Lines with "messages" and "answer", "prompt",
    "choices" and "answer", or "sentence_good" and "sentence_bad"; the CSV of CrowS-Pairs (bias) or TruthfulQA. Perplexity
    is llama.cpp's: chunks of 512 tokens, the second half of each scored. --against tells the task of both models side by
    side, or without a task the KL divergence; a checkpoint is exported to fp32 in a temporary folder first (TMPDIR says
    where).

    \b
    Examples:
      edgelm eval bundles/edgelm-home-rpi5-int4 --task home
      edgelm eval my-bundle --task mine.jsonl --limit 100 --show-errors 5
      edgelm eval my-bundle --task crows_pairs.csv --against path/to/model
      edgelm eval my-bundle --text wiki.test.raw --chunks 20 --json
      edgelm eval my-bundle --against path/to/model --text wiki.test.raw --save
      edgelm eval my-bundle --against my-fp32-bundle
      edgelm eval my-bundle --task mine.jsonl --scheduler tcp://host:8786
    """
    if task is None and text is None and against is None:
        raise click.UsageError("nothing to measure: give --task, --text or --against")
    if save and against is None:
        raise click.UsageError("--save keeps a comparison: give --against")
    from edgelm.evaluate.passages import BUILTIN, load_passages
    from edgelm.evaluate.task import read_task

    items = None if task is None else read_task(task_file(task), limit, seed)
    wanted = BUILTIN if text is None and against is not None and (items is None or save) else text
    passages = None if wanted is None else load_passages(wanted, "evaluation")
    facts: dict[str, Any] = {"bundle": str(bundle)}
    parts: list[list[str]] = []
    opened = Bundle.open(find_bundle(bundle, quiet=as_json))
    with Bar(silent=as_json) as bar, _base(against, opened, bar) as base, ExitStack() as stack, ends_at_once():
        does, progress = stack.enter_context(executor(scheduler, bar, silent=as_json))
        measure = (_Measure if does.local else _Spread)(opened, base, threads, progress, does, answer_grammar)
        if items is not None:
            told, lines = measure.task(items, seed or 0, max(0, show_errors))
            facts["task"] = {"name": task, **told}
            parts.append(lines)
        if passages is not None and base is None:
            found = measure.perplexity(passages, chunk, chunks)
            facts["perplexity"] = {"file": text, "perplexity": found.value, "stderr": found.error}
            facts["perplexity"] |= {"tokens": found.tokens, "chunks": found.chunks, "chunk": found.chunk}
            parts.append([_perplexity_line(found)])
        elif passages is not None:
            facts["against"] = card = measure.divergence(passages, chunk, chunks, save=save)
            title = f"against {card['base']['id']} ({card['base']['quant']})"
            title = f"{title}, {card['tokens']:,} tokens of {passages.name}"
            parts.append([title, *divergence_lines(card, card["base"]["quant"])])
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print_lines("\n\n".join("\n".join(lines) for lines in parts).split("\n"))


@dataclass(frozen=True)
class _Measure:
    """What is measured of a bundle: beside another one where there is a `base`; never more models loaded than needed."""

    bundle: Bundle
    base: Bundle | None
    threads: int | None
    bar: Progress
    does: Executor
    answer_grammar: bool | None = None

    def task(self, items: Sequence[Item], seed: int, show: int) -> tuple[dict[str, Any], list[str]]:
        """A task: for JSON, and in words, with `show` wrong or changed answers."""
        from edgelm.evaluate.comparison import Comparison

        if self.base is None:
            result = self._run(self.bundle, items)
            wrong = [outcome.to_dict() for outcome in result.wrong[:show]]
            return {**result.to_dict(), "errors": wrong}, list(result_lines(result, show))
        quants = self.base.manifest.quant, self.bundle.manifest.quant
        both = Comparison(self._run(self.base, items), self._run(self.bundle, items), seed)
        changes = [{"base": before.to_dict(), "quantised": after.to_dict()} for before, after in both.changed[:show]]
        facts = {"base": _identity(self.base), **both.to_dict(), "changes": changes}
        return facts, list(beside_lines(both, *quants, show))

    def perplexity(self, passages: Passages, chunk: int | None, chunks: int | None) -> Perplexity:
        """Of a text."""
        from edgelm.evaluate.passages import starting_token
        from edgelm.evaluate.perplexity import perplexity

        with self._load(self.bundle) as lm:
            bos, ids = starting_token(lm.tokenizer), passages.encode(lm.tokenizer, lm.template)
            return perplexity(lm.engine, ids, bos=bos, chunk=chunk, chunks=chunks, on_chunk=_step(self.bar, "text"))

    def divergence(self, passages: Passages, chunk: int | None, chunks: int | None, *, save: bool) -> dict[str, Any]:
        """The bundle's quality card, measured now; kept in the bundle where it is to be saved."""
        from edgelm.evaluate.card import quality_card

        assert self.base is not None  # the card is of two
        found = self._compare(self.base, passages, chunk, chunks)
        before = self.bundle.quality or {}
        card = quality_card(self.bundle.manifest, _identity(self.base), passages, found, before.get("matrices"))
        if save:
            save_quality(self.bundle, card)
        return card

    def _compare(self, base: Bundle, passages: Passages, chunk: int | None, chunks: int | None) -> Divergence:
        from edgelm.evaluate.card import compare

        options: dict[str, Any] = {"chunk": chunk, "chunks": chunks, "threads": self.threads}
        return compare(base, self.bundle, passages, **options, on_chunk=_step(self.bar, "text"))

    def _load(self, bundle: Bundle) -> AbstractContextManager[LM]:
        # What is compared with is often there for this once: its prepacked weights are not cached.
        return loaded(bundle.path, threads=self.threads, weight_cache=bundle is self.bundle, profile=False)

    def _run(self, bundle: Bundle, items: Sequence[Item]) -> TaskResult:
        from edgelm.evaluate.task import run_task

        with self._load(bundle) as lm:
            step = _step(self.bar, f"task, {bundle.manifest.quant}")
            return run_task(lm, items, on_example=step, **self._options(bundle))

    def _options(self, bundle: Bundle) -> dict[str, Any]:
        """Of answers; a base that names no grammar of its answers is not asked to hold to one."""
        asked = self.answer_grammar if self.answer_grammar is False or bundle is self.bundle else None
        return {"answer_grammar": asked}


@dataclass(frozen=True)
class _Spread(_Measure):
    """The same on a cluster, in shares."""

    def perplexity(self, passages: Passages, chunk: int | None, chunks: int | None) -> Perplexity:
        """Of a text."""
        from edgelm.cluster.evaluating import Text, text_perplexity

        return text_perplexity(self.does, self.bundle, Text(passages, chunk, chunks), self.threads, self.bar)

    def _compare(self, base: Bundle, passages: Passages, chunk: int | None, chunks: int | None) -> Divergence:
        from edgelm.cluster.evaluating import Text, text_divergence

        return text_divergence(self.does, base, self.bundle, Text(passages, chunk, chunks), self.threads, self.bar)

    def _run(self, bundle: Bundle, items: Sequence[Item]) -> TaskResult:
        from edgelm.cluster.evaluating import answer_task

        return answer_task(self.does, bundle, items, self.threads, self.bar, **self._options(bundle))


def _identity(bundle: Bundle) -> dict[str, str]:
    return {"id": bundle.manifest.model.id, "quant": bundle.manifest.quant}


@contextmanager
def _base(against: str | None, bundle: Bundle, bar: Bar) -> Iterator[Bundle | None]:
    """What to compare with: nothing, a bundle, or a checkpoint's in fp32, which is gone afterwards."""
    if against is None or (Path(against) / MANIFEST).is_file():
        yield None if against is None else Bundle.open(against)
        return
    if model_named(against) is None and (stored := stored_bundle(against)) is not None:
        yield Bundle.open(stored)
        return
    export = load_export()
    with scratch() as folder:
        yield export(
            against,
            "x86-64",  # in fp32 the graph is the same for all
            "fp32",
            context=bundle.context,
            output=folder / "fp32",
            force=True,
            progress=bar,
        )


def task_file(task: str) -> Path:
    """The file of a task, ``home`` being that of the embedded model."""
    if task != "home":
        return Path(task)
    from edgelm import demo

    return demo.heldout()


def _step(bar: Progress, what: str) -> Any:
    def step(done: int, total: int) -> None:
        if done == 0:
            bar.start(what, total)
        bar.advance(int(done > 0), f"{done}/{total}")

    return step


def _perplexity_line(found: Perplexity) -> str:
    return f"perplexity {found}  ({found.tokens:,} tokens scored, {found.chunks:,} chunks of {found.chunk})"
