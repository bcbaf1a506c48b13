"""Several requests at once: each text is as alone, whoever else comes, goes, waits or fails; nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeBatch, FakeEngine, greedy

import edgelm
from edgelm.bundle.reader import Bundle
from edgelm.errors import BusyError, EdgeLMError, OptionError, PromptError
from edgelm.exporter.pipeline import export
from edgelm.runtime.kv.prefill import PREFILL_CHUNK
from edgelm.runtime.lm import LM
from edgelm.runtime.loop.batch_loop import BatchLoop
from edgelm.runtime.loop.generate import Limits
from edgelm.runtime.loop.piece_size import BESIDE, TILE, PieceSize
from edgelm.runtime.loop.request import Request
from edgelm.runtime.loop.results import Chunk
from edgelm.runtime.loop.running import Running
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.text.prompt import open_tokenizer

FROZEN = Path(__file__).parents[1] / "frozen" / "format1"
CONTEXT = 4096


class Ticket:
    """A request that a test follows."""

    def __init__(self, loop: Loop, ids: list[int], most: int, **options: Any) -> None:
        self.cancelled = threading.Event()
        self.items: list[Chunk | BaseException] = []
        self.ids, self.most = ids, most
        interrupt = lambda: "cancelled" if self.cancelled.is_set() else None  # noqa: E731
        sequence = options.pop("sequence", loop.engine)
        request = Request(
            sequence, ids, GenerationConfig(max_tokens=most, **options), Limits(most, (), interrupt),
            reuse_cache=True, encode_seconds=0.0, cancelled=self.cancelled,
        )  # fmt: skip
        self.running = Running(request, loop.tokenizer, self.items.append)
        loop.loop.waiting.append(self.running)

    @property
    def tokens(self) -> list[int]:
        return [token for item in self.items if isinstance(item, Chunk) for token in item.tokens]

    @property
    def reason(self) -> str | None:
        return next((item.finish_reason for item in self.items if isinstance(item, Chunk) and item.finish_reason), None)


class Loop:
    """A `BatchLoop` over a fake model."""

    def __init__(self, tokenizer: Any, parallel: int = 4, **options: Any) -> None:
        self.tokenizer, self.engine = tokenizer, FakeEngine(context=CONTEXT, **options)
        self.batch = FakeBatch(self.engine.model, parallel)
        self.loop = BatchLoop(self.batch, self.engine)

    def ticket(self, ids: list[int], most: int = 8, **options: Any) -> Ticket:
        return Ticket(self, ids, most, **options)

    def run(self, rounds: int = 100_000) -> int:
        for count in range(rounds):
            if not self.loop.round():
                return count + 1
        return rounds


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return open_tokenizer(Bundle.open(FROZEN))


def ids_of(seed: int, count: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(3, 250, count)]


def test_texts_are_those_of_each_alone(tokenizer: Any) -> None:
    loop = Loop(tokenizer, parallel=3)
    tickets = [loop.ticket(ids_of(seed, 3 + 7 * seed), 5 + seed) for seed in range(8)]
    loop.run()
    for ticket in tickets:
        assert ticket.tokens == greedy(ticket.ids, ticket.most)
        assert ticket.reason == "length"
    stats = loop.loop.stats()
    assert (stats.finished, stats.running, stats.waiting) == (8, 0, 0)
    assert stats.decode_passes < stats.decode_tokens


def test_they_are_admitted_in_the_order_in_which_they_came(tokenizer: Any) -> None:
    loop = Loop(tokenizer, parallel=2)
    tickets = [loop.ticket(ids_of(seed, 4), 3 + seed % 3) for seed in range(9)]
    begun: list[int] = []
    while loop.loop.round():
        begun += [i for i, t in enumerate(tickets) if t.running in loop.loop.running and i not in begun]
        assert len(loop.loop.running) <= 2
    assert begun == sorted(begun)


def test_a_long_prompt_is_read_between_the_tokens_of_others(tokenizer: Any) -> None:
    loop = Loop(tokenizer, parallel=3)
    talker = loop.ticket(ids_of(1, 4), 400)
    for _ in range(3):
        loop.loop.round()
    reader, short = loop.ticket(ids_of(2, 2000), 2), loop.ticket(ids_of(3, 40), 2)
    while not reader.items:
        before = len(talker.running.history)
        loop.loop.round()
        if talker.reason is None:
            assert len(talker.running.history) == before + 1, "a token every round"
    assert short.reason == "length", "prompts take turns"
    loop.run()
    assert reader.tokens == greedy(reader.ids, 2)
    assert talker.tokens == greedy(talker.ids, 400)


def test_pieces_are_as_long_as_the_others_can_wait() -> None:
    """A step of 10 ms, a token of a prompt 1 ms: the time that a piece may take goes into that many tokens."""
    size = PieceSize()
    size.stepped(0.010)
    for _ in range(30):
        tokens = size.next()
        size.read(tokens, 0.001 * tokens)
    assert abs(size.next() - BESIDE * 10) <= TILE
    size.read(1, 1e-9)
    assert abs(size.next() - BESIDE * 10) <= TILE, "the end of a prompt tells nothing"


def test_where_no_piece_is_short_enough_most_tokens_are_rows_of_the_others() -> None:
    size = PieceSize()
    size.stepped(0.010)
    asked = []
    for _ in range(1000):
        asked.append(size.next())
        if asked[-1] > 1:
            size.read(asked[-1], 0.030)
    rows, pieces = asked[-500:].count(1), asked[-500:].count(TILE)
    assert rows + pieces == 500
    assert pieces == pytest.approx(500 / 3, abs=2), "two rows after a piece that takes three passes"
    for _ in range(200):  # it has become cheap
        tokens = size.next()
        if tokens > 1:
            size.read(tokens, 0.001 * tokens)
    assert abs(size.next() - BESIDE * 10) <= TILE


def test_passes_that_something_else_held_up_do_not_shorten_pieces() -> None:
    """Every fourth piece and step takes ten times as long: what most of them take counts."""
    size = PieceSize()
    for turn in range(200):
        slow = 10 if turn % 4 == 0 else 1
        size.stepped(0.010 * slow)
        tokens = size.next()
        size.read(tokens, 0.001 * tokens * (10 if turn % 4 == 2 else 1))
    assert 0.7 * BESIDE * 10 <= size.next() <= 1.4 * BESIDE * 10


@pytest.mark.parametrize("whose", ["batch", "session"])
def test_a_prompt_is_read_by_rows_of_the_others_where_they_cannot_wait(tokenizer: Any, whose: str) -> None:
    loop = Loop(tokenizer, parallel=3)
    talker = loop.ticket(ids_of(1, 4), 400)
    for _ in range(3):
        loop.loop.round()
    loop.loop._size._rows = 10**6
    options = {} if whose == "batch" else {"sequence": loop.engine.model.sequence()}
    reader = loop.ticket(ids_of(2, 200), 5, **options)
    begun = len(loop.engine.passes)
    while not reader.items:
        before = len(talker.running.history)
        loop.loop.round()
        assert len(talker.running.history) == before + 1
        loop.loop._size._rows = 10**6  # however fast this model is
    longest = max(loop.engine.passes[begun:])
    assert longest == (1 if whose == "batch" else TILE), "a session's sequence is no row of theirs"
    loop.run()
    assert loop.loop.stats().prefill_tokens >= 200 - 1
    assert reader.tokens == greedy(reader.ids, 5)
    assert talker.tokens == greedy(talker.ids, 400)


def test_prompts_beside_callers_who_wait_for_no_single_token_tell_nothing_of_pieces(tokenizer: Any) -> None:
    loop = Loop(tokenizer, parallel=3)
    talker = loop.ticket(ids_of(1, 4), 40)
    talker.running.patient = True
    for _ in range(3):
        loop.loop.round()
    told: list[int] = []
    loop.loop._size.read = lambda tokens, seconds: told.append(tokens)  # type: ignore[method-assign]
    reader = loop.ticket(ids_of(2, 600), 5)
    begun = len(loop.engine.passes)
    while not reader.items:
        loop.loop.round()
    assert max(loop.engine.passes[begun:]) == PREFILL_CHUNK
    assert told == []


def test_equal_beginnings_are_computed_once(tokenizer: Any) -> None:
    loop = Loop(tokenizer, parallel=4)
    shared = ids_of(1, 600)
    tickets = [loop.ticket([*shared, *ids_of(seed, 5)], 4) for seed in range(2, 6)]
    loop.run()
    stats = loop.loop.stats()
    assert stats.prefill_tokens < 600 + 4 * 40
    assert stats.prefix_tokens_reused >= 3 * 590
    again = loop.ticket([*shared, *ids_of(9, 5)], 4)
    loop.run()
    assert loop.loop.stats().prefill_tokens - stats.prefill_tokens < 40
    for ticket in (*tickets, again):
        assert ticket.tokens == greedy(ticket.ids, 4)
        timings = ticket.items[-1].timings  # type: ignore[union-attr]
        assert timings is not None
        assert timings.prompt_tokens == 605
    assert again.items[-1].timings.cached_tokens >= 600  # type: ignore[union-attr]


def test_whoever_reads_the_beginning_may_leave(tokenizer: Any) -> None:
    loop = Loop(tokenizer, parallel=2)
    shared = ids_of(1, 900)
    first, second = loop.ticket([*shared, 5], 4), loop.ticket([*shared, 6], 4)
    loop.loop.round()
    loop.loop.round()
    first.cancelled.set()
    loop.run()
    assert first.reason == "cancelled"
    assert second.tokens == greedy(second.ids, 4)
    assert loop.loop.stats().prefix_tokens_reused >= PREFILL_CHUNK


def test_a_talk_goes_on_in_its_sequence_and_others_are_left(tokenizer: Any) -> None:
    loop = Loop(tokenizer, parallel=3)
    talks = [loop.ticket(ids_of(seed, 100), 6) for seed in (1, 2)]
    loop.run()
    before = loop.loop.stats().prefill_tokens
    for ticket in talks:
        loop.ticket([*ticket.ids, *ticket.tokens, 9, 9], 4)
    loop.run()
    assert loop.loop.stats().prefill_tokens - before <= 2 * 3


def test_one_that_fails_fails_alone(tokenizer: Any) -> None:
    bad = ids_of(66, 9)

    def logits(ids: Any) -> np.ndarray:
        from fake_engine import logits_of

        return logits_of(ids) * (np.nan if list(ids[:9]) == bad and len(ids) > 12 else 1)

    loop = Loop(tokenizer, parallel=3, logits=logits)
    good, poor, long = loop.ticket(ids_of(1, 9), 12), loop.ticket(bad, 12), loop.ticket(ids_of(2, CONTEXT + 1), 4)
    loop.run()
    assert good.tokens == greedy(good.ids, 12)
    assert isinstance(poor.items[-1], EdgeLMError)
    assert "NaN" in str(poor.items[-1])
    assert isinstance(long.items[-1], PromptError)
    assert loop.loop.stats().failed == 2


def test_memory_is_kept_to(tokenizer: Any) -> None:
    """Room for 1,000 tokens: what is kept goes first, and then requests wait."""
    loop = Loop(tokenizer, parallel=4)
    loop.batch.limit = 1000
    tickets = [loop.ticket(ids_of(seed, 300), 20) for seed in range(6)]
    most = 0
    while loop.loop.round():
        held = sum(len(sequence.ids) for sequence in loop.batch.sequences)
        most = max(most, held)
        assert len(loop.loop.running) <= 3
    assert 600 < most <= 1000
    for ticket in tickets:
        assert ticket.tokens == greedy(ticket.ids, 20)


def test_a_cancelled_one_ends_before_the_next_pass(tokenizer: Any) -> None:
    loop = Loop(tokenizer, parallel=1)
    first, second = loop.ticket(ids_of(1, 4), 50), loop.ticket(ids_of(2, 4), 50)
    for _ in range(5):
        loop.loop.round()
    first.cancelled.set()
    count, passes = len(first.running.history), len(loop.engine.passes)
    loop.loop.round()
    assert (len(first.running.history), first.reason) == (count, "cancelled")
    assert len(loop.engine.passes) <= passes + 2
    second.cancelled.set()
    loop.run()
    assert second.reason == "cancelled"
    assert loop.loop.stats().cancelled == 2


def storm(tokenizer: Any, count: int) -> None:
    """Requests of random lengths, some with equal beginnings, some left at random moments."""
    rng = random.Random(7)
    loop = Loop(tokenizer, parallel=5)
    beginnings = [ids_of(1000 + i, 60) for i in range(4)]
    open_tickets: list[Ticket] = []
    made, waited, held = 0, dict[Ticket, int](), list[int]()
    while made < count or open_tickets:
        while made < count and len(open_tickets) < 40 and rng.random() < 0.5:
            ids = [*(rng.choice(beginnings) if rng.random() < 0.4 else []), *ids_of(made, rng.randint(1, 40))]
            open_tickets.append(loop.ticket(ids, rng.randint(1, 25)))
            made += 1
        loop.loop.round()
        for ticket in list(open_tickets):
            waited[ticket] = waited.get(ticket, 0) + 1
            assert waited[ticket] < 2500, "starved"
            if rng.random() < 0.004:
                ticket.cancelled.set()
            if ticket.reason is None:
                continue
            expected = greedy(ticket.ids, ticket.most)
            assert ticket.tokens == expected[: len(ticket.tokens)]
            assert ticket.reason == "cancelled" or len(ticket.tokens) == ticket.most
            open_tickets.remove(ticket)
            del waited[ticket]
        held.append(sum(len(sequence.ids) for sequence in loop.batch.sequences))
    stats = loop.loop.stats()
    assert stats.finished + stats.cancelled == count
    assert stats.cancelled > count / 50
    assert max(held) <= 5 * 125
    assert stats.prefix_tokens_reused > count * 5


def test_many_requests(tokenizer: Any) -> None:
    storm(tokenizer, 150)


@pytest.mark.slow
def test_five_thousand_requests(tokenizer: Any) -> None:
    storm(tokenizer, 5000)


# -- the real thing, from threads


@pytest.fixture(scope="module")
def bundle(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(data_dir / "stories260K", "x86-64", "fp32", output=tmp_path_factory.mktemp("parallel") / "b")


LONG: dict[str, Any] = {"max_tokens": 480, "logit_bias": {2: -math.inf}, "reuse_cache": False}
"""Options of a text that does not end while a test does something about it."""


@pytest.fixture(scope="module")
def alone(bundle: Bundle) -> Iterator[LM]:
    with edgelm.load(bundle.path, threads=1) as lm:
        yield lm


@pytest.fixture
def lm(bundle: Bundle) -> Iterator[LM]:
    with edgelm.load(bundle.path, threads=1, parallel=3) as lm:
        yield lm


PROMPTS = ["The lamp", "A cat sat on", "Once", "Turn it off, please, and then", "x" * 40, "The lamp is on"]


def test_threads(lm: LM, alone: LM) -> None:
    expected = [alone.generate(prompt, max_tokens=24).tokens for prompt in PROMPTS]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda prompt: lm.generate(prompt, max_tokens=24).tokens, PROMPTS * 3))
    assert found == expected * 3
    stats = lm.scheduler_stats()
    assert (stats.finished, stats.running, stats.waiting, stats.failed) == (18, 0, 0, 0)
    assert stats.to_dict()["kv_bytes"] > 0


def test_batch_and_several_completions(lm: LM, alone: LM) -> None:
    expected = [alone.generate(prompt, max_tokens=12).tokens for prompt in PROMPTS]
    assert [c.tokens for c in lm.batch(PROMPTS, max_tokens=12)] == expected
    assert [c.tokens for c in alone.batch(PROMPTS, max_tokens=12)] == expected
    options: dict[str, Any] = {"n": 4, "temperature": 1.0, "seed": 5, "max_tokens": 8}
    found, wanted = lm.generate("The lamp", **options), alone.generate("The lamp", **options)
    assert [c.tokens for c in found] == [c.tokens for c in wanted]
    with pytest.raises(OptionError):
        lm.batch(["fine", "not fine"], temperature=-1.0)
    with pytest.raises(PromptError):
        lm.batch(["fine", "a cat " * 900])
    assert lm.batch([]) == []


def test_each_has_its_own_options(lm: LM, alone: LM) -> None:
    options: list[dict[str, Any]] = [
        {"temperature": 0.9, "seed": 3},
        {"stop": [alone.generate("A cat", max_tokens=12, raw=True).text[4:6]], "raw": True},
        {"logprobs": True, "top_logprobs": 2},
        {"repetition_penalty": 1.3},
        {"frequency_penalty": 0.7, "logit_bias": {17: 3.0}},
        {"echo": True, "raw": True},
        {"choice": ["on", "off", "unknown"]},
        {"regex": "[a-f]{3}-[0-9]+"},
        {"json_schema": {"type": "object", "properties": {"light": {"enum": ["on", "off"]}}, "required": ["light"]}},
    ]
    expected = [alone.generate("A cat", max_tokens=12, **each) for each in options]
    with ThreadPoolExecutor(9) as pool:
        found = list(pool.map(lambda each: lm.generate("A cat", max_tokens=12, **each), options * 2))
    for one, other in zip(found, expected * 2, strict=True):
        assert (one.text, one.tokens, one.finish_reason) == (other.text, other.tokens, other.finish_reason)
        for a, b in zip(one.logprobs or (), other.logprobs or (), strict=True):
            assert [t.token for t in (a, *a.top)] == [t.token for t in (b, *b.top)]
            assert abs(a.logprob - b.logprob) < 1e-2


GRAMMARS: list[dict[str, Any]] = [
    {"choice": ["on", "off", "unknown", "at 30 percent"]},
    {"regex": "[a-f]{3}-[0-9]+ (open|closed)"},
    {"json_schema": {"type": "object", "properties": {"on": {"type": "boolean"}, "at": {"type": "integer"}}}},
]


def crowd(lm: LM, alone: LM, count: int) -> None:
    """Requests from many threads, with options and grammars of their own and of random lengths; some callers leave."""
    kinds: list[dict[str, Any]] = [{}, {"temperature": 0.8, "seed": 11}, {"repetition_penalty": 1.2}, *GRAMMARS]
    cases = [(prompt, options) for prompt in PROMPTS for options in kinds]
    expected = [list(alone.generate(prompt, max_tokens=24, **options).tokens) for prompt, options in cases]
    memory: list[int] = []

    def one(number: int) -> bool:
        """Ask once; whether it stayed to the end."""
        chance = random.Random(number)
        index, most = chance.randrange(len(cases)), chance.randint(1, 24)
        prompt, options = cases[index]
        leaves = chance.randrange(5) if chance.random() < 0.2 else None
        tokens: list[int] = []
        with contextlib.closing(lm.stream(prompt, max_tokens=most, **options)) as stream:
            for place, chunk in enumerate(stream):
                tokens += chunk.tokens
                if place == leaves:
                    break
        assert tokens == expected[index][: len(tokens)], (number, prompt, options)
        assert leaves is not None or len(tokens) == min(most, len(expected[index]))
        if number % 50 == 0:
            memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        return leaves is None

    with ThreadPoolExecutor(16) as pool:
        stayed = sum(pool.map(one, range(count)))
    deadline = time.monotonic() + 10
    while (stats := lm.scheduler_stats()).running and time.monotonic() < deadline:  # the last one may just have left
        time.sleep(0.002)
    assert (stats.running, stats.waiting, stats.failed) == (0, 0, 0)
    assert stats.finished >= stayed
    assert stats.finished + stats.cancelled == count
    assert max(memory[len(memory) // 2 :]) < max(memory[: len(memory) // 2]) + 10e6


def test_a_crowd_with_grammars(lm: LM, alone: LM) -> None:
    crowd(lm, alone, 120)


@pytest.mark.slow
def test_five_thousand_requests_with_grammars(lm: LM, alone: LM) -> None:
    crowd(lm, alone, 5000)


def test_a_caller_who_leaves_ends_the_work(lm: LM) -> None:
    stream = lm.stream("Once", **LONG)
    for _ in range(3):
        next(stream)
    stream.close()
    passes = lm.scheduler_stats().decode_passes
    deadline = time.monotonic() + 10
    while lm.scheduler_stats().running and time.monotonic() < deadline:
        time.sleep(0.002)
    assert lm.scheduler_stats().cancelled == 1
    assert lm.scheduler_stats().decode_passes <= passes + 2
    event = threading.Event()
    event.set()
    assert lm.generate("Once", cancel=event).finish_reason == "cancelled"
    assert lm.generate("Once", **LONG, deadline=0.01).finish_reason == "deadline"


def test_queue(bundle: Bundle) -> None:
    with edgelm.load(bundle.path, threads=1, parallel=1, max_queue=1) as lm:
        first, second, third = (lm.stream("Once", **LONG) for _ in range(3))
        next(first)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(next, second)
            while lm.scheduler_stats().waiting < 1:
                time.sleep(0.001)
            with pytest.raises(BusyError, match="1 requests are under way and 1 wait already"):
                next(third)
            first.close()
            assert isinstance(waiting.result(timeout=20), Chunk)
        second.close()
        assert len(lm.batch(PROMPTS, max_tokens=3)) == len(PROMPTS)


def test_async(lm: LM, alone: LM) -> None:
    expected = [alone.generate(prompt, max_tokens=10).tokens for prompt in PROMPTS]

    async def main() -> list[Any]:
        leaving = lm.astream("Once", **LONG)
        async for _ in leaving:
            break
        await leaving.aclose()
        found = await asyncio.gather(*(lm.agenerate(prompt, max_tokens=10) for prompt in PROMPTS * 4))
        with pytest.raises(PromptError):
            await lm.agenerate("a cat " * 900)
        return [completion.tokens for completion in found]

    assert asyncio.run(main()) == expected * 4


def test_sessions_have_their_own_cache(lm: LM, alone: LM) -> None:
    expected = alone.generate("A cat sat on", max_tokens=10).tokens
    with lm.session() as one, lm.session() as other, ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(each.generate, "A cat sat on", max_tokens=10) for each in (one, other, lm, one)]
        assert [job.result().tokens for job in jobs] == [expected] * 4
        assert one.prefill("A cat sat on and") > 0
        stream = one.stream("Once", **LONG)
        next(stream)
        with pytest.raises(EdgeLMError, match="this session is busy"):
            one.prefill("A cat")
        stream.close()


def test_closing(bundle: Bundle) -> None:
    lm = edgelm.load(bundle.path, threads=1, parallel=1)
    running, waiting = lm.stream("Once", **LONG), lm.stream("The lamp", **LONG)
    first = next(running)
    with ThreadPoolExecutor(1) as pool:
        queued = pool.submit(list, waiting)
        while lm.scheduler_stats().waiting < 1 and not queued.done():
            time.sleep(0.001)
        lm.close(wait=True)
        chunks = queued.result(timeout=20)
    text = [first, *running]
    assert text[-1].finish_reason in ("length", "stop"), "it came to its end"
    assert chunks[-1].finish_reason in ("cancelled", "length")
    with pytest.raises(EdgeLMError, match="closed"):
        lm.generate("Once")
    lm = edgelm.load(bundle.path, threads=1, parallel=2)
    running = lm.stream("Once", **LONG)
    next(running)
    lm.close()
    assert list(running)[-1].finish_reason == "cancelled"
    lm.close()


def test_what_goes_wrong_in_the_thread_reaches_all(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [lm.stream(prompt, **LONG) for prompt in PROMPTS[:2]]
    for stream in streams:
        next(stream)
    monkeypatch.setattr(BatchLoop, "_share", lambda self: 1 / 0)
    for stream in streams:
        with pytest.raises(ZeroDivisionError):
            list(stream)
    with pytest.raises(EdgeLMError, match="this LM has failed: division by zero"):
        lm.generate("Once")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_and_exit_do_not_hang(bundle: Bundle) -> None:
    code = f"""
