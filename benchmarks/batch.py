"""Several texts at once: decode of all rows together, beside llama.cpp's; waits beside a long prompt; texts as alone.

    python -m benchmarks.batch BUNDLE [--rows 1,2,4,8] [-n 32] [-d 64] [-r 7] [-t 2] [--gguf FILE --python PYTHON] [--json]
    python -m benchmarks.batch BUNDLE --wait 2000        # time between tokens while another reads so long a prompt
    python -m benchmarks.batch BUNDLE --texts FILE       # greedy texts of 4 rows against each alone; prompts by line

Tokens per second are those of all rows, behind `-d` tokens; bundles and llama.cpp (its own ``llama_batch``, in the Python
that has llama-cpp-python) run in turn, after one round to warm up. Medians, in brackets the smallest and largest; `x 1` is
the median of the ratios to one row of the same round, `x llama.cpp` that to its batch of as many.

A text that differs from that alone is a near tie where the two most likely tokens, alone, were within 0.05 nats.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgelm.bundle.reader import Bundle
from edgelm.cli.failures import guard
from edgelm.runtime.batch import Batch
from edgelm.runtime.engine import Engine
from edgelm.runtime.lm import LM, load
from edgelm.runtime.loop.results import Completion

TIE = 0.05  # nats
Side = Callable[[int], tuple[float, float]]


def ours(engine: Engine, most: int, depth: int, tokens: int) -> Side:
    """Rows → seconds of `tokens` passes over so many rows behind `depth` tokens, by the clock and of the processor."""
    batch, ids = Batch(engine.model, most), np.arange(depth) % 1000 + 3

    def run(rows: int) -> tuple[float, float]:
        some = batch.sequences[:rows]
        for sequence in some:
            sequence.reset()
            sequence.prefill(ids.tolist(), 0)
        batch.step([(sequence, 5) for sequence in some])
        started, worked = time.perf_counter(), time.process_time()
        for step in range(tokens):
            batch.step([(sequence, 7 + step) for sequence in some])
        return time.perf_counter() - started, time.process_time() - worked

    return run


def theirs(stack: ExitStack, python: str, gguf: Path, threads: int, most: int, depth: int, tokens: int) -> Side:
    """The same of llama.cpp, in a process of its own."""
    worker = Path(__file__).with_name("batch_llama.py")
    command = [python, str(worker), str(gguf), str(threads), str(most), str(depth + tokens + 64)]
    process = stack.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    stack.callback(stdin.close)
    if stdout.readline().strip() != "ready":
        raise click.ClickException(f"{python} cannot load {gguf} with llama-cpp-python")

    def run(rows: int) -> tuple[float, float]:
        stdin.write(json.dumps({"rows": rows, "depth": depth, "tokens": tokens}) + "\n")
        stdin.flush()
        clock, processor = map(float, stdout.readline().split())
        return clock, processor

    return run


def throughput(
    sides: dict[str, Side], counts: list[int], tokens: int, repetitions: int, *, processor: bool = False
) -> list[dict[str, Any]]:
    """Tokens per second of each side for each number of rows, in turn."""
    rounds = [
        {(side, rows): rows * tokens / run(rows)[processor] for rows in counts for side, run in sides.items()}
        for _ in range(repetitions + 1)
    ][1:]
    table = []
    for rows in counts:
        for side in sides:
            speeds = [one[side, rows] for one in rounds]
            first = statistics.median(one[side, rows] / one[side, counts[0]] for one in rounds)
            entry = {"rows": rows, "side": side, "tokens_per_second": statistics.median(speeds)}
            entry |= {"range": [min(speeds), max(speeds)], "of_one_row": first}
            if side == "edgelm" and len(sides) > 1:
                entry["of_llama"] = statistics.median(one[side, rows] / one["llama.cpp", rows] for one in rounds)
            table.append(entry)
    return table


def waits(lm: LM, prompt_tokens: int) -> dict[str, Any]:
    """Milliseconds between tokens of a text by itself, before and after as it grows, and while another request reads a prompt
    of so many tokens.
    """
    talker = lm.stream(
        "1", raw=True, max_tokens=lm.context - 8, logit_bias={lm.bundle.manifest.special_tokens.eos[0]: -1e9}
    )
    times: list[float] = []
    ready, done = threading.Event(), threading.Event()

    def read() -> None:
        ready.wait()
        ids = [7 + i * 31 % 900 for i in range(prompt_tokens)]
        list(lm.stream(lm.tokenizer.decode(ids), raw=True, max_tokens=1))
        done.set()

    reader = threading.Thread(target=read)
    reader.start()
    marks: list[int] = []
    for _ in talker:
        times.append(time.perf_counter())
        if len(times) == 40:
            marks.append(len(times))
            ready.set()
        if done.is_set() and len(marks) == 1:
            marks.append(len(times))
        if len(marks) == 2 and len(times) == marks[1] + 40:
            break
    talker.close()
    reader.join()
    gaps = np.diff(times) * 1000
    own, beside = [*gaps[5 : marks[0] - 1], *gaps[marks[1] + 1 :]], gaps[marks[0] : marks[1] - 1]
    return {
        "own_ms": float(np.median(own)),
        "beside_ms": float(np.median(beside)),
        "times": float(np.median(beside) / np.median(own)),
        "p95_times": float(np.percentile(beside, 95) / np.median(own)),
        "tokens_meanwhile": len(beside),
        "seconds": times[marks[1] - 1] - times[marks[0]],
    }


def agreement(lm: LM, alone: LM, prompts: list[str], tokens: int) -> dict[str, Any]:
    """How many greedy texts are those of each alone, and why the others are not."""
    options: dict[str, Any] = {"max_tokens": tokens, "raw": True, "temperature": 0.0, "repetition_penalty": 1.0}
    wanted: list[Completion] = [
        alone.generate(prompt, logprobs=True, top_logprobs=2, reuse_cache=False, **options) for prompt in prompts
    ]
    same = ties = 0
    gaps: list[float] = []
    for found, reference in zip(lm.batch(prompts, **options), wanted, strict=True):
        pairs = enumerate(zip(found.tokens, reference.tokens, strict=False))
        place = next((index for index, (a, b) in pairs if a != b), None)
        if place is None:
            same += 1
            continue
        assert reference.logprobs is not None
        first, second = reference.logprobs[place].top[:2]
        gaps.append(first.logprob - second.logprob)
        ties += gaps[-1] < TIE
    return {"texts": len(prompts), "same": same, "near_ties": ties, "others": len(gaps) - ties, "gaps": sorted(gaps)}


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--rows", default="1,2,4,8", show_default=True)
@click.option("-n", "--tokens", default=32, show_default=True, help="Tokens decoded in every row.")
@click.option("-d", "--depth", default=64, show_default=True, help="Tokens before them.")
@click.option("-r", "--repetitions", default=7, show_default=True)
@click.option("-t", "--threads", default=2, show_default=True)
@click.option("--gguf", type=click.Path(path_type=Path), help="The model for llama.cpp.")
@click.option("--python", default=sys.executable, help="A Python with llama-cpp-python.")
@click.option("--wait", type=int, help="Measure waits beside a prompt of so many tokens.")
@click.option("--texts", type=click.Path(path_type=Path), help="Compare texts of the prompts in a file.")
@click.option(
    "--processor", is_flag=True, help="Seconds of the processor, with one thread: for a machine that is busy."
)
@click.option("--json", "as_json", is_flag=True)
def main(
    bundle: Path,
    rows: str,
    tokens: int,
    depth: int,
    repetitions: int,
    threads: int,
    gguf: Path | None,
    python: str,
    wait: int | None,
    texts: Path | None,
    processor: bool,
    as_json: bool,
) -> None:
    if wait is not None or texts is not None:
        with load(bundle, threads=threads, parallel=4) as lm, load(bundle, threads=threads) as alone:
            prompts = [] if texts is None else texts.read_text(encoding="utf-8").splitlines()
            found = waits(lm, wait) if wait is not None else agreement(lm, alone, prompts, tokens)
        click.echo(json.dumps(found))
        return
    counts, threads = [int(count) for count in rows.split(",")], 1 if processor else threads
    with ExitStack() as stack:
        engine = Engine.load(Bundle.open(bundle), threads=threads)
        stack.callback(engine.close)
        sides = {"edgelm": ours(engine, max(counts), depth, tokens)}
        if gguf is not None:
            sides["llama.cpp"] = theirs(stack, python, gguf, threads, max(counts), depth, tokens)
        table = throughput(sides, counts, tokens, repetitions, processor=processor)
    if as_json:
        click.echo(json.dumps({"bundle": bundle.name, "depth": depth, "tokens": tokens, "rows": table}))
        return
    for entry in table:
        low, high = entry["range"]
        line = f"{entry['rows']:2} rows  {entry['side']:10} {entry['tokens_per_second']:8.1f} tok/s ({low:.1f} to {high:.1f})"
        line += f"  x 1: {entry['of_one_row']:.2f}"
        click.echo(line + (f"  x llama.cpp: {entry['of_llama']:.2f}" if "of_llama" in entry else ""))


if __name__ == "__main__":
    sys.exit(guard(lambda: main(standalone_mode=False) or 0))
