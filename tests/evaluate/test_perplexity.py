"""Perplexity is llama.cpp's: which tokens are scored, on what, and the figure itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgelm.errors import EdgeLMError, OptionError
from edgelm.evaluate import perplexity as module
from edgelm.evaluate.perplexity import negative_log_likelihood, perplexity
from edgelm.runtime.engine import Engine


class FakeEngine:
    """Gives the id that follows in the counting sequence 0, 1, 2 … a logit of `sure`, all others 0."""

    def __init__(self, vocab: int = 1000, context: int = 512, sure: float = 0.0) -> None:
        self.vocab_size, self.context, self.sure = vocab, context, sure
        self.seen: list[list[int]] = []  # the ids since each reset
        self.scored = 0

    def reset(self):
        self.seen.append([])

    def forward(self, ids, num_logits=1):
        self.seen[-1] += [int(i) for i in ids]
        self.scored += num_logits
        logits = np.zeros((num_logits, self.vocab_size), np.float32)
        for row, token in zip(logits, self.seen[-1][-num_logits:], strict=True):
            row[(token + 1) % self.vocab_size] = self.sure
        return logits


def test_a_model_that_knows_nothing_has_the_vocabulary_for_a_perplexity():
    found = perplexity(FakeEngine(vocab=1000), range(700))
    assert found.value == pytest.approx(1000)
    assert found.error == pytest.approx(0, abs=1e-3)
    assert (found.tokens, found.chunks, found.chunk) == (255, 1, 512)


def test_a_model_that_knows_everything_has_one():
    assert perplexity(FakeEngine(sure=50.0), range(600)).value == pytest.approx(1)


def test_chunks_do_not_overlap_and_the_rest_is_not_used():
    engine = FakeEngine(context=16)
    found = perplexity(engine, range(60))
    chunks = [chunk for chunk in engine.seen if chunk]
    assert chunks == [list(range(start, start + 15)) for start in (0, 16, 32)], "nothing follows the 16th"
    assert (found.chunks, found.tokens) == (3, 3 * 7)
    assert engine.scored == found.tokens
    assert engine.seen[-1] == [], "the engine is left empty"


def test_bos_takes_the_first_place_of_each_chunk():
    engine = FakeEngine(context=16)
    perplexity(engine, range(100, 132), bos=1)
    assert [chunk[:2] for chunk in engine.seen if chunk] == [[1, 101], [1, 117]]


def test_chunk_and_chunks():
    engine = FakeEngine(context=512)
    found = perplexity(engine, range(900), chunk=100, chunks=4)
    assert (found.chunk, found.chunks, found.tokens) == (100, 4, 4 * 49)
    assert perplexity(engine, range(900), chunk=100, chunks=99).chunks == 9


def test_an_odd_chunk_scores_what_follows_its_middle():
    assert perplexity(FakeEngine(), range(100), chunk=9).tokens == 11 * 4


def test_a_large_vocabulary_goes_through_in_pieces(monkeypatch):
    whole = FakeEngine(sure=3.0)
    expected = perplexity(whole, np.arange(1024) * 7 % 1000, chunk=64)
    for rows in (1, 10, 31, 32):
        monkeypatch.setattr(module, "_MOST_LOGITS", rows * 1000)
        engine = FakeEngine(sure=3.0)
        assert perplexity(engine, np.arange(1024) * 7 % 1000, chunk=64) == expected
        assert engine.seen == whole.seen


def test_error_is_the_standard_error_of_the_mean_times_the_value():
    engine = FakeEngine(vocab=10, sure=2.0)
    ids = np.random.default_rng(0).integers(0, 10, 512)
    right = (ids[256:511] + 1) % 10 == ids[257:512]
    losses = math.log(math.exp(2) + 9) - 2.0 * right
    found = perplexity(engine, ids)
    assert found.value == pytest.approx(math.exp(losses.mean()))
    assert found.error == pytest.approx(found.value * math.sqrt(losses.var() / 254), rel=1e-4)


def test_large_logits_do_not_overflow():
    logits = np.array([[5000.0, 4990.0, -5000.0]], np.float32)
    assert negative_log_likelihood(logits, np.array([1])) == pytest.approx([10.0000454])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_broken_model(value):
    with pytest.raises(EdgeLMError, match="NaN or infinite"):
        negative_log_likelihood(np.array([[1.0, value]], np.float32), np.array([0]))


@pytest.mark.parametrize(
    ("ids", "options", "said"),
    [
        (range(511), {}, "the text has 511 tokens, perplexity needs 512 or more"),
        (range(99), {"chunk": 3}, "chunk must be from 4 to the context of 512 tokens, not 3"),
        (range(9999), {"chunk": 513}, "chunk must be from 4 to the context of 512 tokens, not 513"),
        (range(9999), {"chunks": 0}, "chunks must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_measured(ids, options, said):
    with pytest.raises(EdgeLMError if not options else OptionError, match=said):
        perplexity(FakeEngine(), ids, **options)


def test_it_is_what_transformers_gives(tiny_checkpoint, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from edgelm.exporter.pipeline import export

    checkpoint = tiny_checkpoint(seed=3)
    ids = np.random.default_rng(1).integers(3, 300, 64 * 5 + 20)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    losses = []
    for start in range(0, 64 * 5, 64):
        inputs = torch.tensor(ids[start : start + 64])[None]
        targets = inputs[0, 33:].clone()
        inputs[0, 0] = 1
        with torch.no_grad():
            logits = model(inputs).logits[0, 32:63]
        losses.append(torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none"))
    nll = torch.cat(losses)
    engine = Engine.load(export(checkpoint, "x86-64", "fp32", output=tmp_path / "b"))
    found = perplexity(engine, ids, bos=1, chunk=64)
    assert found.tokens == len(nll) == 5 * 31
    assert found.value == pytest.approx(math.exp(nll.mean()), rel=1e-5)
    assert found.error == pytest.approx(found.value * float(nll.std(correction=0)) / math.sqrt(len(nll) - 1), rel=1e-4)