import contextlib, os, edgelm, threading
def read():
    with contextlib.suppress(edgelm.EdgeLMError):
        list(lm.stream("A cat", max_tokens=480))
lm = edgelm.load({str(bundle.path)!r}, threads=1, parallel=2)
stream = lm.stream("Once", max_tokens=480, logit_bias={{2: -float("inf")}})
next(stream)
pid = os.fork()
if pid == 0:
    for call in (lambda: next(stream), lambda: lm.generate("Once"), lm.cancel):
        try:
            call()
        except edgelm.EdgeLMError as error:
            assert "before a fork" in str(error), error
        else:
            os._exit(3)
    lm.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
threading.Thread(target=read, daemon=True).start()
next(stream)
print("leaving")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\n", "")


def test_an_lm_that_is_dropped_is_freed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import weakref

    from edgelm.runtime.loop import batch_scheduler

    monkeypatch.setattr(batch_scheduler, "_IDLE", 0.05)
    lm = edgelm.load(bundle.path, threads=1, parallel=2)
    lm.generate("Once", max_tokens=3)
    time.sleep(0.2)
    assert lm.generate("Once", max_tokens=3).finish_reason == "length", "its thread begins again"
    model = weakref.ref(lm.engine.model)
    time.sleep(0.2)
    del lm
    gc.collect()
    assert model() is None


