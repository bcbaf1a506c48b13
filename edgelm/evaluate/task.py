"""Exact match on a task: a file of conversations, each with the answer that is expected.

One JSON object a line::

    {"messages": [{"role": "user", "content": "turn the lamp on"}], "answer": "{…}", "kind": "command", "split": "test"}

``kind`` and ``split`` are optional; accuracy is told for each of their values. The model answers greedily, and an
answer counts where it is the expected one, white space at both ends aside.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from edgelm.errors import EdgeLMError, OptionError, PromptError
from edgelm.runtime.chat import check_messages
from edgelm.runtime.results import Completion

MAX_TOKENS = 256  # of an answer; one that is longer than any expected one is wrong anyway
OnExample = Callable[[int, int], None]
"""Called with (examples done, examples in all) before each example."""


class Answers(Protocol):
    """What is asked of an LM."""

    def generate(self, prompt: Sequence[dict[str, Any]], **options: Any) -> Completion:
        """Generate a whole answer."""


@dataclass(frozen=True)
class Example:
    """A conversation and the answer expected; `line` is its line in the file."""

    messages: list[dict[str, Any]]
    answer: str
    line: int
    kind: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What the model answered to an example."""

    example: Example
    text: str
    finish_reason: str

    @property
    def correct(self) -> bool:
        """Whether it is the expected answer."""
        return self.text.strip() == self.example.answer.strip()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self.example), "text": self.text, "finish_reason": self.finish_reason, "correct": self.correct}


@dataclass(frozen=True)
class Accuracy:
    """How many of `total` answers were correct."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        """From 0 to 1."""
        return self.correct / self.total

    @property
    def error(self) -> float:
        """Binomial standard error, ``sqrt(p (1 - p) / n)``."""
        return math.sqrt(self.value * (1 - self.value) / self.total)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"accuracy": self.value, "stderr": self.error, "correct": self.correct, "total": self.total}


@dataclass(frozen=True)
class TaskResult:
    """The outcomes of a task."""

    outcomes: tuple[Outcome, ...]

    @property
    def accuracy(self) -> Accuracy:
        """Of all."""
        return _accuracy(self.outcomes)

    @property
    def wrong(self) -> list[Outcome]:
        """Those that were not correct, in order."""
        return [outcome for outcome in self.outcomes if not outcome.correct]

    def by(self, key: str) -> dict[str, Accuracy]:
        """Accuracy for each value of ``kind`` or ``split``, by name; empty where no example has it."""
        groups: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            if (value := getattr(outcome.example, key)) is not None:
                groups.setdefault(value, []).append(outcome)
        return {name: _accuracy(groups[name]) for name in sorted(groups)}

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the outcomes."""
        groups = {key: {name: a.to_dict() for name, a in self.by(key).items()} for key in ("kind", "split")}
        return {**self.accuracy.to_dict(), **groups}


def read_task(path: Path, limit: int | None = None) -> list[Example]:
    """The examples of a file; with `limit`, that many of them, evenly spread over the file.

    Raises:
        EdgeLMError: the file cannot be read, holds nothing, or a line is malformed; it names the line.
        OptionError: limit below 1.
    """
    if limit is not None and limit < 1:
        raise OptionError(f"limit must be at least 1, not {limit}")
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise EdgeLMError(f"{path} cannot be read: {error.strerror}") from None
    examples = [_example(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not examples:
        raise EdgeLMError(f"{path} holds no examples")
    if limit is None or limit >= len(examples):
        return examples
    return [examples[index * len(examples) // limit] for index in range(limit)]


def run_task(
    lm: Answers, examples: Sequence[Example], *, on_example: OnExample = lambda done, total: None
) -> TaskResult:
    """Let the model answer every example.

    Raises:
        PromptError: an example is too long for the model's context, or its template refuses it; it names the line.
    """
    outcomes = []
    for index, example in enumerate(examples):
        on_example(index, len(examples))
        outcomes.append(_answer(lm, example))
    return TaskResult(tuple(outcomes))


def _answer(lm: Answers, example: Example) -> Outcome:
    try:
        # Nothing is kept from the example before, so that no outcome depends on the order.
        answer = lm.generate(
            example.messages, max_tokens=MAX_TOKENS, temperature=0.0, repetition_penalty=1.0, reuse_cache=False
        )
    except PromptError as error:
        raise PromptError(f"line {example.line} of the task: {error}", hint=error.hint) from None
    return Outcome(example, answer.text, answer.finish_reason)


def _accuracy(outcomes: Sequence[Outcome]) -> Accuracy:
    return Accuracy(sum(outcome.correct for outcome in outcomes), len(outcomes))


def _example(path: Path, number: int, line: bytes) -> Example:
    def wrong(problem: str) -> EdgeLMError:
        return EdgeLMError(
            f"{path}:{number}: {problem}",
            hint='a line is {"messages": [{"role": "user", "content": "…"}], "answer": "…"}',
        )

    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise wrong(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise wrong(f"holds {type(value).__name__}, expected an object")
    if not isinstance(value.get("answer"), str):
        raise wrong("'answer' must be a string")
    for key in ("kind", "split"):
        if not isinstance(value.get(key), str | None):
            raise wrong(f"'{key}' must be a string")
    try:
        messages = check_messages(value.get("messages") or [])
    except PromptError as error:
        raise wrong(str(error)) from None
    return Example(messages, value["answer"], number, value.get("kind"), value.get("split"))
