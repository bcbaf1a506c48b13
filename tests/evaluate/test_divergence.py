"""KL divergence is llama.cpp's, and scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from edgelm.errors import EdgeLMError
from edgelm.evaluate import divergence as module
from edgelm.evaluate import perplexity as pieces
from edgelm.evaluate.divergence import divergence, kl_divergence
from edgelm.evaluate.perplexity import perplexity


class FakeEngine:
    """Logits drawn from a seed and the token, so that they do not depend on pieces."""

    def __init__(self, noise: float = 0.0, vocab: int = 50, context: int = 64) -> None:
        self.vocab_size, self.context = vocab, context
        generator = np.random.default_rng(0)
        table = 3 * generator.standard_normal((vocab, vocab))
        self.table = (table + noise * generator.standard_normal((vocab, vocab))).astype(np.float32)
        self.held = 0

    def reset(self):
        self.held = 0

    def forward(self, ids, num_logits=1):
        self.held += len(ids)
        return self.table[np.asarray(ids)[-num_logits:]]


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 50, 64 * 6 + 9)


def scored_rows(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(The tokens whose logits count, the tokens that follow them) in chunks of 64."""
    chunks = ids[: 64 * 6].reshape(6, 64)
    return chunks[:, 32:63].ravel(), chunks[:, 33:].ravel()


def test_every_figure(ids):
    base, other = FakeEngine(), FakeEngine(noise=0.7)
    found = divergence(base, other, ids)
    rows, targets = scored_rows(ids)
    p, q = softmax(base.table.astype(float), axis=1)[rows], softmax(other.table.astype(float), axis=1)[rows]
    kld = entropy(p, q, axis=1)
    n = len(kld)
    assert found.tokens == n == 6 * 31
    assert found.mean == pytest.approx(kld.mean(), rel=1e-5)
    assert found.error == pytest.approx(kld.std() / math.sqrt(n - 1), rel=1e-5)
    assert found.median == pytest.approx(np.median(kld), rel=1e-5)
    assert found.largest == pytest.approx(kld.max(), rel=1e-5)
    assert list(found.percentiles) == [90, 95, 99, 99.9]
    for percent, value in found.percentiles.items():
        assert value == pytest.approx(np.percentile(kld, percent), rel=1e-5)
    same = (p.argmax(axis=1) == q.argmax(axis=1)).mean()
    assert 0 < same < 1
    assert found.same_top == pytest.approx(same)
    assert found.same_top_error == pytest.approx(math.sqrt(same * (1 - same) / (n - 1)))
    delta = q[np.arange(n), targets] - p[np.arange(n), targets]
    assert found.rms_delta_p == pytest.approx(math.sqrt((delta**2).mean()), rel=1e-5)
    assert found.base == perplexity(base, ids)
    assert found.quantised == perplexity(other, ids)
    assert (base.held, other.held) == (0, 0), "both are left empty"


def test_nothing_lies_between_a_model_and_itself(ids):
    found = divergence(FakeEngine(), FakeEngine(), ids)
    assert (found.mean, found.largest, found.same_top, found.rms_delta_p) == (0, 0, 1, 0)


def test_large_vocabularies_go_through_in_pieces(ids, monkeypatch):
    whole = divergence(FakeEngine(), FakeEngine(noise=0.5), ids)
    monkeypatch.setattr(pieces, "_MOST_LOGITS", 7 * 50)
    monkeypatch.setattr(module, "_VALUES", 3 * 50)
    assert divergence(FakeEngine(), FakeEngine(noise=0.5), ids).mean == pytest.approx(whole.mean, rel=1e-12)


def test_large_logits_do_not_overflow():
    base, other = np.array([[5000.0, 4990.0, -5000.0]], np.float32), np.array([[5000.0, 4999.0, -5000.0]], np.float32)
    assert kl_divergence(base, other) == pytest.approx([0.31300], rel=1e-3)


def test_one_reference_serves_many():
    """In single precision, whatever the rows that are compared at once."""
    rng = np.random.default_rng(0)
    base = 4 * rng.standard_normal((33, 5000), dtype=np.float32)
    reference = module.Reference(base)
    for noise in (0.0, 0.01, 0.3):
        other = base + 7 + noise * rng.standard_normal(base.shape, dtype=np.float32)
        assert reference.mean_divergence(other) == pytest.approx(kl_divergence(base, other).mean(), abs=1e-6)


def test_the_shorter_context_counts(ids):
    found = divergence(FakeEngine(context=32), FakeEngine(context=64), ids)
    assert found.quantised.chunk == 32


def test_other_vocabularies_are_refused(ids):
    with pytest.raises(EdgeLMError, match="vocabularies of 50 and 51 tokens"):
        divergence(FakeEngine(), FakeEngine(vocab=51), ids)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_broken_model(ids):
    broken = FakeEngine()
    broken.table[:] = np.nan
    with pytest.raises(EdgeLMError, match="NaN or infinite"):
        divergence(FakeEngine(), broken, ids)
