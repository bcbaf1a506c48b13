"""How likely a model holds texts: the log-likelihood of a continuation after a context, as lm-evaluation-harness has it.

A pair of texts is tokenised together, and the continuation is what stands behind the context's own ids; white space at
the end of the context belongs to the continuation. An empty context is BOS, or EOS where the vocabulary has no BOS. The
log-likelihood is the sum of log softmax(logits)[token] over the continuation's tokens, in nats
(lm_eval/api/model.py, ``TemplateLM``).

What the continuations of one question have in common, from the start on, is read once: the engine is rewound to it.
Every question starts on an empty cache, so that no figure depends on what was asked before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from edgelm.errors import PromptError
from edgelm.evaluate.perplexity import Scores, logits_from, negative_log_likelihood
from edgelm.runtime.kv.prefill import PREFILL_CHUNK

Ids = list[int]


class Rewinds(Scores, Protocol):
    """What is asked of an Engine that goes back to what several texts have in common."""

    def prefill(self, ids: Sequence[int], num_logits: Literal[0, 1] = 1) -> np.ndarray:
        """Append the tokens of a prompt, in passes of `PREFILL_CHUNK`."""

    def rewind(self, position: int) -> None:
        """Forget the tokens from `position` on."""


class Encodes(Protocol):
    """What is asked of a Tokenizer."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text."""


@dataclass(frozen=True)
class Likelihood:
    """Of a continuation: log-likelihood in nats, whether greedy decoding would write it, how many tokens it has."""

    total: float
    greedy: bool
    tokens: int


def prefix_token(bos: int | None, eos: Sequence[int]) -> int:
    """The id that stands for an empty context.

    Raises:
        PromptError: the vocabulary has neither BOS nor EOS.
    """
    found = bos if bos is not None else next(iter(eos), None)
    if found is None:
        raise PromptError("this model has neither a BOS nor an EOS token, so there is no context for a whole text")
    return found


def encode_pair(
    tokenizer: Encodes, context: str, continuation: str, prefix: int | None, *, special: bool = True
) -> tuple[Ids, Ids]:
    """The ids of a context and of its continuation.

    Args:
        tokenizer: the model's.
        context, continuation: texts that follow each other.
        prefix: the id of an empty context, see `prefix_token`; None where the context is not empty.
        special: whether the context begins with what the model expects, as a rule BOS; not where a template wrote it.

    Raises:
        PromptError: the continuation has no token of its own.
    """
    if context == "" and prefix is not None:
        ids = tokenizer.encode(continuation, special=False)
        pair = ([prefix], ids) if ids[:1] != [prefix] else (ids[:1], ids[1:])
    else:
        stripped = context.rstrip()
        before = tokenizer.encode(stripped, special=special)
        whole = tokenizer.encode(stripped + context[len(stripped) :] + continuation, special=special)
        pair = before, whole[len(before) :]
    if not pair[0] or not pair[1]:
        raise PromptError(f"there is nothing to score in {continuation!r} after its context")
    return pair


def log_likelihoods(engine: Rewinds, pairs: Sequence[tuple[Ids, Ids]]) -> list[Likelihood]:
    """Score the continuations of one question.

    Args:
        engine: is left with the last of them.
        pairs: (context, continuation), neither empty.

    Raises:
        PromptError: one is longer than the engine's context.
        EdgeLMError: logits are not finite.
    """
    texts = [[*context, *continuation] for context, continuation in pairs]
    shared = _common([text[:-1] for text in texts])
    first = min(len(context) for context, _ in pairs) - 1  # behind it stands the first token that is scored
    engine.reset()
    stem = _read(engine, texts[0][:shared], texts[0][1:shared], min(first, shared))
    return [_branch(engine, text, len(context), shared, stem) for text, (context, _) in zip(texts, pairs, strict=True)]


@dataclass(frozen=True)
class _Stem:
    """What all texts begin with.

    Attributes:
        start: the place from which on tokens were scored.
        losses, greedy: of the tokens that follow each place but the last [n].
        last: the logits behind the last place [vocabulary]; None where nothing was read or nobody needs them.
    """

    start: int
    losses: np.ndarray
    greedy: np.ndarray
    last: np.ndarray | None


def _common(texts: Sequence[Ids]) -> int:
    """How many ids all texts begin with."""
    low, high = min(texts), max(texts)  # what these have in common, those between them have, too
    pairs = enumerate(zip(low, high, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(low), len(high)))


def _read(engine: Rewinds, ids: Ids, targets: Ids, first: int) -> _Stem:
    """Read `ids`, scoring `targets`, which follow them, from place `first` on; a target fewer than ids gives `last`."""
    losses, greedy, last = [np.zeros(0)], [np.zeros(0, bool)], None
    start = first - first % PREFILL_CHUNK
    engine.prefill(ids[:start], 0)
    rest = ids[start:]
    if first == len(ids):  # nothing of it is scored
        if rest:
            engine.forward(rest, 0)
        return _Stem(first, losses[0], greedy[0], None)
    for end, logits in logits_from(engine, rest, first - start):
        wanted = np.asarray(targets[start + end - len(logits) : start + end], np.int64)
        losses.append(negative_log_likelihood(logits[: len(wanted)], wanted))
        greedy.append(logits[: len(wanted)].argmax(axis=1) == wanted)
        last = logits[-1].copy() if len(wanted) < len(logits) else None
    return _Stem(first, np.concatenate(losses), np.concatenate(greedy), last)


def _branch(engine: Rewinds, text: Ids, context: int, shared: int, stem: _Stem) -> Likelihood:
    """Score the tokens of a text from place `context` on, the first `shared` being read already."""
    known = max(0, context - 1 - stem.start)
    losses, greedy = [stem.losses[known:]], [stem.greedy[known:]]
    if stem.last is not None and context - 1 < shared:
        target = np.array([text[shared]], np.int64)
        losses.append(negative_log_likelihood(stem.last[None], target))
        greedy.append(stem.last[None].argmax(axis=1) == target)
    if shared < len(text) - 1:
        engine.rewind(shared)
        rest = _read(engine, text[shared:-1], text[shared + 1 :], max(0, context - 1 - shared))
        losses.append(rest.losses)
        greedy.append(rest.greedy)
    return Likelihood(-float(np.concatenate(losses).sum()), bool(np.concatenate(greedy).all()), len(text) - context)