def test_a_request_that_comes_as_the_thread_ends_is_run(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgelm.runtime.loop import batch_scheduler
    from edgelm.runtime.loop.batch_scheduler import BatchScheduler

    monkeypatch.setattr(batch_scheduler, "_IDLE", 0.05)
    next_round, late, texts = BatchScheduler._next_round, list[threading.Thread](), list[str]()

    def end_slowly(self: BatchScheduler) -> bool:
        go_on = next_round(self)
        if not go_on and not late:
            late.append(threading.Thread(target=lambda: texts.append(lm.generate("Once", max_tokens=3).text)))
            late[0].start()
            while not self._loop.waiting:
                time.sleep(0.001)
        return go_on

    monkeypatch.setattr(BatchScheduler, "_next_round", end_slowly)
    with edgelm.load(bundle.path, threads=1, parallel=2) as lm:
        text = lm.generate("Once", max_tokens=3).text
        deadline = time.monotonic() + 20
        while not texts and time.monotonic() < deadline:
            time.sleep(0.01)
        assert texts == [text]


def test_options_of_load(bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="parallel must be an integer, 1 or more"):
        edgelm.load(bundle.path, parallel=0)
    with pytest.raises(OptionError, match="max_queue goes with parallel"):
        edgelm.load(bundle.path, max_queue=3)
    with pytest.raises(OptionError, match="exclude each other"):
        edgelm.load(bundle.path, parallel=2, draft=bundle.path)
