"""Log-likelihoods of continuations: against transformers in fp32, and what they share."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgelm.errors import EdgeLMError, PromptError
from edgelm.evaluate.likelihood import Likelihood, encode_pair, log_likelihoods, prefix_token
from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine
from edgelm.runtime.lm import load


class FakeEngine:
    """Gives the id that follows in the counting sequence a logit of log 3, all others 0; remembers what is read."""

    vocab_size = 10
    context = 4096

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.read = 0
        self.rewinds: list[int] = []

    def reset(self):
        self.tokens = []

    def rewind(self, position):
        self.rewinds.append(position)
        assert position <= len(self.tokens)
        del self.tokens[position:]

    def prefill(self, ids, num_logits=1):
        return self.forward(ids, num_logits) if ids else None

    def forward(self, ids, num_logits=1):
        assert 0 <= num_logits <= len(ids)
        self.read += len(ids)
        self.tokens += [int(i) for i in ids]
        logits = np.zeros((num_logits, 10), np.float32)
        for row, token in zip(logits, self.tokens[len(self.tokens) - num_logits :], strict=True):
            row[(token + 1) % 10] = math.log(3)
        return logits


RIGHT, WRONG = math.log(3 / 12), math.log(1 / 12)  # of a token that follows, and of one that does not


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([([1], [2])], [(RIGHT, True)]),
        ([([1, 2], [3, 4, 5])], [(3 * RIGHT, True)]),
        ([([1, 2], [3, 9])], [(RIGHT + WRONG, False)]),
        ([([1, 2], [3]), ([1, 2], [4]), ([1, 2], [3, 4])], [(RIGHT, True), (WRONG, False), (2 * RIGHT, True)]),
        ([([1], [2, 3, 4, 7, 8]), ([1], [2, 3, 4, 5, 5])], [(4 * RIGHT + WRONG, False)] * 2),
        # Contexts of their own, one of them longer than all that is shared.
        ([([1, 2, 3], [4]), ([1], [2, 3, 5])], [(RIGHT, True), (2 * RIGHT + WRONG, False)]),
        ([([1, 2, 3, 4], [5]), ([1, 2, 7], [8])], [(RIGHT, True), (RIGHT, True)]),
        ([([1, 2], [3]), ([5, 6], [8])], [(RIGHT, True), (WRONG, False)]),
        ([(list(range(10)) * 130, [0, 1]), (list(range(10)) * 130, [5, 6])], [(2 * RIGHT, True), (WRONG + RIGHT, False)]),
    ],
)  # fmt: skip
def test_by_hand(pairs, expected):
    found = log_likelihoods(FakeEngine(), pairs)
    assert [f.greedy for f in found] == [greedy for _, greedy in expected]
    assert [f.total for f in found] == pytest.approx([total for total, _ in expected], abs=1e-6)
    assert [f.tokens for f in found] == [len(continuation) for _, continuation in pairs]


def test_what_is_shared_is_read_once():
    engine = FakeEngine()
    context = [3] * 100
    log_likelihoods(engine, [(context, [4]), (context, [5]), (context, [6])])
    assert engine.read == 100, "choices of one token cost nothing beyond the context"
    engine = FakeEngine()
    log_likelihoods(engine, [(context, [4, 5]), (context, [4, 7]), (context, [6, 6])])
    assert engine.read == 100 + 3
    assert engine.rewinds == [100, 100, 100]


def test_logits_that_are_not_finite():
    engine = FakeEngine()
    engine.forward = lambda ids, num_logits=1: np.full((num_logits, 10), np.nan, np.float32)
    with pytest.raises(EdgeLMError, match="NaN"):
        log_likelihoods(engine, [([1], [2])])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {}),
        ("lfm2", {"layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 96}),  # it has states
    ],
)
def test_agrees_with_transformers(tiny_checkpoint, tmp_path, kind, settings):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    checkpoint = tiny_checkpoint(kind, **settings)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    engine = Engine.load(export(checkpoint, "x86-64", "fp32", output=tmp_path / "b"))
    random = np.random.default_rng(0)
    context = random.integers(3, 259, 40).tolist()
    pairs = [(context, random.integers(3, 259, n).tolist()) for n in (1, 5, 9)]
    pairs += [(context[:20], [*context[20:30], 7, 8]), ([1], [5, 6])]
    for question in (pairs[:3], pairs[3:], pairs, pairs[:1]):
        found = log_likelihoods(engine, question)
        for (before, after), likelihood in zip(question, found, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
            expected = torch.log_softmax(logits, -1)[torch.arange(len(after)), torch.tensor(after)]
            assert likelihood.total == pytest.approx(float(expected.sum()), abs=2e-3)
            assert likelihood.greedy == (logits.argmax(-1).tolist() == after)
    engine.close()


def test_no_question_depends_on_the_one_before(tiny_bundle):
    with load(tiny_bundle.path) as lm:
        pairs = [([1, 70, 71, 72], [73, 74]), ([1, 70, 71, 72], [80])]
        first = log_likelihoods(lm.engine, pairs)
        log_likelihoods(lm.engine, [([1, 70, 99], [5]), ([1], [9, 9])])
        assert log_likelihoods(lm.engine, pairs) == first


class Words:
    """A tokenizer of words; BOS is 1."""

    def encode(self, text, *, special=True):
        ids = [2 + "abcdefgh".index(word) for word in text.split()]
        return [1, *ids] if special else ids


def test_pairs_of_texts():
    words = Words()
    assert encode_pair(words, "a b", " c", None) == ([1, 2, 3], [4])
    assert encode_pair(words, "a b ", "c d", None) == ([1, 2, 3], [4, 5]), "white space goes to the continuation"
    assert encode_pair(words, "a", " c", None, special=False) == ([2], [4])
    assert encode_pair(words, "", "a b", 1) == ([1], [2, 3])
    assert encode_pair(words, "", "a b", 2) == ([2], [3]), "a text that begins with the prefix has it once"
    for context, continuation, prefix in (("a", "", None), ("a", " ", None), ("", "", 1)):
        with pytest.raises(PromptError, match="nothing to score"):
            encode_pair(words, context, continuation, prefix)


def test_the_prefix_of_an_empty_context():
    assert prefix_token(1, [2]) == 1
    assert prefix_token(0, []) == 0
    assert prefix_token(None, [7, 8]) == 7
    with pytest.raises(PromptError, match="neither a BOS nor an EOS"):
        prefix_token(None, [])


def test_a_text_longer_than_the_context(tiny_bundle):
    with load(tiny_bundle.path) as lm, pytest.raises(PromptError, match="do not fit in the context of 128"):
        log_likelihoods(lm.engine, [([1] * 100, [5] * 40)])


def test_the_last_token_needs_no_place(tiny_bundle):
    with load(tiny_bundle.path) as lm:
        [found] = log_likelihoods(lm.engine, [([1] * 100, [5] * 29)])
    assert isinstance(found, Likelihood)
    assert found.tokens == 29
