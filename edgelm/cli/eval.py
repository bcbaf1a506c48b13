"""``edgelm eval``: measure how good a bundle is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.cli.options import bundle_argument, json_option, threads_option
from edgelm.cli.show import Bar, print_lines, table
from edgelm.errors import EdgeLMError, PromptError

if TYPE_CHECKING:
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
@click.option("--text", type=click.Path(path_type=Path), metavar="FILE", help="Perplexity of a text file.")
@click.option("--chunk", type=int, metavar="N", help="Tokens in a chunk of the text.  [default: 512, or the context]")
@click.option("--chunks", type=int, metavar="N", help="Only the first N chunks.  [default: all]")
@json_option
@threads_option
def command(
    bundle: Path,
    task: str | None,
    limit: int | None,
    show_errors: int,
    text: Path | None,
    chunk: int | None,
    chunks: int | None,
    as_json: bool,
    threads: int | None,
) -> None:
    """Measure how good a bundle is: exact match on a task, perplexity of a text.

    A line of a task is {"messages": […], "answer": "…"}, and may have "kind" and "split", by which accuracy is told
    too. Perplexity is llama.cpp's: chunks of 512 tokens, the second half of each scored.

    \b
    Examples:
      edgelm eval bundles/edgelm-home-rpi5-int4 --task home
      edgelm eval my-bundle --task mine.jsonl --limit 100 --show-errors 5
      edgelm eval my-bundle --text wiki.test.raw --chunks 20 --json
    """
    if task is None and text is None:
        raise click.UsageError("nothing to measure: give --task, --text or both")
    from edgelm.evaluate.task import read_task, run_task
    from edgelm.runtime.lm import load

    facts: dict[str, Any] = {"bundle": str(bundle)}
    lines: list[str] = []
    examples = None if task is None else read_task(_task_file(task), limit)
    content = None if text is None else _read(text)
    with load(bundle, threads=threads) as lm, Bar() as bar:
        if examples is not None and lm.template is None:
            raise PromptError("this model has no chat template, so it cannot do a task", hint="measure --text instead")
        if examples is not None:
            result = run_task(lm, examples, on_example=_step(bar, "task"))
            wrong = result.wrong[: max(0, show_errors)]
            facts["task"] = {"name": task, **result.to_dict(), "errors": [outcome.to_dict() for outcome in wrong]}
            lines += _task_lines(result, show_errors)
        if content is not None:
            found = _perplexity(lm, content, chunk, chunks, bar)
            facts["perplexity"] = {"file": str(text), "perplexity": found.value, "stderr": found.error}
            facts["perplexity"] |= {"tokens": found.tokens, "chunks": found.chunks, "chunk": found.chunk}
            lines += [*([""] if lines else []), _perplexity_line(found)]
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print_lines(lines)


def _task_file(task: str) -> Path:
    if task != "home":
        return Path(task)
    from edgelm import demo

    return demo.heldout()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise EdgeLMError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise EdgeLMError(f"{path} is not valid UTF-8: byte {error.start}") from None


def _step(bar: Bar, what: str) -> Any:
    def step(done: int, total: int) -> None:
        if done == 0:
            bar.start(what, total)
        bar.advance(int(done > 0), f"{done}/{total}")

    return step


def _perplexity(lm: LM, text: str, chunk: int | None, chunks: int | None, bar: Bar) -> Perplexity:
    from edgelm.evaluate.perplexity import perplexity

    bos = lm.tokenizer.bos if lm.tokenizer.encode("")[:1] == [lm.tokenizer.bos] else None
    ids = lm.tokenizer.encode(text)
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
