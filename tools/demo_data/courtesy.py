"""Politeness in layers: an opening, a softener, the request, a close. None of them asks for anything.

Each layer is drawn by itself, so that a model meets far more ways of being polite than a list of whole frames has.
"""

from __future__ import annotations

import random

from . import phrasebook
from .grammar import expand, gerund

_OPENINGS = [
    "(good|lovely) (morning|evening|day)",
    "(hello|hi|hey|greetings) [there|again|dear|my friend|old friend]",
    "(excuse|pardon|forgive) me [for asking|for bothering you|for the trouble]",
    "(sorry|apologies|I'm sorry) (to bother you|to ask|to trouble you|to be a nuisance|for interrupting)",
    "(I hope|hoping) (you are well|I'm not disturbing you|this is no trouble|you don't mind)",
    "(if|when) (it's no bother|it's no trouble|it suits you|you are free|you have a second|you get the chance|it's convenient)",
    "(if|since) you (would be|could be|are) so (kind|good|nice|helpful)",
    "(with|by) your (permission|leave)",
    "(a|one) (humble|tiny|polite) (request|wish|plea)",
    "(may|might|could|can) I (trouble|bother|ask) you (for a moment|for a second|for something|for a bit of help)",
    "(you're|you are) (always so helpful|a star|a darling|a gem|the best)",
]
_SOFTENERS = [
    "(could|would|might|can|will) you (please|kindly|perhaps|possibly|be so kind and|be a dear and) <c>",
    "(would|could) you (be so kind as to|be good enough to|be willing to|find it in you to|see your way to|manage to) <c>",
    "(would|do) you (mind|object to|kindly mind) <g>",
    "I (would|'d) (appreciate|welcome|value|love) it (very much|greatly|ever so much|a lot|so much) if you (could|would|might) <c>",
    "I (would|'d) be (most|very|so|ever so|really|truly) (grateful|thankful|obliged|glad|pleased) if you (could|would|might) <c>",
    "it would (mean a lot|be lovely|be wonderful|be most kind|help me a great deal|make my day) if you (could|would) <c>",
    "might (it be possible|you be able|I ask you|I beg you) to <c>",
    "(may|could) I (kindly|humbly|politely) (ask|request|beg) (you to|that you) <c>",
    "(please|kindly|do|do please|please do|please be so good and) <c>",
    "I (was wondering|wonder|should like to know) (if|whether) you (could|might|would) (kindly|please|possibly|perhaps) <c>",
    "(I'd|we'd) (be delighted|be over the moon|really like it|be happy) (for you to|to have you) <c>",
]
_CLOSES = [
    "(thank you|thanks) (kindly|so very much|ever so much|a million|in advance|from the heart|my dear)",
    "(much|very much|greatly) (appreciated|obliged)",
    "if (that's|it's|that is) (all right|alright|okay|fine|possible|not too much to ask) [with you|for you]",
    "(bless you|you're too kind|that's very kind of you|how kind of you|what would I do without you)",
    "(whenever|as soon as) (it suits you|you're able|it's possible|you find the time)",
    "(please|pretty please|if you please|if you'd be so kind|would you be so good)",
    "(I|we) (would|'d) (be in your debt|owe you one|thank you for it|be ever so grateful)",
]


_MORE = phrasebook.read("frames")
_OPENINGS += _MORE["polite.openings"]
_SOFTENERS += _MORE["polite.softeners"]
_CLOSES += _MORE["polite.closes"]


def polite(text: str, rng: random.Random) -> str:
    """A request that begins with its verb, said with one to three layers of courtesy."""
    verb, _, rest = text.partition(" ")
    slots = {"c": text, "g": f"{gerund(verb)} {rest}".strip()}
    opens, closes = rng.random() < 0.45, rng.random() < 0.35
    softens = rng.random() < 0.85 or not (opens or closes)
    said = expand(rng.choice(_SOFTENERS), rng, slots) if softens else text
    if opens:
        said = expand(rng.choice(_OPENINGS), rng) + rng.choice([", ", ", ", ". ", " but ", ", and "]) + said
    if closes:
        said += rng.choice([", ", ", ", ". ", " "]) + expand(rng.choice(_CLOSES), rng)
    return said
