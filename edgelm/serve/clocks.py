"""A clock at the head of a prompt makes every prompt a new one: whoever sends it is told what to change."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from edgelm.serve.errors import LOG

_MONTHS = "Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:tember)?|Oct(?:ober)?"
_MONTHS += "|Nov(?:ember)?|Dec(?:ember)?"
_CLOCK = re.compile(
    r"\b\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?"  # 2026-11-29T18:57:01+00:00
    r"|\b\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?[AaPp]\.?[Mm]\.?)?"  # 6:57 pm
    r"|\b\d{1,2}[./]\d{1,2}[./]\d{2,4}\b"  # 29.11.2026
    r"|\b1[6-9]\d{8}(?:\d{3})?\b"  # seconds since 1970
    rf"|\b(?:{_MONTHS})\.? \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}\b|\b\d{{1,2}}\.? (?:{_MONTHS}) \d{{4}}\b"
    r"|\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b"
)
_SHORTEST = 400  # characters; computing fewer anew costs nothing worth a word
_KEPT = 32


class ClockWatch:
    """Looks for prompts that differ in a clock near their start alone, and says so in the log, once for each."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, str] = OrderedDict()  # prompt without its clocks -> with them; '' once told

    def look(self, model: str, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """Look at a conversation's first message.

        Returns:
            what was written to the log, or None.
        """
        first = messages[0].get("content") if messages else None
        if not isinstance(first, str) or len(first) < _SHORTEST:
            return None
        without = _CLOCK.sub("\0", first)
        if without == first:
            return None
        key = sha256(without.encode("utf-8", "replace")).digest()
        before = self._seen.pop(key, None)
        self._seen[key] = first if before is None else before
        while len(self._seen) > _KEPT:
            self._seen.popitem(last=False)
        if not before or before == first:
            return None
        self._seen[key] = ""
        return self._tell(model, first, before)

    def _tell(self, model: str, text: str, before: str) -> str | None:
        """Say where two texts part, unless that is near their end."""
        pairs = enumerate(zip(text, before, strict=False))
        place = next((index for index, (a, b) in pairs if a != b), min(len(text), len(before)))
        if place > len(text) // 2:
            return None
        found = next((m for m in _CLOCK.finditer(text) if m.start() <= place <= m.end()), None)
        start, clock = (place, text[place : place + 16]) if found is None else (found.start(), found[0])
        told = (
            f"{model}: a clock ({clock!r}) stands at character {start:,} of prompts that are otherwise the same: the "
            f"{len(text) - start:,} characters behind it are computed anew for every request. Put it at the end of the "
            "system prompt, or into the last message"
        )
        LOG.warning("%s", told)
        return told
