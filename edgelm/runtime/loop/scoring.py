"""How likely a model holds a text that is given, token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from edgelm.errors import EdgeLMError
from edgelm.runtime.kv.prefill import PREFILL_CHUNK
from edgelm.runtime.loop.request import CancelEvent
from edgelm.runtime.sample.logprobs import TokenLogprob, describe
from edgelm.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgelm.runtime.model import Sequence as TextSequence

_MOST_LOGITS = 4 << 20  # at once, in numbers: a large vocabulary makes pieces short


def score(
    sequence: TextSequence,
    ids: Sequence[int],
    tokenizer: Tokenizer,
    top: int,
    alone: Callable[[], AbstractContextManager[None]],
    cancel: CancelEvent | None = None,
) -> list[TokenLogprob]:
    """Read a text into an empty sequence and describe its tokens.

    Args:
        sequence: holds the text afterwards.
        ids: of the text, one or more.
        tokenizer: of the model.
        top: how many of the most likely tokens are told for each place.
        alone: the model is this caller's within it; others may have it between two pieces.
        cancel: ends it before the next piece once it is set, or None.

    Returns:
        a record of each token, the first with a log-probability of NaN, as nothing stands before it; and one more, of
            the token most likely to follow the text.

    Raises:
        EdgeLMError: it was cancelled.
    """
    piece = max(1, min(PREFILL_CHUNK, _MOST_LOGITS // sequence.vocab_size))
    found = [TokenLogprob(ids[0], tokenizer.decode(ids[:1], skip_special=False), math.nan)]
    for start in range(0, len(ids), piece):
        if cancel is not None and cancel.is_set():
            raise EdgeLMError("the scoring was cancelled")
        end = min(start + piece, len(ids))
        with alone():
            logits = sequence.forward(ids[start:end], end - start)
            following = [*ids[start + 1 : end + 1], *([int(logits[-1].argmax())] if end == len(ids) else [])]
            found += [describe(row, token, tokenizer, top) for row, token in zip(logits, following, strict=True)]
    return found
