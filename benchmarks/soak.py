"""Many generations, most of them cut short in one way or another: does memory grow, does the model stay sound?

    python benchmarks/soak.py [BUNDLE] [-g 1000] [--seed 0] [--json]

Without BUNDLE the embedded model is exported. Each generation has random options, a new prompt or one continued, on the
model itself, on one of a few sessions, or with a form; about half are cancelled: by closing the stream, by an event,
by another thread, by a deadline. At the end the first prompt must give the tokens it gave at the beginning. Exit code 1
where it does not, or where anonymous memory grew by more than the limit after the first quarter.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import random
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import click

from edgelm.bench.memory import memory_use
from edgelm.cli.failures import guard
from edgelm.runtime.lm import LM, load

LIMIT_MB = 8.0
WORDS = [
    "turn",
    "on",
    "the",
    "lamp",
    "in",
    "kitchen",
    "and",
    "dim",
    "bedroom",
    "lights",
    "to",
    "thirty",
    "percent",
    "please",
    "what",
    "is",
    "état",
    "😀",
    "of",
    "door",
]
FORM = importlib.util.find_spec("llguidance") is not None


def soak(lm: LM, generations: int, seed: int = 0) -> dict[str, Any]:
    """Run them; see above. `grown_mb` is what anonymous memory grew by after the first quarter."""
    chance, endings = random.Random(seed), Counter[str]()
    reference = lm.generate("turn on the lamp", max_tokens=16, temperature=0.0, reuse_cache=False).tokens
    sessions = [lm.session() for _ in range(3)]
    readings: list[float] = []
    for index in range(generations):
        source: Any = chance.choice([lm, lm, *sessions])
        endings[_one(lm, source, chance)] += 1
        if chance.random() < 0.05:
            place = chance.randrange(len(sessions))
            sessions[place].close()
            sessions[place] = lm.session()
        if index >= generations // 4 and index % max(1, generations // 40) == 0:
            readings.append(_anonymous_mb())
    readings.append(_anonymous_mb())
    for session in sessions:
        session.close()
    again = lm.generate("turn on the lamp", max_tokens=16, temperature=0.0, reuse_cache=False).tokens
    return {
        "generations": generations,
        "endings": dict(sorted(endings.items())),
        "anonymous_mb": [round(reading, 1) for reading in readings],
        "grown_mb": round(readings[-1] - readings[0], 2),
        "sound": again == reference,
    }


def _one(lm: LM, source: Any, chance: random.Random) -> str:
    """One generation, perhaps cut short; how it ended."""
    prompt = " ".join(chance.choices(WORDS, k=chance.randint(1, 8)))
    options: dict[str, Any] = {
        "max_tokens": chance.randint(1, 40),
        "temperature": chance.choice([0.0, 0.7, 1.5]),
        "top_k": chance.choice([0, 5, 50]),
        "top_p": chance.choice([1.0, 0.9, 0.5]),
        "min_p": chance.choice([0.0, 0.1]),
        "repetition_penalty": chance.choice([1.0, 1.2]),
        "frequency_penalty": chance.choice([0.0, 0.5]),
        "stop": chance.choice([None, ["e", "."], "on"]),
        "logprobs": chance.random() < 0.2,
    }
    if FORM and chance.random() < 0.2:
        options["regex"] = r"[a-z ]{5,30}"
    how, after = chance.choice(["run", "run", "run", "close", "event", "thread", "deadline"]), chance.randint(0, 10)
    event = threading.Event()
    if how == "deadline":
        options["deadline"] = chance.uniform(1e-6, 0.02)
    timer = threading.Timer(chance.uniform(0, 0.02), lm.cancel) if how == "thread" else None
    if timer is not None:
        timer.start()
    reason = "closed"
    with contextlib.closing(source.stream(prompt, cancel=event, **options)) as chunks:
        for count, chunk in enumerate(chunks):
            reason = chunk.finish_reason or reason
            if count == after and how == "close":
                break
            if count == after and how == "event":
                event.set()
    if timer is not None:
        timer.join()
    return reason


def _anonymous_mb() -> float:
    gc.collect()
    return (memory_use().anonymous or 0) / 1e6


@click.command(help=__doc__)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("-g", "--generations", default=1000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(bundle: Path | None, generations: int, seed: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if bundle is None:
            from edgelm.exporter.pipeline import export

            bundle = export(None, "x86-64", output=Path(folder) / "bundle").path
        with load(bundle) as lm:
            result = soak(lm, generations, seed)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(f"{result['generations']} generations, ended by {result['endings']}")
        click.echo(
            f"anonymous memory grew by {result['grown_mb']} MB after the first quarter: {result['anonymous_mb']}"
        )
        click.echo(
            "the first prompt gives the same tokens" if result["sound"] else "THE FIRST PROMPT GIVES OTHER TOKENS"
        )
    sys.exit(int(not result["sound"] or result["grown_mb"] > LIMIT_MB))


if __name__ == "__main__":
    sys.exit(guard(lambda: main(standalone_mode=False) or 0))
