"""Where a text ends before its model ends it: stop strings."""

from __future__ import annotations

from collections.abc import Sequence

from edgelm.runtime.text.tokenizer import Detokenizer, Tokenizer


class StopStrings:
    """Ends a text at the first of some strings, however the text is cut into pieces.

    The first is the one complete at the earliest character, and of those the longest. Text that may yet become a stop
    string is held back, and no more than that. Special tokens are not shown, but a stop string may be one, a part of one,
    or text around one: strings are looked for in the text with them, and in the text without.

    Attributes:
        matched: the stop string that ended the text, or None.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self._shown: list[bool] = []  # of each character held
        self.matched: str | None = None

    def push(self, text: str, *, hidden: bool = False) -> str:
        """Take more text and give what may be shown; nothing more once a stop string was met.

        `hidden` text is that of a special token, which is never shown.
        """
        if self.matched is not None or not self._stops:
            return "" if hidden or self.matched is not None else text
        whole, shown = self._held + text, [*self._shown, *[not hidden] * len(text)]
        places = None if all(shown) else [i for i, visible in enumerate(shown) if visible]
        found = self._find(whole, range(len(whole)))
        keep = self._overlap(whole)
        if places is not None:
            visible = "".join(whole[i] for i in places)
            found += self._find(visible, places)
            if kept := self._overlap(visible):
                keep = max(keep, len(whole) - places[-kept])
        if found:
            _, _, end, self.matched = min(found)
        else:
            end = len(whole) - keep
        self._held, self._shown = ("", []) if found else (whole[end:], shown[end:])
        return _visible(whole[:end], shown)

    def flush(self) -> str:
        """End the text and give what was held back."""
        rest = _visible(self._held, self._shown)
        self._held, self._shown = "", []
        return rest

    def _find(self, text: str, places: Sequence[int]) -> list[tuple[int, int, int, str]]:
        """(place of the last character, - length, place of the first one, stop string) of those in `text`."""
        found = ((text.find(stop), stop) for stop in self._stops if stop in text)
        return [(places[at + len(stop) - 1], -len(stop), places[at], stop) for at, stop in found]

    def _overlap(self, text: str) -> int:
        """How many characters at the end of `text` may yet become a stop string."""
        return max((overlap(text, stop) for stop in self._stops), default=0)


def _visible(text: str, shown: Sequence[bool]) -> str:
    return "".join(character for character, visible in zip(text, shown, strict=False) if visible)


class StoppedText:
    """Tokens to the text that may be shown, up to the first stop string in it."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], known: str = "") -> None:
        """`known` is the beginning of the text that is shown already."""
        self._tokenizer, self._known = tokenizer, known
        self._detokenizer, self._stops = Detokenizer(tokenizer), StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met."""
        return self._stops.matched is not None

    def push(self, token: int) -> str:
        """The text that is certain once the next id is known."""
        if token in self._tokenizer.special_ids:
            return self._stops.push(self._tokenizer.id_to_token(token) or "", hidden=True)
        return self._stops.push(self._new(self._detokenizer.push(token)))

    def flush(self) -> str:
        """End the text and give what was held back."""
        return self._stops.push(self._new(self._detokenizer.flush())) + self._stops.flush()

    def _new(self, text: str) -> str:
        """The text without what is known of it."""
        count = min(len(text), len(self._known))
        self._known = self._known[count:]
        return text[count:]


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning, not the whole, of `stop`."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0:
        if stop.startswith(text[start:]):
            return len(text) - start
        start = text.find(stop[0], start + 1)
    return 0
