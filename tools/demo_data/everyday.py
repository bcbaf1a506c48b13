"""Commands as they are said most: by themselves, for what is asked for every day, often without a place or a noun."""

from __future__ import annotations

import random

from .commands import Command, frame, phrase, random_for, random_room
from .devices import Action, held_combo
from .grammar import expand

_ASKED = {"speaker": 7, "light": 4, "timer": 3, "coffee maker": 2, "thermostat": 2, "tv": 2, "vacuum": 1.5, "lock": 1}
_ASKED |= {"blinds": 1, "fan": 1, "window": 1, "all": 1, "kettle": 0.5, "sprinklers": 0.5, "gate": 0.5, "alarm": 0.5}
_MUSIC: list[tuple[str, bool | str]] = [("playing", True), ("playing", False), ("track", "next"), ("track", "previous")]
_MUSIC += [("muted", True), ("muted", False)]
_NOWHERE = 0.6  # share without a place
_POLITE = ["please <c>", "<c> please", "<c>, please", "(can|could|would) you <c> [please]", "<c> now", "(hey|ok), <c>"]


def everyday(rng: random.Random) -> Command:
    """One of the training split: half as the template has it, most others with a polite word."""
    while True:
        device = rng.choices(list(_ASKED), list(_ASKED.values()))[0]
        room = None if device != "all" and rng.random() < _NOWHERE else random_room(device, rng)
        action = random_for(device, room, rng)
        if device == "speaker" and (action.attr == "on" or rng.random() < 0.4):
            action = Action(device, room, *rng.choice(_MUSIC))
        if held_combo(action.device, action.room, action.attr):
            continue
        try:
            text, key, imperative = phrase(action, rng)
        except LookupError:
            continue
        roll = rng.random()
        if roll < 0.55:
            return Command(text, [action], [key, "plain"])
        if roll < 0.85 and imperative:
            return Command(expand(rng.choice(_POLITE), rng, {"c": text}), [action], [key, "polite"])
        text, outer = frame(text, imperative, rng)
        return Command(text, [action], [key, outer])
