"""How people speak rather than write: fillers, words said twice, what a speech recogniser hears, words left out."""

from __future__ import annotations

import random
import re

FILLERS = ["um", "uh", "er", "erm", "like", "you know", "uh um", "hm", "well", "eh"]
# Before these words a speaker may hesitate; never inside a name, which must be kept as it was said.
_PAUSES = {
    "the",
    "a",
    "my",
    "in",
    "on",
    "to",
    "at",
    "turn",
    "switch",
    "set",
    "please",
    "for",
    "off",
    "and",
    "is",
    "are",
    "make",
}
_HEARD = {
    r"\boff\b": "of",
    r"\bto (\d)": r"too \1",
    r"\bto (?=\w+ (?:degrees|percent))": "two ",
    r"\bfor (?=\w+ (?:minutes|seconds|hours))": "four ",
    r"\bblue\b": "blew",
    r"\bred\b": "read",
    r"\blights\b": "lites",
    r"\blight\b": "lite",
    r"\bblinds\b": "blines",
    r"\bac\b": "a c",
    r"\btv\b": "t v",
    r"\bheat\b": "heet",
    r"\bdoor\b": "dore",
    r"\bdim\b": "dimm",
    r"\blounge\b": "launch",
    r"\bvacuum\b": "vacum",
    r"\btoo\b": "to",
    r"\bwindow\b": "windows",
    r"\bpercent\b": "per cent",
    r"\bdishwasher\b": "dish washer",
    r"\bthermostat\b": "thermo stat",
}
_WRONG = [
    "turn on the",
    "turn off the",
    "switch on the",
    "open the",
    "close the",
    "set the",
    "turn the",
    "could you",
    "lock the",
]
_SORRY = ["no", "no sorry", "sorry", "wait no", "no wait", "I mean", "oh no", "scratch that", "no I meant"]


def hesitate(text: str, rng: random.Random) -> str:
    """One to three fillers, or a word said twice."""
    words = text.split()
    for _ in range(rng.choice([1, 1, 2, 3])):
        spots = [i for i, w in enumerate(words) if w.lower() in _PAUSES]
        spot = rng.choice([0, *spots])
        words[spot:spot] = [rng.choice(FILLERS)] if rng.random() < 0.7 or spot >= len(words) else [words[spot]]
    return " ".join(words)


def misheard(text: str, rng: random.Random) -> str:
    """One or two words as a speech recogniser may write them; without punctuation."""
    found = [pattern for pattern in _HEARD if re.search(pattern, text)]
    for pattern in rng.sample(found, min(len(found), rng.choice([1, 1, 2]))):
        text = re.sub(pattern, _HEARD[pattern], text, count=1)
    return text.lower().replace(",", "")


def corrected(text: str, rng: random.Random) -> str:
    """A false start before the request: "turn on the no sorry turn off the light"."""
    return f"{rng.choice(_WRONG)} {rng.choice(_SORRY)} {text}"


def without_articles(text: str, rng: random.Random) -> str:
    """As speakers of languages without them say it."""
    return re.sub(r"\b(the|a|an) ", "", text)


def spoken(text: str, rng: random.Random, share: float = 0.2, plain: bool = False) -> str:
    """A sentence as it is, or by `share` as it may come from somebody's mouth; where `plain`, no word is changed."""
    if rng.random() >= share:
        return text
    ways = [hesitate, hesitate, without_articles, without_articles, corrected]
    way = rng.choice(ways if plain else [*ways, misheard, misheard])
    return way(text, rng)
