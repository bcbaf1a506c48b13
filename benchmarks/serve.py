"""`edgelm serve` under load: several streams together beside one, the time to the first token, what a client's leaving costs.

    python -m benchmarks.serve BUNDLE [--streams 1,2,4] [-n 64] [-r 5] [-t 2] [--system FILE] [--compiled BUNDLE] [--json]

The server is a process of its own, asked through HTTP as apps ask it. Tokens per second are those of all streams together,
from the first token that any of them gets to the last of all, and the numbers of streams take turns; medians, in brackets the
smallest and largest; `x 1` is the median of the ratios to one stream of the same round.

With `--system`, a file, conversations begin with that text: the time to the first token is measured for a server that has not
seen it, for one that has, and of `--compiled`, a bundle exported with ``--compile-prompt`` of it, where nobody has either.
Every repetition starts servers anew. Clients that leave do so in the middle of a stream: how many tokens are computed for them
beyond those that they had.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx

from edgelm.cli.failures import guard

QUESTION = "Tell me about the lamp number {} in a few words."


@contextlib.contextmanager
def server(bundle: Path, threads: int, parallel: int) -> Iterator[httpx.Client]:
    """A server of a bundle that has loaded it, and a client for it."""
    command = [sys.executable, "-m", "edgelm", "serve", str(bundle), "--port", "0", "-t", str(threads)]
    command += ["--parallel", str(parallel), "--no-prompt-cache"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next((line for line in process.stderr if line.startswith("note: serving")), "")
        if not line:
            raise click.ClickException(f"edgelm serve {bundle} did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        url = line.split(" on ")[1].split(",")[0].strip()
        try:
            with httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
                client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).raise_for_status()
                yield client
        finally:
            process.terminate()
            process.wait()


def stream(client: httpx.Client, messages: list[dict[str, str]], tokens: int, leave: int | None = None) -> list[float]:
    """Moments at which pieces of an answer of so many tokens came; the client leaves after so many."""
    body = {
        "messages": messages,
        "max_tokens": tokens,
        "stream": True,
        "temperature": 0,
        "logit_bias": {"2": -100, "0": -100},
    }
    times: list[float] = []
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                times.append(time.perf_counter())
            if leave is not None and len(times) >= leave:
                break
    return times


def together(client: httpx.Client, streams: int, tokens: int, turn: int) -> float:
    """Tokens per second of so many streams at once."""
    times: list[list[float]] = [[] for _ in range(streams)]
    before = _count(client)

    def one(index: int) -> None:
        text = QUESTION.format(turn * 100 + index)
        times[index] = stream(client, [{"role": "user", "content": text}], tokens)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = max(each[-1] for each in times) - min(each[0] for each in times)
    return (_count(client) - before - streams) / seconds


def leaving(client: httpx.Client, turn: int) -> float:
    """Tokens of a text that were computed beyond those which its client had when it left."""
    before = _metric(client, "edgelm_model_decode_tokens_total")
    had = stream(client, [{"role": "user", "content": QUESTION.format(7000 + turn)}], 2000, leave=24)
    while _metric(client, "edgelm_running"):
        time.sleep(0.01)
    # The first token comes of the prompt's pass, not of decode.
    return _metric(client, "edgelm_model_decode_tokens_total") - before - (len(had) - 1)


def first_token(bundle: Path, system: str, threads: int) -> list[float]:
    """Seconds to the first token of two conversations of a server that has just begun."""
    found = []
    with server(bundle, threads, 1) as client:
        for turn in range(2):
            started = time.perf_counter()
            messages = [{"role": "system", "content": system}, {"role": "user", "content": QUESTION.format(turn)}]
            found.append(stream(client, messages, 4)[0] - started)
    return found


def _count(client: httpx.Client) -> int:
    return int(_metric(client, "edgelm_completion_tokens_total"))


def _metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def _range(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _of_streams(bundle: Path, counts: list[int], tokens: int, repetitions: int, threads: int) -> dict[str, Any]:
    with server(bundle, threads, max(counts)) as client:
        rounds = [
            {count: together(client, count, tokens, turn * 10 + count) for count in counts}
            for turn in range(repetitions + 1)
        ]
        left = [leaving(client, turn) for turn in range(repetitions * 2)]
    table = []
    for count in counts:
        ratio = statistics.median(each[count] / each[counts[0]] for each in rounds[1:])
        table.append({"streams": count, **_range([each[count] for each in rounds[1:]]), "of_one": ratio})
    return {"streams": table, "tokens_after_leaving": _range(left)}


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--streams", default="1,2,4", show_default=True)
@click.option("-n", "--tokens", default=64, show_default=True, help="Tokens of every text.")
@click.option("-r", "--repetitions", default=5, show_default=True)
@click.option("-t", "--threads", default=2, show_default=True)
@click.option("--system", type=click.Path(path_type=Path, exists=True), help="A file with a system prompt.")
@click.option("--compiled", type=click.Path(path_type=Path), help="A bundle with that prompt in it.")
@click.option("--json", "as_json", is_flag=True)
def main(
    bundle: Path,
    streams: str,
    tokens: int,
    repetitions: int,
    threads: int,
    system: Path | None,
    compiled: Path | None,
    as_json: bool,
) -> None:
    found = _of_streams(bundle, [int(count) for count in streams.split(",")], tokens, repetitions, threads)
    if system is not None:
        text, seconds = system.read_text(encoding="utf-8"), dict[str, list[float]]()
        for _ in range(repetitions):
            sides = {"": bundle, "compiled ": compiled} if compiled is not None else {"": bundle}
            for name, path in sides.items():
                for what, value in zip(("first", "second"), first_token(path, text, threads), strict=True):
                    seconds.setdefault(f"{name}{what}", []).append(value)
        found["first_token_seconds"] = {name: _range(values) for name, values in seconds.items()}
    if as_json:
        click.echo(json.dumps(found))
        return
    for entry in found["streams"]:
        speeds = f"{entry['median']:8.1f} tok/s ({entry['least']:.1f} to {entry['most']:.1f})"
        click.echo(f"{entry['streams']:2} streams  {speeds}  x 1: {entry['of_one']:.2f}")
    left = found["tokens_after_leaving"]
    click.echo(
        f"of a text whose client leaves {left['median']:.0f} tokens more are computed ({left['most']:.0f} at most)"
    )
    for name, entry in found.get("first_token_seconds", {}).items():
        click.echo(
            f"first token, {name} conversation: {entry['median']:.3f} s ({entry['least']:.3f} to {entry['most']:.3f})"
        )


if __name__ == "__main__":
    sys.exit(guard(lambda: main(standalone_mode=False) or 0))
