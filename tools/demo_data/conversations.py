"""Whole conversations, the training stream and the held-out file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from . import questions, states
from .combined import command, compatible, several
from .commands import ANYWHERE, Command, phrase, placed, single
from .devices import DEVICES, DOORS, ROOMS, Action, answer, held_combo
from .everyday import everyday
from .grammar import expand, noise
from .nouns import room_words
from .other import REFUSAL, other
from .places import unknown_place
from .refusals import near_miss
from .speech import spoken

Message = dict[str, str]
_KNOWN = {"all", *ROOMS, *DOORS}
_ASKING = ("can ", "could ", "will ", "would ", "do ", "is it ", "how about", "hey, can", "hey, could", "what about")
HOMES = 0.08, 0.25, 0.32  # share of groups that begin with a home's state: in the parts of training
WHICH = 0.55, 0.7, 0.75  # share of questions about all of a kind, likewise
# Of homes behind the first part, as shares of what they may have: small ones show what to look for.
SIZES = (0.2, 0.4, 0.7, 1.0)
PLACED = 0.1, 0.2, 0.3  # share of commands for a place of no list, or two in one that is said once, likewise
EVERYDAY = 0.2, 0.45, 0.5  # share of commands as they are said most, likewise
REFUSED = 0.28, 0.32, 0.4  # share of what is refused where there is no home's state, likewise
ASKED = 7  # conversations about each
FIRST_HOMES = 0.7  # share of groups that begin with a home's state while homes are recited above all
RECITED = 0.5, 0.15, 0.1  # share of homes that are recited, device by device, likewise: see `_recital`
NEAR = 0.55  # share of refusals whose request sounds like a command
SPOKEN = 0.16  # share of training sentences as they are said rather than written
OTHERS = (0.0, 0.0, 0.5, 0.9)  # shares of devices in places that only the state message knows
TYPOS = 0.04  # share of training sentences with a slip of the finger
_PLAIN_SYSTEM = [
    "You are a helpful assistant.",
    "You control a smart home.",
    "You are a home assistant. Answer briefly.",
    "You are edgelm-home.",
]


@dataclass
class Conversation:
    """Messages ending with the user's, the answer expected, and what the last turn is made of."""

    messages: list[Message]
    answer: str
    kind: str
    skeleton: list[str] = field(default_factory=list)
    combos: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def full(self) -> list[Message]:
        """The messages with the answer."""
        return [*self.messages, {"role": "assistant", "content": self.answer}]

    def record(self, split: str) -> dict[str, Any]:
        """The line of the held-out file."""
        return {"messages": self.messages, "answer": self.answer, "kind": self.kind, "split": split}


@dataclass
class _Turn:
    text: str
    answer: str
    kind: str
    skeleton: list[str]
    actions: list[Action] = field(default_factory=list)
    combo: str = ""


def _known(actions: list[Action]) -> bool:
    """Whether no action is in a place that must be kept as it was said."""
    return all(a.room is None or a.room in _KNOWN for a in actions)


def _command_turn(made: Command, rng: random.Random, typos: float = TYPOS) -> _Turn:
    asking = made.text.lower().startswith(_ASKING)
    # A place that must be kept as it was said is not misspelled.
    known = _known(made.actions)
    text = spoken(made.text, rng, SPOKEN if typos else 0.0, not known)
    text = noise(text, rng, question=asking and rng.random() < 0.8, typos=typos, plain=not known)
    return _Turn(text, answer(made.actions), "command", made.skeleton, made.actions)


def _question_turn(
    home: list[states.Entry],
    rng: random.Random,
    held: bool = False,
    combo: bool = False,
    typos: float = TYPOS,
    share: float = WHICH[0],
) -> _Turn:
    which = not combo and rng.random() < (0.25 if held else share)
    made = questions.ask_which(home, rng, held) if which else questions.ask_one(home, rng, held, combo)
    text = spoken(made.text, rng, SPOKEN / 2 if typos else 0.0)
    if not held and rng.random() < 0.1:
        text = rng.choice(["hey, ", "please tell me, ", "ok, ", "hi, "]) + text
    return _Turn(noise(text, rng, question=True, typos=typos), made.answer, "state", [made.skeleton], combo=made.combo)


