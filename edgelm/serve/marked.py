"""A model's text with those special tokens in it that mark calls of tools or thoughts, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from edgelm.runtime.text.stop_strings import StopStrings
from edgelm.runtime.text.tokenizer import Detokenizer, Tokenizer


class MarkedText:
    """Tokens to text, up to the first stop string in what a client sees of it.

    Args:
        tokenizer: the model's.
        stops: the stop strings.
        is_mark: whether a special token of that name is to be read.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str], is_mark: Callable[[str], bool] = lambda name: False
    ) -> None:
        self._is_mark = is_mark
        self._tokenizer, self._stops = tokenizer, StopStrings(stops)
        self._detokenizer = Detokenizer(tokenizer)

    @property
    def matched(self) -> str | None:
        """The stop string that was met, or None."""
        return self._stops.matched

    def push(self, tokens: Iterable[int]) -> str:
        """The text that is certain once these ids are known."""
        return "".join(map(self._text, tokens))

    def flush(self) -> str:
        """End the text and give what was held back."""
        return self._stops.push(self._detokenizer.flush()) + self._stops.flush()

    def _text(self, token: int) -> str:
        if token not in self._tokenizer.special_ids:
            return self._stops.push(self._detokenizer.push(token))
        name = self._tokenizer.id_to_token(token) or ""
        if not self._is_mark(name):
            return self._stops.push(name, hidden=True)
        return self._stops.push(self._detokenizer.flush() + name)  # whatever was held of a character ends here
