"""Token healing: let the end of a prompt be the beginning of a token.

A prompt that ends in ``http:`` ends in a token ``:`` of which the model has seen ``://`` in its place; it then finds what
would be likely unlikely. So the last token is taken away, and the first one generated must begin with it
(Lundberg 2023, https://github.com/guidance-ai/guidance, "prompt boundaries and token healing").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgelm.runtime.sample.sampling import Floats, Sampler
from edgelm.runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Healing:
    """What is taken away from a prompt, and may come instead.

    Attributes:
        text: of the token taken away; what comes begins with it.
        allowed: ids of the tokens that begin with it, itself among them.
    """

    text: str
    allowed: npt.NDArray[np.intp]

    def sampler(self, sampler: Sampler, prompt_tokens: int) -> Sampler:
        """The sampler, which takes one of these tokens at first."""

        def choose(logits: Floats, history: Sequence[int]) -> int:
            if len(history) == prompt_tokens:
                scores = np.full_like(logits, -np.inf)
                scores[self.allowed] = logits[self.allowed]
                logits = scores
            return sampler(logits, history)

        return choose


def heal(tokenizer: Tokenizer, ids: Sequence[int], vocab_size: int) -> Healing | None:
    """How the end of a prompt is healed; None where no other token begins like its last one.

    Names in the vocabulary are compared: a byte, or a blank, is written there in one way, also where it is a part of a
    longer token.
    """
    last = tokenizer.id_to_token(ids[-1])
    if len(ids) < 2 or not last or ids[-1] in tokenizer.special_ids:
        return None
    names = ((index, tokenizer.id_to_token(index)) for index in range(min(vocab_size, tokenizer.vocab_size)))
    allowed = [i for i, name in names if name and name.startswith(last) and i not in tokenizer.special_ids]
    text = tokenizer.decode([ids[-1]])
    if len(allowed) < 2 or not text or "\ufffd" in text or last.startswith("<0x"):  # a part of a character
        return None
    return Healing(text, np.array(allowed, np.intp))
