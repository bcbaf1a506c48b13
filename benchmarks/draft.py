"""What a draft bundle gains, by how often it is right, and what it costs where it never is.

    python -m benchmarks.draft BUNDLE DRAFT [-r 5] [-t THREADS] [-n 192] [--prompt 200] [--json]

Bundles of shape-true checkpoints (tools/make_checkpoint.py, with one tokenizer) do as well as real ones: both models'
passes are the real ones, and what they say is scripted. The large one says random tokens, of which prompt lookup guesses
none; the draft guesses each with the chance in the first column. Off and on run in turn, after one round to warm up;
ratios are of medians, in brackets the smallest and largest ratio of a pair. The draft's reading of the prompt is counted.

``threads awake`` is the same where the threads of each model wait for its next pass on the cores that the other needs.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.features import compare
from edgelm.bundle.reader import Bundle
from edgelm.cli.failures import guard
from edgelm.runtime.engine import Engine
from edgelm.runtime.loop.draft import DraftModel, ModelDrafter, load_both
from edgelm.runtime.loop.generate import Limits, generate_step
from edgelm.runtime.loop.speculation import PassCost, PromptLookup
from edgelm.runtime.model import Sequence as TextSequence
from edgelm.runtime.ort.options import LoadOptions
from edgelm.runtime.sample.sampling import Floats

CHANCES = (1.0, 0.8, 0.6, 0.4, 0.0)  # that a guess is right


class Scripted(DraftModel):
    """A draft model that says a script's next token with a chance, else another; its passes are real."""

    text: Sequence[int]
    chance: float
    dice: random.Random

    def _choose(self, own: TextSequence, logits: Floats) -> int:
        token = self.text[own.position] if own.position < len(self.text) else 0
        return token if self.dice.random() < self.chance else (token + 1) % self._known


def decode(engine: Engine, text: Sequence[int], prompt: int, drafter: ModelDrafter | None) -> float:
    """Seconds per token after the first."""
    engine.reset()
    steps = generate_step(
        engine,
        text[:prompt],
        lambda logits, history: text[len(history)],
        Limits(len(text) - prompt),
        drafter=drafter,
    )
    next(steps)
    started = time.perf_counter()
    count = sum(1 for _ in steps)
    return (time.perf_counter() - started) / count


def measure(
    bundles: tuple[Bundle, Bundle],
    tokens: int,
    prompt: int,
    repetitions: int,
    threads: int | None,
    disable_spinning: bool,
) -> list[dict[str, Any]]:
    """A row for each chance."""
    options = LoadOptions(threads=threads, disable_spinning=disable_spinning)
    engine, loaded = load_both(bundles[0], bundles[1], options)
    known, dice = min(engine.vocab_size, loaded.model.vocab_size), random.Random(0)
    rows = []
    for chance in CHANCES:
        text = [dice.randrange(known) for _ in range(prompt + tokens)]
        model, cost = Scripted(loaded.model, engine.vocab_size, (), 0.25), PassCost()
        model.text, model.chance, model.dice = text, chance, dice
        right = [0, 0]

        def on(model: Scripted = model, cost: PassCost = cost, text: list[int] = text, right: Any = right) -> float:
            own = model.beside(engine)
            own.reset()
            drafter = ModelDrafter(model, own, PromptLookup(cost), cost, lambda: None)
            seconds = decode(engine, text, prompt, drafter)
            right[:] = drafter.accepted, drafter.drafted
            return seconds

        row = compare(lambda text=text: decode(engine, text, prompt, None), on, repetitions)  # type: ignore[misc]
        row |= {"chance": chance, "threads_awake": not disable_spinning, "accepted": right[0], "drafted": right[1]}
        row |= {"pace_ms": 1e3 * model.cost.token(row["off"])}
        rows.append(row)
    engine.close()
    loaded.close()
    return rows


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("draft", type=click.Path(path_type=Path))
@click.option("-r", "--repetitions", default=5, show_default=True)
@click.option("-t", "--threads", type=int)
@click.option("-n", "--tokens", default=192, show_default=True, help="Tokens generated.")
@click.option("--prompt", default=200, show_default=True, help="Tokens of the prompt.")
@click.option("--json", "as_json", is_flag=True)
def main(
    bundle: Path, draft: Path, repetitions: int, threads: int | None, tokens: int, prompt: int, as_json: bool
) -> None:
    bundles = Bundle.open(bundle), Bundle.open(draft)
    rows = [
        row
        for disable_spinning in (True, False)
        for row in measure(bundles, tokens, prompt, repetitions, threads, disable_spinning)
    ]
    if as_json:
        click.echo(json.dumps({"bundle": str(bundle), "draft": str(draft), "rows": rows}))
        return
    click.echo("| right | off ms | on ms | times as fast | draft's token ms | draft tokens accepted | |")
    click.echo("|---:|---:|---:|---:|---:|---:|---|")
    for row in rows:
        low, high = row["range"]
        click.echo(
            f"| {row['chance']:.0%} | {1e3 * row['off']:.2f} | {1e3 * row['on']:.2f} "
            f"| {row['times_as_fast']:.2f} ({low:.2f} … {high:.2f}) | {row['pace_ms']:.2f} "
            f"| {row['accepted']} of {row['drafted']} | {'threads awake' if row['threads_awake'] else ''} |"
        )


if __name__ == "__main__":
    sys.exit(guard(lambda: main(standalone_mode=False) or 0))