def _other_turn(rng: random.Random, held: bool = False, typos: float = TYPOS) -> _Turn:
    near = not held and rng.random() < NEAR
    text, key = near_miss(rng) if near else other(rng, held)
    text = spoken(text, rng, SPOKEN / 2 if near else 0.0)
    return _Turn(noise(text, rng, question=rng.random() < 0.5, typos=typos), REFUSAL, "other", [key])


def _follow_up(last: _Turn, rng: random.Random) -> _Turn | None:
    """A command that leans on the one before: "and in the bedroom", "now turn it off"."""
    if len(last.actions) != 1:
        return None
    old = last.actions[0]
    rooms = DEVICES[old.device].rooms
    if rng.random() < 0.5 and rooms and old.device != "all":
        room = unknown_place(rng) if rng.random() < 0.15 and old.device in ANYWHERE else rng.choice(rooms)
        action = Action(old.device, room, old.attr, old.value, old.change)
        forms = ["and the <r>", "the <r> too", "same (in|for) the <r>", "also the <r>", "now the <r>", "and in the <r>"]
        forms += ["do the same (in|for) the <r>", "the <r> as well", "and the <r> (too|as well)", "what about the <r>"]
        if room in {"upstairs", "downstairs"}:
            return None
        text, key = expand(rng.choice(forms), rng, {"r": room_words(room, rng)}), "follow-room"
    else:
        if old.device in {"timer", "all", "vacuum"} or old.attr in {"track", "playing", "armed"}:
            return None
        new = old
        if old.change:
            new = Action(old.device, old.room, old.attr, rng.choice(["up", "down"]), True)
            text, key, _ = phrase(Action(old.device, None, old.attr, new.value, True), rng, shared="it")
        elif isinstance(old.value, bool):
            new = Action(old.device, old.room, old.attr, not old.value)
            text, key, _ = phrase(Action("plug", None, old.attr, new.value), rng, shared="it")
        else:
            return None
        action, text, key = new, rng.choice(["", "", "now ", "and ", "ok, "]) + text, "follow-it:" + key
        if rng.random() < 0.2:
            text += " again"
    if held_combo(action.device, action.room, action.attr) or not compatible([old, action]):
        return None
    plain = not _known([action])
    return _Turn(noise(text, rng, typos=TYPOS, plain=plain), answer([action]), "command", [key], [action])


def _train_turn(home: list[states.Entry] | None, rng: random.Random, hard: float, part: int) -> _Turn:
    roll = rng.random()
    asks = 0.76 if home is not None else 0.05
    if roll < asks:
        return _question_turn(home or [], rng, share=WHICH[part])
    if roll < asks + (0.08 if home is not None else REFUSED[part]):
        return _other_turn(rng)
    if rng.random() < PLACED[part]:
        return _command_turn(several(rng, leaning=True) if rng.random() < 0.3 else placed(rng), rng)
    if rng.random() < EVERYDAY[part]:
        return _command_turn(everyday(rng), rng)
    return _command_turn(command(rng, 0.33 * (0.3 + 0.7 * hard)), rng)


def _start(home: list[states.Entry] | None, rng: random.Random) -> list[Message]:
    if home is not None:
        return [{"role": "system", "content": states.message(home)}]
    if rng.random() < 0.03:
        return [{"role": "system", "content": rng.choice(_PLAIN_SYSTEM)}]
    return []


def training(rng: random.Random, hard: float = 1.0) -> Conversation:
    """One conversation of the training split, of one turn or, now and then, of up to six."""
    while (made := rng.choice(training_group(rng, hard))).kind == "recital":
        pass  # it has no turn of a user
    return made


def training_group(rng: random.Random, hard: float = 1.0, part: int = 0, first: bool = False) -> list[Conversation]:
    """Conversations of the training split that begin with the same system message: several about a home's state.

    `hard` from 0 to 1 is how much of what is long there is: large homes, several actions, several turns. The second `part` of
    training has more of what is said most, and of states; the third, more of what is refused, too. The `first` batches
    recite homes above all.
    """
    home = None
    if rng.random() < (FIRST_HOMES if first else HOMES[part]):
        size = (rng.choice(SIZES) - 0.4) / 0.6 if part else hard
        home = states.random_home(rng, size, rng.choice(OTHERS)) if rng.random() > 0.02 else []
    start = _start(home, rng)
    if home and (first or rng.random() < RECITED[part]) and (recited := _recital(start, home, rng)):
        return recited
    return [_dialogue(start, home, rng, hard, part) for _ in range(1 if home is None else ASKED if home else 2)]


