"""The grammar that a bundle names for its model's answers: compiled once for all who ask."""

from __future__ import annotations

import importlib
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from edgelm.bundle.answer_grammar import PACKAGE, AnswerGrammar, installed
from edgelm.errors import BundleError, EdgeLMError
from edgelm.runtime.loop.grounded import GroundedGrammar, Pieces, heard, said
from edgelm.runtime.loop.structured import Grammar, Grammars
from edgelm.runtime.text.prompt import Prompt

if TYPE_CHECKING:
    import llguidance

FREE = "leave answers free: answer_grammar=False, --no-answer-grammar"


def prepare() -> None:
    """Import llguidance aside: it takes tens of milliseconds, and a model that is loaded needs none of Python meanwhile."""
    threading.Thread(target=lambda: installed() and importlib.import_module(PACKAGE), daemon=True).start()


class OwnGrammar:
    """Gives a grammar for every answer.

    It is compiled at the first, in a thread of its own: the model reads the prompt meanwhile.

    Args:
        facts: what the bundle says.
        grammars: compile it.
        name: of the file, for errors.
    """

    def __init__(self, facts: AnswerGrammar, grammars: Grammars, name: str) -> None:
        self._facts, self._grammars, self._name = facts, grammars, name
        self._lock = threading.Lock()
        self._compiled: Future[llguidance.LLMatcher] | None = None
        self._pieces = Pieces(partial(grammars.tokens, facts.kind), grammars.vocab_size)

    def grammar(self, prompt: Prompt) -> Grammar:
        """For the answer to one prompt; it waits for its compilation with the first token."""
        with self._lock:
            if self._compiled is None:
                self._compiled = Future()
                threading.Thread(target=self._compile, args=(self._compiled,), daemon=True).start()
            compiled = self._compiled
        if (grounding := self._facts.grounding) is None:
            return self._grammars.answers(lambda: self._start(compiled), FREE)
        names, eos = partial(said, grounding, heard(prompt)), self._grammars.eos
        return GroundedGrammar(lambda: self._start(compiled), eos, grounding.key, names, self._pieces, FREE)

    def _start(self, compiled: Future[llguidance.LLMatcher]) -> llguidance.LLMatcher:
        failure = compiled.exception()
        if isinstance(failure, EdgeLMError):  # each caller's own: one that is raised again and again grows
            raise BundleError(f"{self._name}: {failure}", hint=FREE)
        return compiled.result().deep_copy()

    def _compile(self, compiled: Future[llguidance.LLMatcher]) -> None:
        try:
            compiled.set_result(self._grammars.matcher(self._facts.options))
        except BaseException as error:  # or whoever waits would wait for ever
            compiled.set_exception(error)
