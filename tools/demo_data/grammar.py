"""A tiny template language, and the noise real people add to what they type.

A template is a sentence with choices, ``(a|b)``, optional parts, ``[a]`` or ``[a|b]``, and slots, ``<name>``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import cache

_CHOICE = re.compile(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]")
_SLOT = re.compile(r"<(\w+)>")
_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def listed(words: str) -> list[str]:
    """Read "gym|library" style lists."""
    return words.split("|")


def expand(template: str, rng: random.Random, slots: dict[str, str] | None = None) -> str:
    """Make every choice of a template at random and fill in its slots."""
    text = template
    while match := _CHOICE.search(text):
        group, optional = match.groups()
        if group is not None:
            pick = rng.choice(group.split("|"))
        else:
            pick = rng.choice(optional.split("|")) if rng.random() < 0.5 else ""
        text = text[: match.start()] + pick + text[match.end() :]
    if slots:
        text = _SLOT.sub(lambda m: slots[m[1]], text)
    return tidy(text)


@cache
def slots_of(template: str) -> frozenset[str]:
    """The names of a template's slots."""
    return frozenset(_SLOT.findall(template))


def options(lists: Mapping[str, list[str]]) -> dict[tuple[str, bool], list[tuple[str, str]]]:
    """(id, template) pairs by (name of a list, whether they are held out of training)."""
    found: dict[tuple[str, bool], list[tuple[str, str]]] = {
        (name, held): [] for name in lists for held in (False, True)
    }
    for name, templates in lists.items():
        for i, template in enumerate(templates):
            found[name, template.startswith("~")].append((f"{name}#{i}", template))
    return found


def tidy(text: str) -> str:
    """Collapse the spaces that empty optional parts leave behind, and write "an" where a word asks for it."""
    text = re.sub(r"\s+", " ", text).strip()
    # Not before "one" and "unique"; of words in u only few begin with the vowel's own sound.
    text = re.sub(r"\b([Aa]) (?=[aeio](?!ne\b)|un(?!i)|umb)", r"\1n ", text)
    text = re.sub(r"\bI '(d|m|ll)\b", r"I'\1", text)
    return re.sub(r" ([,.;?!:])", r"\1", text)


def number_words(n: int, rng: random.Random) -> str:
    """0..100 or a round hundred in words: 21 is "twenty one" or "twenty-one"."""
    if n < 20:
        return _ONES[n]
    if n < 100:
        ones = n % 10
        return _TENS[n // 10] + (rng.choice([" ", "-"]) + _ONES[ones] if ones else "")
    hundreds, rest = divmod(n, 100)
    head = rng.choice(["a hundred", "one hundred"]) if hundreds == 1 else _ONES[hundreds] + " hundred"
    return head + (rng.choice([" ", " and "]) + number_words(rest, rng) if rest else "")


def number(n: float, rng: random.Random, words: float = 0.12) -> str:
    """A number as digits or, for whole numbers, sometimes in words."""
    if n != int(n):
        return f"{n:g}" if rng.random() < 0.8 else number_words(int(n), rng) + " and a half"
    return number_words(int(n), rng) if rng.random() < words else str(int(n))


# Verbs whose last letter doubles before -ing.
_DOUBLING = frozenset(
    listed(
        "put|set|shut|dim|stop|get|cut|let|begin|skip|run|flip|drop|pop|hit|quit|step|plug|unplug|trim|chop|swap|snap|zip|tap"
        "|nip|grab|bar|unbar"
    )
)


def gerund(verb: str) -> str:
    """The -ing form of a verb of this grammar: dim -> dimming, close -> closing."""
    if verb in {"be", "see"}:
        return verb + "ing"
    if verb.endswith("e"):
        return verb[:-1] + "ing"
    if verb in _DOUBLING:
        return verb + verb[-1] + "ing"
    return verb + "ing"


def typo(text: str, rng: random.Random) -> str:
    """One slip of the finger inside a longer word: swapped, dropped, doubled or neighbouring letter."""
    words = list(re.finditer(r"[A-Za-z]{3,}", text))
    if not words:
        return text
    word = rng.choice(words)
    i = rng.randrange(word.start() + 1, word.end() - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    if kind == 1:
        return text[:i] + text[i + 1 :]
    if kind == 2:
        return text[:i] + text[i] + text[i:]
    near = {"a": "s", "e": "r", "i": "o", "o": "p", "t": "y", "n": "m", "r": "t", "s": "d", "l": "k", "h": "g"}
    return text[:i] + near.get(text[i], "e") + text[i + 1 :]


def noise(text: str, rng: random.Random, question: bool = False, typos: float = 0.0, plain: bool = False) -> str:
    """Casing, end punctuation and now and then a typo, as people type them; where `plain`, no word is changed."""
    if rng.random() < typos and not plain:
        text = typo(text, rng)
    if text[-1:] not in "?!.":
        text += rng.choice(["?", "?", "?", ""] if question else ["", "", "", ".", ".", "!"])
    if rng.random() < 0.1:
        text = text.replace(",", "")
    if rng.random() < 0.1 and not plain:
        text = text.replace("'", "")
    roll = rng.random()
    if roll < 0.5:
        text = text[:1].upper() + text[1:]
    elif roll < 0.95:
        text = text.lower()
    elif roll < 0.97 and not plain:
        text = text.upper()
    return text