def _recital(start: list[Message], home: list[states.Entry], rng: random.Random) -> list[Conversation]:
    """What is said of each device of a home, without a question.

    To find a value by its device's name is what a small model learns last. Here it is asked for once in eight tokens, and
    not once in thirty.
    """
    entries = [e for e in rng.sample(home, len(home)) if not held_combo(e.device, e.room, "state")]
    return [Conversation(start, entry.sentence, "recital", [], [], []) for entry in entries]


def _dialogue(
    start: list[Message], home: list[states.Entry] | None, rng: random.Random, hard: float, part: int
) -> Conversation:
    roll = rng.random() * (0.9 + 0.1 * hard)
    count = 1 if roll < 0.9 else 2 if roll < 0.965 else 3 if roll < 0.99 else rng.randrange(4, 7)
    turns: list[_Turn] = []
    while len(turns) < count:
        turn = _follow_up(turns[-1], rng) if turns and rng.random() < 0.55 else None
        turn = turn or _train_turn(home, rng, hard, part)
        if compatible([a for t in [*turns, turn] for a in t.actions]):
            turns.append(turn)
    messages = list(start)
    for turn in turns[:-1]:
        messages += [{"role": "user", "content": turn.text}, {"role": "assistant", "content": turn.answer}]
    end = turns[-1]
    messages.append({"role": "user", "content": end.text})
    made = Conversation(messages, end.answer, end.kind)
    for turn in turns:
        made.skeleton += turn.skeleton
        made.combos += [a.combo for a in turn.actions] + ([turn.combo] if turn.combo else [])
        made.kinds += [a.kind for a in turn.actions]
    return made


def _of(turn: _Turn, home: list[states.Entry] | None, rng: random.Random) -> Conversation:
    messages = [*_start(home, rng), {"role": "user", "content": turn.text}]
    combos = [a.combo for a in turn.actions] + ([turn.combo] if turn.combo else [])
    return Conversation(messages, turn.answer, turn.kind, turn.skeleton, combos, [a.kind for a in turn.actions])


def held_combinations(rng: random.Random, kind: str, typos: float) -> Conversation:
    """A known phrasing of a (device, room, attribute), or of a pair of actions, never trained on."""
    if kind == "command":
        made = single(rng, combo_held=True) if rng.random() < 0.5 else several(rng, pair_held=True)
        home = states.random_home(rng) if rng.random() < 0.2 else None
        return _of(_command_turn(made, rng, typos), home, rng)
    present = rng.random() < questions.PRESENT
    while True:
        home = states.random_home(rng)
        turn = _question_turn(home, rng, combo=True, typos=typos)
        if turn.answer.endswith(questions.ABSENT) != present:
            return _of(turn, home, rng)


def held_phrasings(rng: random.Random, kind: str, typos: float) -> Conversation:
    """A known action, question or topic in a sentence skeleton never trained on."""
    home = states.random_home(rng) if (kind == "state" and rng.random() < 0.95) or rng.random() < 0.2 else None
    if kind == "command":
        made = single(rng, held_phrase=True) if rng.random() < 0.65 else several(rng, held_phrase=True)
        return _of(_command_turn(made, rng, typos), home, rng)
    if kind == "state":
        return _of(_question_turn(home or [], rng, held=True, typos=typos), home, rng)
    return _of(_other_turn(rng, held=True, typos=typos), home, rng)


def heldout(seed: int, size: int = 800, typos: float = 0.0) -> Iterator[dict[str, Any]]:
    """The lines of the held-out file: half by combination, half by phrasing, no line twice.

    `typos` is the share of sentences with a slip of the finger: none in the file, which is about words, not spelling.
    """
    rng = random.Random(f"heldout-{seed}")
    seen: set[str] = set()
    plan = [(held_combinations, "combination", "command", 0.35), (held_combinations, "combination", "state", 0.13)]
    plan += [(held_phrasings, "phrasing", "command", 0.27), (held_phrasings, "phrasing", "state", 0.12)]
    plan += [(held_phrasings, "phrasing", "other", 0.13)]
    for make, split, kind, share in plan:
        count = 0
        while count < round(size * share):
            made = make(rng, kind, typos)
            if str(made.messages) not in seen:
                seen.add(str(made.messages))
                count += 1
                yield made.record(split)
