"""What speculation, the prompt cache, structured output and an int8 KV cache are worth on a bundle, and what they cost.

    python benchmarks/features.py [BUNDLE [--int8-kv BUNDLE]] [-r 5] [-t THREADS] [-n 192] [--prompt 1000] [--json]

Without BUNDLE the embedded model is exported; a bundle of a shape-true checkpoint (tools/make_checkpoint.py) does as well
as a real one, for what is said is scripted: the engine's passes, the guesses and the checks are the real ones, only the
sampler answers with the next token of a script. Off and on run in turn, after one round to warm up; ratios are of
medians, in brackets the smallest and largest ratio of a pair.

* speculation: decode tokens per second on texts that copy their prompt (a rewriting in which every tenth word is another,
  sentences picked from it, its JSON repeated), and on random tokens, where there is nothing to gain.
* prompt cache: time to first token behind a system prompt, computed, and from a file; its size, and what writing takes.
* structured output: time per sampled token of JSON that the schema leaves free, over that of free text; and tokens per
  second where keys need not be sampled.
* int8 KV cache: against the bundle that `--int8-kv` names, the same model exported with `--kv int8`: decode at a depth of
  2,048 tokens, or the most that the context has room for, a prompt of 512 tokens on top of that depth, and the bytes that
  both hold then.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgelm.cli.failures import guard
from edgelm.runtime.engine import Engine
from edgelm.runtime.lm import LM, load
from edgelm.runtime.loop.generate import Limits, generate_step
from edgelm.runtime.loop.speculation import PassCost, PromptLookup

SOURCE = (
    "The ferry leaves the northern harbour every morning at seven and returns before the lamps are lit. It carries "
    "bread, letters, two crates of oranges in winter, and whoever has business in the town across the bay. The captain "
    "keeps a notebook in which each crossing has one line: the hour, the wind, the number of passengers, and anything "
    "that was lost or found. On the third of March somebody left a violin on the middle bench. It was never claimed, so "
    "it hangs above the wheel, and on calm days the mate plays it. Children on the pier listen for it and know that "
    "supper is near. When the ferry is late they count gulls, and write the number in the sand for the captain to read."
)
RECORDS = json.dumps(
    [{"id": 1000 + i, "room": room, "device": "lamp", "on": i % 2 == 0, "brightness": 10 * i} for i, room in enumerate(
        ["kitchen", "bedroom", "hall", "cellar", "attic", "garage", "office", "bathroom"])]
)  # fmt: skip


def scripts(lm: LM, tokens: int) -> dict[str, tuple[list[int], list[int]]]:
    """Name → (prompt ids, ids that the model is made to say)."""
    chance, encode = random.Random(0), lambda text: lm.tokenizer.encode(text, special=False)
    words, sentences = SOURCE.split(), SOURCE.split(". ")
    rewritten = " ".join("something" if i % 10 == 9 else word for i, word in enumerate(words))
    picked = ". ".join(sentences[i] for i in (4, 1, 5))
    noise = [chance.randrange(lm.tokenizer.vocab_size) for _ in range(tokens)]
    return {
        "rewrite": (encode(f"Rewrite this text. {SOURCE}\n"), encode(rewritten)[:tokens]),
        "extract": (encode(f"Which sentences tell of people? {SOURCE}\n"), encode(picked)[:tokens]),
        "JSON echo": (encode(f"Repeat: {RECORDS}\n"), encode(RECORDS)[:tokens]),
        "random": (encode(SOURCE), noise),
    }


def decode_seconds(lm: LM, prompt: Sequence[int], script: Sequence[int], cost: PassCost | None) -> tuple[float, int]:
    """Seconds per token after the first, and how many draft tokens were accepted."""
    engine, drafter = lm.engine, None if cost is None else PromptLookup(cost)
    engine.reset()
    steps = generate_step(
        engine,
        prompt,
        lambda logits, history: script[len(history) - len(prompt)],
        Limits(len(script)),
        drafter=drafter,
    )
    next(steps)
    started = time.perf_counter()
    count = sum(1 for _ in steps)
    return (time.perf_counter() - started) / count, 0 if drafter is None else drafter.accepted


def compare(off: Callable[[], float], on: Callable[[], float], repetitions: int) -> dict[str, Any]:
    """Seconds of both, in turn, and how many times as fast `on` is."""
    pairs = [(off(), on()) for _ in range(repetitions + 1)][1:]
    medians = [statistics.median(values) for values in zip(*pairs, strict=True)]
    ratios = [a / b for a, b in pairs]
    return {
        "off": medians[0],
        "on": medians[1],
        "times_as_fast": medians[0] / medians[1],
        "range": [min(ratios), max(ratios)],
    }


def speculation(lm: LM, tokens: int, repetitions: int) -> list[dict[str, Any]]:
    rows = []
    for name, (prompt, script) in scripts(lm, tokens).items():
        if len(prompt) + len(script) > lm.context or len(script) < 8:
            rows.append({"what": name, "skipped": f"{len(prompt)} + {len(script)} tokens, context {lm.context}"})
            continue
        cost, right = PassCost(), [0]

        def on(
            prompt: list[int] = prompt, script: list[int] = script, cost: PassCost = cost, right: Any = right
        ) -> float:
            seconds, right[0] = decode_seconds(lm, prompt, script, cost)
            return seconds

        def off(prompt: list[int] = prompt, script: list[int] = script) -> float:
            return decode_seconds(lm, prompt, script, None)[0]

        rows.append({"what": name, "tokens": len(script), **compare(off, on, repetitions), "right": right[0]})
    return rows


def prompt_cache(lm: LM, tokens: int, repetitions: int, folder: Path) -> dict[str, Any]:
    """TTFT behind a system prompt of about so many tokens: computed, and from a file loaded for it."""
    tokens = min(tokens, lm.context - 64)
    rules = lm.tokenizer.decode((lm.tokenizer.encode(SOURCE, special=False) * (tokens // 50 + 1))[:tokens])
    path, saves = folder / "cache", list[float]()
    options = {"max_tokens": 1, "raw": True, "temperature": 0.0}
    with lm.session() as session:
        session.prefill(rules, raw=True)
        for _ in range(3):
            started = time.perf_counter()
            session.save(path)
            saves.append(time.perf_counter() - started)

    def computed() -> float:
        started = time.perf_counter()
        with lm.session() as session:
            session.generate(f"{rules} Hello", **options)
        return time.perf_counter() - started

    def loaded() -> float:
        started = time.perf_counter()
        with lm.session() as session:
            session.load(path)
            session.generate(f"{rules} Hello", **options)
        return time.perf_counter() - started

    file = path.stat()
    return {
        "what": f"first token behind {tokens} tokens",
        **compare(computed, loaded, repetitions),
        "save": statistics.median(saves),
        "mb": file.st_size / 1e6,
        "mb_on_disk": file.st_blocks * 512 / 1e6,
    }


def structured(lm: LM, tokens: int, repetitions: int) -> list[dict[str, Any]]:
    """Free text against JSON: every token sampled, then with keys read instead of sampled."""
    words = {"type": "array", "items": {"type": "string", "minLength": 4, "maxLength": 12}, "minItems": 10_000}
    names = ["temperature_in_degrees", "relative_humidity", "last_maintenance_date"]
    record = {"type": "object", "properties": {name: {"enum": ["a", "b"]} for name in names}, "required": names}
    rows = {"type": "array", "items": record | {"additionalProperties": False}, "minItems": 10_000}
    options: dict[str, Any] = {"max_tokens": min(tokens, lm.context // 2), "speculate": "off", "reuse_cache": False}

    def seconds(**form: Any) -> float:
        # A bias on the end of the text, which a model with random weights may choose at any time.
        bias = dict.fromkeys(lm._requests.eos, -np.inf)
        timings = lm.generate("x", raw=True, logit_bias=bias, **options, **form).timings
        return timings.decode_seconds / max(1, timings.completion_tokens - 1)

    return [
        {"what": "JSON, free strings", **compare(lambda: seconds(), lambda: seconds(json_schema=words), repetitions)},
        {"what": "JSON, long keys", **compare(lambda: seconds(), lambda: seconds(json_schema=rows), repetitions)},
    ]


def int8_kv(lm: LM, other: LM, depth: int, repetitions: int) -> list[dict[str, Any]]:
    """Decode, and a further prompt, at a depth; off is a float cache, on an int8 one."""
    context = min(lm.context, other.context)
    chance, steps, piece = np.random.default_rng(0), 32, min(512, context // 4)
    depth = min(depth, context - piece)
    ids = chance.integers(0, lm.engine.vocab_size, depth + piece)
    for each in (lm, other):
        each.engine.reset()
        for start in range(0, depth, 512):
            each.engine.forward(ids[start : min(start + 512, depth)])

    def seconds(engine: Engine, pieces: Sequence[np.ndarray]) -> float:
        started = time.perf_counter()
        for part in pieces:
            engine.forward(part)
        took = (time.perf_counter() - started) / len(pieces)
        engine.rewind(depth)
        return took

    singles, whole = np.split(ids[depth : depth + steps], steps), [ids[depth:]]
    rows = []
    for name, pieces in ((f"decode at {depth}, int8 KV", singles), (f"prompt of {piece} at {depth}, int8 KV", whole)):

        def off(pieces: Sequence[np.ndarray] = pieces) -> float:
            return seconds(lm.engine, pieces)

        def on(pieces: Sequence[np.ndarray] = pieces) -> float:
            return seconds(other.engine, pieces)

        rows.append({"what": name, **compare(off, on, repetitions)})
    held = [each.engine.cache_bytes / 1e6 for each in (lm, other)]
    return [{**row, "kv_mb": held} for row in rows]


@click.command(help=__doc__)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--int8-kv", "small", type=click.Path(exists=True, path_type=Path), help="BUNDLE with --kv int8.")
@click.option("--depth", default=2048, show_default=True, help="Tokens in the KV cache that is measured.")
@click.option("-r", "--repetitions", default=5, show_default=True)
@click.option("-t", "--threads", type=int)
@click.option("-n", "--tokens", default=192, show_default=True, help="Tokens generated.")
@click.option("--prompt", default=1000, show_default=True, help="Tokens of the system prompt.")
@click.option("--json", "as_json", is_flag=True)
def main(
    bundle: Path | None,
    small: Path | None,
    depth: int,
    repetitions: int,
    threads: int | None,
    tokens: int,
    prompt: int,
    as_json: bool,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if bundle is None:
            from edgelm.exporter.pipeline import export

            bundle = export(None, "x86-64", output=Path(folder) / "bundle").path
            small = export(None, "x86-64", kv="int8", output=Path(folder) / "small").path
        with load(bundle, threads=threads) as lm:
            results = {
                "model": lm.bundle.manifest.model.id,
                "threads": lm.engine.threads,
                "speculation": speculation(lm, tokens, repetitions) if lm.engine.rewinds else [],
                "prompt_cache": prompt_cache(lm, prompt, repetitions, Path(folder)),
                "structured": structured(lm, tokens, repetitions),
                "int8_kv": [],
            }
            if small is not None:
                with load(small, threads=threads) as other:
                    results["int8_kv"] = int8_kv(lm, other, depth, repetitions)
    click.echo(json.dumps(results) if as_json else _table(results))


def _table(results: dict[str, Any]) -> str:
    lines = ["| what | off ms | on ms | times as fast | |", "|---|---:|---:|---:|---|"]
    for row in [*results["speculation"], results["prompt_cache"], *results["structured"], *results["int8_kv"]]:
        if "skipped" in row:
            lines.append(f"| {row['what']} | – | – | – | does not fit: {row['skipped']} |")
            continue
        note = f"{row['right']} of {row['tokens']} tokens guessed" if "right" in row else ""
        if "mb" in row:
            note = f"file {row['mb']:.1f} MB ({row['mb_on_disk']:.1f} on disk), written in {1e3 * row['save']:.0f} ms"
        if "kv_mb" in row:
            note = f"KV cache {row['kv_mb'][0]:.1f} MB, and {row['kv_mb'][1]:.1f} MB in int8"
        low, high = row["range"]
        lines.append(
            f"| {row['what']} | {1e3 * row['off']:.2f} | {1e3 * row['on']:.2f} "
            f"| {row['times_as_fast']:.2f} ({low:.2f} … {high:.2f}) | {note} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(guard(lambda: main(standalone_mode=False) or 0))
