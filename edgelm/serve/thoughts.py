"""What a model writes to itself before it answers, told apart from the answer while it comes.

Models that think open their text with a mark such as ``<think>``, or their chat template does so for them. Only a thought
at the very beginning is one: a mark further on is text like any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from edgelm.errors import PromptError
from edgelm.runtime.text.chat import ChatTemplate
from edgelm.runtime.text.stop_strings import overlap

OPENERS = {"<think>": "</think>", "<thinking>": "</thinking>", "[THINK]": "[/THINK]"}
THOUGHT_MARKS = frozenset(OPENERS) | frozenset(OPENERS.values())


class ThoughtReader:
    """Reads a text piece by piece.

    Args:
        opened: the mark that the prompt ends with, so that the text begins within a thought; or None.
    """

    def __init__(self, opened: str | None = None) -> None:
        self._closer = OPENERS[opened] if opened else ""
        self._held, self._decided, self._silent = "", opened is not None, True

    def push(self, text: str) -> tuple[str, str]:
        """Take more text and give what is certain: of the thought, of the answer. Blanks around a thought are of neither."""
        if self._decided and not self._closer and not self._silent:
            return "", text
        self._held += text
        thought = ""
        if not self._decided:
            self._decide()
        if self._decided and self._closer:
            thought = self._think()
        return thought, self._answer() if self._decided and not self._closer else ""

    def flush(self) -> tuple[str, str]:
        """End the text and give the rest."""
        rest, self._held = self._held, ""
        return (rest.rstrip(), "") if self._closer else ("", rest)

    def _decide(self) -> None:
        text = self._held.lstrip()
        opener = next((mark for mark in OPENERS if text.startswith(mark)), None)
        if opener is not None:
            self._held, self._closer = text[len(opener) :], OPENERS[opener]
        elif any(mark.startswith(text) for mark in OPENERS):
            return
        else:
            self._silent = False  # blanks before an answer without a thought are its own
        self._decided = True

    def _think(self) -> str:
        if self._silent:
            self._held = self._held.lstrip()
        before, closer, after = self._held.partition(self._closer)
        if closer:
            self._held, self._closer, self._silent = after, "", True
            return before.rstrip()
        sure = before[: len(before) - overlap(before, self._closer)].rstrip()
        self._held = before[len(sure) :]
        self._silent = self._silent and not sure
        return sure

    def _answer(self) -> str:
        text = self._held.lstrip() if self._silent else self._held
        self._held, self._silent = "", self._silent and not text
        return text


def opened_by(template: ChatTemplate | None, variables: Mapping[str, Any]) -> str | None:
    """The mark of a thought that the template itself opens at the end of a prompt; None where it does not.

    Args:
        template: the model's, or None.
        variables: that it is given.
    """
    return None if template is None else _opened(template, json.dumps(dict(variables), sort_keys=True, default=str))


@lru_cache(maxsize=64)
def _opened(template: ChatTemplate, variables: str) -> str | None:
    if not any(mark in template.source for mark in OPENERS):
        return None
    try:
        text = template.render([{"role": "user", "content": "a"}], **json.loads(variables)).rstrip()
    except PromptError:
        return None
    return next((mark for mark in OPENERS if text.endswith(mark)), None)
