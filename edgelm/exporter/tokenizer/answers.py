"""answer_grammar.json of a checkpoint: what its model's answers may be."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from edgelm.bundle.answer_grammar import FILE, AnswerGrammar, installed
from edgelm.bundle.manifest import SpecialTokens
from edgelm.errors import CheckpointError, EdgeLMError, OptionError
from edgelm.runtime.loop.structured import Grammars
from edgelm.runtime.text import tokenizer as runtime

_SECONDS = 2.0  # of computing; those of models that are in use take hundredths
_HINT = "correct the file, or remove it: answers are free then"


def read_answers(source: Path, tokenizer: Tokenizer, special: SpecialTokens) -> AnswerGrammar | None:
    """The grammar in a checkpoint's folder; None where there is none.

    Where llguidance is installed it is compiled, so that no bundle holds one that cannot be followed.

    Raises:
        CheckpointError: it cannot be read, or is none.
    """
    path = source / FILE
    if not path.exists():
        return None
    found = AnswerGrammar.read(path, error=CheckpointError, hint=_HINT)
    if installed():
        try:
            _begin(found, runtime.Tokenizer(tokenizer), special)
        except EdgeLMError as error:
            raise CheckpointError(f"{path}: {error}", hint=_HINT) from None
    return found


def _begin(found: AnswerGrammar, tokenizer: runtime.Tokenizer, special: SpecialTokens) -> None:
    """Compile it and tell which tokens may come first: what is too large shows there, not before."""
    started, grammars = time.thread_time(), Grammars(tokenizer, special.eos, tokenizer.vocab_size)
    matcher = grammars.matcher(found.options)
    grammars.answers(lambda: matcher, _HINT).mask(np.zeros(tokenizer.vocab_size, np.float32))
    if (took := time.thread_time() - started) > _SECONDS:
        raise OptionError(f"{found} takes {took:.0f} s of computing before the first token may come")
