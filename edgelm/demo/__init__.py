"""The embedded default model: a small chat model that turns home commands into JSON actions."""

from __future__ import annotations

from pathlib import Path

NAME = "edgelm-home"

_HERE = Path(__file__).resolve().parent


def path() -> Path:
    """The checkpoint folder, as every Hugging Face loader expects it."""
    return _HERE / "model"


def card() -> Path:
    """The model card: what it is, how good, and its licence."""
    return _HERE / "README.md"


def heldout() -> Path:
    """The held-out split: one JSON object a line with `messages`, `answer`, `kind` and `split`."""
    return _HERE / "heldout.jsonl"


def stranger() -> Path:
    """Prompts written by hand, outside the grammar the training text comes from; same form as `heldout`."""
    return _HERE / "stranger.jsonl"


def schema() -> Path:
    """The JSON Schema of an answer to a command."""
    return _HERE / "schema.json"


def answers() -> Path:
    """The grammar of its answers, a regular expression in JSON, to which chats are held (`Bundle.answer_grammar`)."""
    return path() / "answer_grammar.json"


def speakers() -> Path:
    """200 sentences in ten ways of speaking, ``split`` naming the way; same form as `heldout`."""
    return _HERE / "speakers.jsonl"


def kinds() -> Path:
    """Requests of the kinds that go wrong first, ``split`` naming the kind; same form as `heldout`."""
    return _HERE / "kinds.jsonl"


def visitors() -> Path:
    """328 requests and questions by three hands who knew neither the training text nor the other sets, ``split`` naming
    the hand; same form as `heldout`.
    """
    return _HERE / "visitors.jsonl"


def guests() -> Path:
    """329 more by three further hands: a household, people asked in writing, an evening at home; same form as `visitors`."""
    return _HERE / "guests.jsonl"


def talk() -> Path:
    """What people say to a machine that is no request to a home, all to be refused; same form as `heldout`."""
    return _HERE / "talk.jsonl"
