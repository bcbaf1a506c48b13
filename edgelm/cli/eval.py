"""``edgelm eval``: measure how good a bundle is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.bundle import MANIFEST, Bundle
from edgelm.cli.export import load_export
from edgelm.cli.loading import loaded
from edgelm.cli.options import bundle_argument, json_option, threads_option
from edgelm.cli.quality import divergence_lines
from edgelm.cli.show import Bar, print_lines, table
from edgelm.errors import PromptError

if TYPE_CHECKING:
    from edgelm.evaluate.passages import Passages
    from edgelm.evaluate.perplexity import Perplexity
    from edgelm.evaluate.task import TaskResult
    from edgelm.runtime.lm import LM

_WIDTH = 300  # characters of a wrong answer that are shown


@click.command("eval")
@bundle_argument
@click.option(
    "--task", metavar="FILE|home", help="Exact match on a JSONL file; home: the embedded model's held-out split."
)
@click.option("--limit", type=int, metavar="N", help="Only N examples of the task, evenly spread over the file.")
@click.option("--show-errors", type=int, default=0, metavar="N", help="Also print the first N wrong answers.")
@click.option("--text", metavar="FILE|builtin", help="Perplexity of a text file, or of edgelm's own sample.")
@click.option(
    "--against",
    metavar="MODEL|BUNDLE",
    help="Compare with another bundle, or with a checkpoint in fp32, on the text: KL divergence, same top token.",
)
@click.option("--save", is_flag=True, help="Keep the comparison in the bundle, as its quality.json.")
@click.option("--chunk", type=int, metavar="N", help="Tokens in a chunk of the text.  [default: 512, or the context]")
@click.option("--chunks", type=int, metavar="N", help="Only the first N chunks.  [default: all]")
@json_option
@threads_option
def command(
    bundle: Path,
    task: str | None,
    limit: int | None,
    show_errors: int,
    text: str | None,
    against: str | None,
    save: bool,
    chunk: int | None,
    chunks: int | None,
    as_json: bool,
    threads: int | None,
) -> None:
    """Measure how good a bundle is: exact match on a task, perplexity of a text, distance to the original model.

    A line of a task is {"messages": […], "answer": "…"}, and may have "kind" and "split", by which accuracy is told
    too. Perplexity is llama.cpp's: chunks of 512 tokens, the second half of each scored. --against gives its KL
    divergence, too; a checkpoint is exported to fp32 in a temporary folder first (TMPDIR says where).

    \b
    Examples:
      edgelm eval bundles/edgelm-home-rpi5-int4 --task home
      edgelm eval my-bundle --task mine.jsonl --limit 100 --show-errors 5
      edgelm eval my-bundle --text wiki.test.raw --chunks 20 --json
      edgelm eval my-bundle --against path/to/checkpoint --text wiki.test.raw --save
      edgelm eval my-bundle --against my-fp32-bundle
    """
    if task is None and text is None and against is None:
        raise click.UsageError("nothing to measure: give --task, --text or --against")
    if save and against is None:
        raise click.UsageError("--save keeps a comparison: give --against")
    from edgelm.evaluate.passages import BUILTIN, load_passages
    from edgelm.evaluate.task import read_task, run_task

    facts: dict[str, Any] = {"bundle": str(bundle)}
    lines: list[str] = []
    examples = None if task is None else read_task(_task_file(task), limit)
    wanted = BUILTIN if text is None and against is not None else text
    passages = None if wanted is None else load_passages(wanted, "evaluation")
    if examples is not None or against is None:
        with loaded(bundle, threads=threads) as lm, Bar() as bar:
            if examples is not None and lm.template is None:
                hint = "measure --text instead"
                raise PromptError("this model has no chat template, so it cannot do a task", hint=hint)
            if examples is not None:
                result = run_task(lm, examples, on_example=_step(bar, "task"))
                wrong = result.wrong[: max(0, show_errors)]
                facts["task"] = {"name": task, **result.to_dict(), "errors": [outcome.to_dict() for outcome in wrong]}
                lines += _task_lines(result, show_errors)
            if passages is not None and against is None:
                found = _perplexity(lm, passages, chunk, chunks, bar)
                facts["perplexity"] = {"file": text, "perplexity": found.value, "stderr": found.error}
                facts["perplexity"] |= {"tokens": found.tokens, "chunks": found.chunks, "chunk": found.chunk}
                lines += [*([""] if lines else []), _perplexity_line(found)]
    if passages is not None and against is not None:  # with the model of before let go: two more come
        card = _compare(bundle, against, passages, chunk, chunks, threads, silent=as_json, save=save)
        facts["against"] = card
        title = f"against {card['base']['id']} ({card['base']['quant']}), {card['tokens']:,} tokens of {passages.name}"
        lines += [*([""] if lines else []), title, *divergence_lines(card, card["base"]["quant"])]
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print_lines(lines)


def _compare(
    path: Path,
    against: str,
    passages: Passages,
    chunk: int | None,
    chunks: int | None,
    threads: int | None,
    *,
    silent: bool,
    save: bool,
) -> dict[str, Any]:
    """The bundle's quality card, measured now; kept in the bundle where it is to be saved."""
    from edgelm.evaluate.card import compare, quality_card

    bundle = Bundle.open(path)
    with Bar(silent=silent) as bar, _base(against, bundle, bar) as (base, name):
        step = _step(bar, "text")
        found = compare(base, bundle, passages, chunk=chunk, chunks=chunks, threads=threads, on_chunk=step)
        before = bundle.quality or {}
        card = quality_card(
            bundle.manifest, {"id": name, "quant": base.manifest["quant"]}, passages, found, before.get("matrices")
        )
    if save:
        bundle.save_quality(card)
    return card


