"""What a draft bundle gains on a text: greedy decoding with it and without, alternating.

Random ids, which the other tests feed, say nothing about how often a draft model is right. So both models go on with the
sample text that comes with edgelm; ends of text are passed over. ``tg128 text`` decodes one by one, ``tg128 text +draft``
with drafts, those of prompt lookup included.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from edgelm.bench.speed import Clock, OnStep, Rates, SpeedTest
from edgelm.evaluate.passages import BUILTIN, load_passages
from edgelm.runtime.engine import Engine
from edgelm.runtime.loop.draft import DraftModel, ModelDrafter
from edgelm.runtime.loop.generate import Limits, generate_step
from edgelm.runtime.loop.speculation import PassCost, PromptLookup
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.sample.sampling import make_sampler
from edgelm.runtime.text.tokenizer import Tokenizer

_PROMPT = 128  # tokens of the text


def measure_drafted(
    engine: Engine,
    draft: DraftModel,
    tokenizer: Tokenizer,
    generations: Sequence[int],
    repetitions: int,
    *,
    clock: Clock = time.perf_counter,
    on_step: OnStep = lambda done, total, name: None,
) -> tuple[list[Rates], list[str]]:
    """Decode so many tokens, with and without a draft model.

    Args:
        engine: is left empty.
        draft: the draft model.
        tokenizer: of both.
        generations: how many tokens, 2 or more; fewer are passed over.
        repetitions: timed runs of each.
        clock: seconds.
        on_step: is called with every run.

    Returns:
        the rates of tokens after the first, and of each pair a note on what was drafted.
    """
    ids = [i for i in load_passages(BUILTIN, "evaluation").encode(tokenizer, None) if i < engine.vocab_size]
    counts, cost = [count for count in generations if count > 1], PassCost()
    results, notes, done = list[Rates](), list[str](), 0
    for count in counts:
        prompt = ids[: max(1, min(_PROMPT, engine.context - count))]
        tests = [SpeedTest(0, count, kind=kind) for kind in (" text", " text +draft")]
        rates: tuple[list[float], list[float]] = ([], [])
        drafter: ModelDrafter | None = None
        for repetition in range(repetitions + 1):
            for index, test in enumerate(tests):
                on_step(done, 2 * len(counts) * (repetitions + 1), test.name)
                drafter = None
                if index:
                    own = draft.beside(engine)
                    own.reset()
                    drafter = ModelDrafter(draft, own, PromptLookup(cost), cost, lambda: None)
                seconds = _decode(engine, prompt, count, drafter, clock)
                if repetition:  # the first was the warm-up
                    rates[index].append((count - 1) / seconds)
                done += 1
        results += [Rates(test, tuple(found)) for test, found in zip(tests, rates, strict=True)]
        assert drafter is not None
        faster = results[-1].mean / results[-2].mean
        drafts = f"{drafter.accepted} of {drafter.drafted} draft tokens accepted"
        notes.append(f"tg{count} with the draft: {drafts}, {faster:.2f} times as fast")
    engine.reset()
    return results, notes


def _decode(engine: Engine, prompt: list[int], count: int, drafter: ModelDrafter | None, clock: Clock) -> float:
    """Seconds of the tokens after the first."""
    engine.reset()
    steps = generate_step(engine, prompt, make_sampler(GenerationConfig(temperature=0)), Limits(count), drafter=drafter)
    next(steps)
    start = clock()
    for _ in steps:
        pass
    return clock() - start
