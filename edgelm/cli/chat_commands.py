"""What can be typed in a chat beside messages."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.cli.conversation import Conversation
from edgelm.cli.failures import say
from edgelm.cli.run import print_chunk, speed
from edgelm.cli.suggestions import nearest_command
from edgelm.errors import OptionError, near
from edgelm.files import expanded
from edgelm.json_text import json_value

if TYPE_CHECKING:
    from edgelm.runtime.loop.results import Chunk

QUOTES = '"""'
LEAVING = ("/bye", "/exit", "/quit")
WORDS = dict.fromkeys(("exit", "quit", "bye", "q", "logout"), "/bye leaves, as Ctrl-D does") | {
    "help": "/help lists them",
    "?": "/help lists them",
}  # what hands type at other prompts, alone on its line → what to type here
HELP = """\
/clear            forget the conversation (also /reset)
/regen            another answer to the last message
/system [TEXT]    set the system message, and forget the conversation; without TEXT remove it
/set [NAME VALUE] set an option such as temperature; without VALUE the model's own; without NAME show them
/save FILE        write the conversation to a file
/load FILE        go on with one from a file
/stats            speed of the last answer, and how full the context is
/bye              leave, as does Ctrl-D (also /exit, /quit); Ctrl-C ends an answer
A line that ends in \\ goes on in the next; three quotes begin and end a message of several lines."""
_SETTINGS = (
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty",
    "presence_penalty", "seed", "stop",
)  # fmt: skip


def answer(conversation: Conversation, text: str) -> None:
    """Ask, and print the answer as it comes; Ctrl-C ends it."""
    _show(conversation, lambda cancel: conversation.ask(text, cancel))


def obey(conversation: Conversation, line: str) -> None:
    """Do what a line that begins with a slash says.

    Raises:
        EdgeLMError: it cannot be done; the conversation is as it was.
    """
    name, _, rest = line.partition(" ")
    known: dict[str, Callable[[str], None]] = {
        "/help": lambda _: click.echo(HELP, err=True),
        "/?": lambda _: click.echo(HELP, err=True),
        "/clear": lambda _: _clear(conversation),
        "/reset": lambda _: _clear(conversation),
        "/regen": lambda _: _show(conversation, conversation.again),
        "/system": lambda text: _system(conversation, text or None),
        "/set": lambda text: _set(conversation, text),
        "/save": lambda text: _save(conversation, text),
        "/load": lambda text: _load(conversation, text),
        "/stats": lambda _: _stats(conversation),
    }
    if name in known:
        known[name](rest.strip())
    else:
        hint = nearest_command(name, [*known, *LEAVING])
        if (option := _option(name.removeprefix("/"))) in _SETTINGS:
            hint = f"did you mean /set {option} {rest.strip() or 'VALUE'}?"
        say("note", f"no command {name}; " + (hint if hint.startswith("did you mean") else "/help lists them"))


def _show(conversation: Conversation, ask: Callable[[threading.Event], Iterator[Chunk]]) -> None:
    ended = True  # the line that the answer stands on
    with _interrupt() as cancel:
        try:
            for chunk in ask(cancel):
                ended = chunk.text.endswith("\n") if chunk.text else ended
                print_chunk(chunk)
        finally:
            if not ended:
                click.echo()
    if conversation.finish_reason == "length":
        say("note", "the answer was cut off: its most tokens, or the context is full (/set max_tokens N)")


def _clear(conversation: Conversation) -> None:
    conversation.reset()
    say("note", "the conversation is forgotten")


def _system(conversation: Conversation, text: str | None) -> None:
    conversation.system = text
    conversation.reset()
    what = "no system message" if text is None else f"the system message is now: {text}"
    say("note", f"{what}; the conversation is forgotten")


def _set(conversation: Conversation, text: str) -> None:
    """One option, checked; or all of them."""
    name, _, value = text.replace("=", " ", 1).partition(" ")
    name = _option(name)
    if not name:
        config = conversation.lm.config.replace(**_chosen(conversation.options))
        click.echo("\n".join(f"{key:<19} {getattr(config, key)!r}" for key in _SETTINGS), err=True)
        return
    if name not in _SETTINGS:
        raise OptionError(f"no option {name}", hint=near(name, _SETTINGS, listing="options"))
    found: Any = None
    if value.strip():
        with contextlib.suppress(ValueError):
            found = json_value(value)
        found = value.strip() if found is None else found
        conversation.lm.config.replace(**{name: found})  # told before it is used
    conversation.options[name] = found
    say("note", f"{name} is " + (repr(found) if found is not None else "the model's own"))


def _option(name: str) -> str:
    """What the library calls an option, however it was typed."""
    name = name.strip().lstrip("-").replace("-", "_")
    return {"temp": "temperature", "n": "max_tokens"}.get(name, name)


def _chosen(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _SETTINGS if options.get(name) is not None}


def _save(conversation: Conversation, text: str) -> None:
    path = _file(text, "/save")
    conversation.save(path)
    say("note", f"{_turns(conversation)} saved to {path}")


def _load(conversation: Conversation, text: str) -> None:
    path = _file(text, "/load")
    conversation.load(path)
    say("note", f"{_turns(conversation)} loaded from {path}")


def _turns(conversation: Conversation) -> str:
    count = len(conversation.turns)
    return f"{count} message{'' if count == 1 else 's'}"


def _file(text: str, command: str) -> Path:
    """A path as a shell would take it, with quotes where it has blanks."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = [text]
    if not words:
        raise OptionError(f"{command} needs a file", hint=f"{command} chat.json")
    return expanded(" ".join(words))


def _stats(conversation: Conversation) -> None:
    timings = conversation.timings
    used = len(conversation.source.tokens)
    said = "nothing was said yet" if timings is None else speed(timings)
    click.echo(f"{said}; {used:,} of {conversation.lm.context:,} tokens of context used", err=True)


@contextlib.contextmanager
def _interrupt() -> Iterator[threading.Event]:
    """While the block runs, the first Ctrl-C sets the event; a second one interrupts as usual."""
    cancel = threading.Event()

    def handler(number: int, frame: Any) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    if threading.current_thread() is not threading.main_thread():  # where signals cannot be caught
        yield cancel
        return
    old = signal.signal(signal.SIGINT, handler)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, old)