@contextmanager
def _base(against: str, bundle: Bundle, bar: Bar) -> Iterator[tuple[Bundle, str]]:
    """What to compare with, and its model's id: a bundle, or a checkpoint's in fp32, which is gone afterwards."""
    if (Path(against) / MANIFEST).is_file():
        base = Bundle.open(against)
        yield base, base.manifest["model"]["id"]
        return
    export = load_export()
    with tempfile.TemporaryDirectory(prefix="edgelm-") as folder:
        base = export(
            against,
            "x86-64",  # in fp32 the graph is the same for all
            "fp32",
            context=bundle.context,
            output=Path(folder) / "fp32",
            force=True,
            progress=bar,
        )
        yield base, base.manifest["model"]["id"]


def _task_file(task: str) -> Path:
    if task != "home":
        return Path(task)
    from edgelm import demo

    return demo.heldout()


def _step(bar: Bar, what: str) -> Any:
    def step(done: int, total: int) -> None:
        if done == 0:
            bar.start(what, total)
        bar.advance(int(done > 0), f"{done}/{total}")

    return step


def _perplexity(lm: LM, passages: Passages, chunk: int | None, chunks: int | None, bar: Bar) -> Perplexity:
    from edgelm.evaluate.passages import starting_token
    from edgelm.evaluate.perplexity import perplexity

    bos, ids = starting_token(lm.tokenizer), passages.encode(lm.tokenizer, lm.template)
    return perplexity(lm.engine, ids, bos=bos, chunk=chunk, chunks=chunks, on_chunk=_step(bar, "text"))


def _perplexity_line(found: Perplexity) -> str:
    return f"perplexity {found}  ({found.tokens:,} tokens scored, {found.chunks:,} chunks of {found.chunk})"


def _task_lines(result: TaskResult, show_errors: int) -> Iterator[str]:
    rows = [("", "accuracy", "±", "correct", "of")]
    groups = [("all", result.accuracy), *((f"kind {name}", accuracy) for name, accuracy in result.by("kind").items())]
    groups += [(f"split {name}", accuracy) for name, accuracy in result.by("split").items()]
    for name, a in groups:
        rows.append((name, f"{a.value:.1%}", f"{a.error:.1%}", f"{a.correct:,}", f"{a.total:,}"))
    yield from table(rows)
    for outcome in result.wrong[: max(0, show_errors)]:
        yield ""
        yield f"line {outcome.example.line}: {_one_line(str(outcome.example.messages[-1]['content']))}"
        yield f"  expected  {_one_line(outcome.example.answer)}"
        yield f"  answered  {_one_line(outcome.text) or '(nothing)'}  ({outcome.finish_reason})"


def _one_line(text: str) -> str:
    """`text` as far as it fits in a line, with escapes for what has no width."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.strip())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
