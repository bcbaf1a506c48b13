"""A model's text with those special tokens in it that mark the calls of tools, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgelm.runtime.text.tokenizer import Detokenizer, StopStrings, Tokenizer
from edgelm.serve.calls import is_mark


class MarkedText:
    """Tokens to text, up to the first stop string in what a client sees of it."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
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
        if not is_mark(name):
            return self._stops.push(name, hidden=True)
        return self._stops.push(self._detokenizer.flush() + name)  # whatever was held of a character ends here
