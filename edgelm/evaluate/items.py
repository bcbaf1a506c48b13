"""The kinds of items that tasks consist of: a question each, and how a model's answer to it is scored.

Choices are compared by log-likelihood (`edgelm.evaluate.likelihood`), as lm-evaluation-harness does it
(lm_eval/api/task.py): ``acc`` takes the most likely choice, ``acc_norm`` that with the most log-likelihood a character
of the choice, without the delimiter before it. Of equals the first is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from edgelm.errors import PromptError
from edgelm.evaluate.likelihood import Likelihood, encode_pair, log_likelihoods, prefix_token
from edgelm.evaluate.outcome import Metric, Outcome
from edgelm.runtime.lm import LM

MAX_TOKENS = 256  # of an answer; one that is longer than any expected one is wrong anyway
NO_TEMPLATE = "this model has no chat template, so it takes no messages"


class Item(Protocol):
    """An item of a task.

    Attributes:
        format: what kind of task it belongs to, in words.
        metrics: the figures it has, the one that counts first.
        note: what is to be known of these, or None.
    """

    format: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    note: ClassVar[str | None]

    @property
    def line(self) -> int:
        """Its line in the file."""

    @property
    def chats(self) -> bool:
        """Whether it is told in the model's chat template."""

    def answer(self, lm: LM, **options: Any) -> Outcome:
        """Let a model answer it.

        Args:
            lm: the model.
            options: of `LM.generate`, where it generates.

        Raises:
            PromptError: too long for the model's context, or its template refuses it.
        """


@dataclass(frozen=True)
class ExactMatch:
    """The model answers greedily, and is right where that is the expected answer, white space at both ends aside.

    Attributes:
        prompt: messages, or a text to continue as it is.
        expected: the answer.
        stop: strings that end it.
    """

    format: ClassVar[str] = "exact match"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("exact_match"),)
    note: ClassVar[str | None] = None

    prompt: str | Sequence[Mapping[str, Any]]
    expected: str
    line: int
    stop: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def chats(self) -> bool:
        """Whether it is messages."""
        return not isinstance(self.prompt, str)

    def answer(self, lm: LM, **options: Any) -> Outcome:
        """Generate."""
        # Nothing is kept from the item before, so that no outcome depends on the order.
        options |= {"max_tokens": MAX_TOKENS, "temperature": 0.0, "repetition_penalty": 1.0}
        if self.stop:
            options["stop"] = list(self.stop)
        found = lm.generate(self.prompt, **options, raw=not self.chats, reuse_cache=False)
        text, right = found.text.strip(), found.text.strip() == self.expected.strip()
        scores, asked = {"exact_match": float(right)}, _asked(self.prompt)
        return Outcome(
            self.line, self.groups, scores, text, right, asked, self.expected, found.text, found.finish_reason
        )


@dataclass(frozen=True)
class MultipleChoice:
    """Which of several continuations the model holds most likely.

    Attributes:
        prompt: messages, or a text.
        choices: two or more, none of them empty.
        gold: the place of the right one.
        delimiter: stands between a text and a choice.
    """

    format: ClassVar[str] = "multiple choice"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("acc"), Metric("acc_norm"))
    note: ClassVar[str | None] = None

    prompt: str | Sequence[Mapping[str, Any]]
    choices: tuple[str, ...]
    gold: int
    line: int
    delimiter: str = " "
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def chats(self) -> bool:
        """Whether it is messages."""
        return not isinstance(self.prompt, str)

    def answer(self, lm: LM, **options: Any) -> Outcome:
        """Score the choices."""
        found = score_choices(lm, self.prompt, self.choices, self.delimiter)
        sums = np.array([choice.total for choice in found])
        likeliest = int(sums.argmax())
        normalised = int((sums / [len(choice) for choice in self.choices]).argmax())
        scores = {"acc": float(likeliest == self.gold), "acc_norm": float(normalised == self.gold)}
        right, chosen = self.choices[self.gold], self.choices[likeliest]
        return Outcome(
            self.line, self.groups, scores, likeliest, likeliest == self.gold, _asked(self.prompt), right, chosen
        )


@dataclass(frozen=True)
class MinimalPair:
    """Whether the model holds the first of two sentences likelier: each as a whole text, behind BOS."""

    format: ClassVar[str] = "minimal pairs"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("acc"),)
    note: ClassVar[str | None] = None

    good: str
    bad: str
    line: int
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def chats(self) -> bool:
        """Sentences are scored as they are."""
        return False

    def answer(self, lm: LM, **options: Any) -> Outcome:
        """Score both sentences."""
        good, bad = (found.total for found in score_texts(lm, (self.good, self.bad)))
        preferred = 0 if good > bad else 1
        scores = {"acc": float(preferred == 0)}
        return Outcome(
            self.line, self.groups, scores, preferred, preferred == 0, "", self.good, (self.good, self.bad)[preferred]
        )


def score_choices(
    lm: LM, prompt: str | Sequence[Mapping[str, Any]], choices: Sequence[str], delimiter: str
) -> list[Likelihood]:
    """Of every choice after a prompt; messages are told in the chat template, and no delimiter follows them.

    Raises:
        PromptError: too long, or the template refuses the messages.
    """
    if isinstance(prompt, str):
        before, special, between = prompt, True, delimiter
    elif lm.template is None:
        raise PromptError(NO_TEMPLATE)
    else:
        before, special, between = lm.template.render(prompt), False, ""
    prefix = _prefix(lm) if before == "" else None
    pairs = [encode_pair(lm.tokenizer, before, between + choice, prefix, special=special) for choice in choices]
    return log_likelihoods(lm.engine, pairs)


def score_texts(lm: LM, texts: Sequence[str]) -> list[Likelihood]:
    """Of whole texts, each behind BOS, or EOS where there is no BOS.

    Raises:
        PromptError: too long, empty, or the model has neither token.
    """
    prefix = _prefix(lm)
    return log_likelihoods(lm.engine, [encode_pair(lm.tokenizer, "", text, prefix) for text in texts])


def _prefix(lm: LM) -> int:
    tokens = lm.bundle.manifest.special_tokens
    return prefix_token(tokens.bos, tokens.eos)


def _asked(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """The end of a prompt, in words."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
