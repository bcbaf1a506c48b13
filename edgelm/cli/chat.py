"""``edgelm chat``: talk with a model."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.cli.cached import CachedSession
from edgelm.cli.failures import say
from edgelm.cli.loading import loaded
from edgelm.cli.options import (
    adapter_option,
    bundle_argument,
    draft_option,
    loading_options,
    prompt_cache_option,
    sampling_options,
)
from edgelm.cli.run import print_chunk, speed
from edgelm.errors import EdgeLMError, PromptError

if TYPE_CHECKING:
    from edgelm.runtime.lm import LM
    from edgelm.runtime.loop.results import Chunk, Timings
    from edgelm.runtime.session import Session

HELP = """\
/reset        forget the conversation
/system TEXT  set the system message (and forget the conversation); without TEXT remove it
/stats        speed of the last answer, and how full the context is
/exit         leave, as does Ctrl-D; Ctrl-C ends an answer"""


@click.command("chat")
@bundle_argument
@click.option("--system", metavar="TEXT", help="A system message before the conversation.")
@sampling_options
@prompt_cache_option
@adapter_option
@draft_option
@loading_options
def command(
    bundle: str,
    system: str | None,
    stop: tuple[str, ...],
    prompt_cache: Path | None,
    adapter: Path | None,
    draft: Path | None,
    max_memory_mb: float | None,
    threads: int | None,
    prefill_threads: int | None,
    weight_cache: bool,
    **options: Any,
) -> None:
    """Talk with a model; /help lists the commands.

    Lines from a pipe are taken as one message each.

    \b
    Examples:
      edgelm chat bundles/edgelm-home-rpi5-int4
      edgelm chat my-bundle --system "Answer in one sentence." --temperature 0.7
    """
    loading = {"threads": threads, "prefill_threads": prefill_threads, "max_memory_mb": max_memory_mb, "draft": draft}
    with loaded(bundle, weight_cache=weight_cache, **loading) as lm:
        if lm.template is None:
            raise PromptError(
                "this model has no chat template, so it cannot chat", hint=f'use: edgelm run {bundle} -p "…"'
            )
        interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
        lm.open_adapter(adapter)  # a wrong one is told before anything is typed
        cached = None if prompt_cache is None else CachedSession(lm, prompt_cache, adapter)
        source = lm if cached is None else cached.session
        conversation = Conversation(lm, system, {**options, "adapter": adapter, "stop": stop or None}, source)
        if interactive:
            name = lm.bundle.manifest.model.id
            click.echo(f"{name}, {lm.context:,} tokens of context; /help for help, /exit to leave", err=True)
        for line in _typed() if interactive else _piped():
            if line.strip() in ("/exit", "/quit"):
                break
            if not line.strip():
                continue
            try:
                _obey(conversation, line.strip()) if line.startswith("/") else _answer(conversation, line)
            except EdgeLMError as error:
                if not interactive:
                    raise
                say("error", str(error))
                if error.hint:
                    say("hint", error.hint)
        if cached is not None:
            cached.save()


class Conversation:
    """The messages so far, kept within the model's context.

    Args:
        lm: the model.
        system: a first message of the system, or None.
        options: of every generation, as `LM.stream` takes them.
        source: what generates: a session of the model, or None for the model itself.
    """

    def __init__(self, lm: LM, system: str | None, options: dict[str, Any], source: LM | Session | None = None) -> None:
        self.lm, self.system, self.options = lm, system, options
        self.source = lm if source is None else source
        self.turns: list[dict[str, str]] = []  # of the user and the assistant in turn
        self.timings: Timings | None = None
        self.finish_reason: str | None = None

    def reset(self) -> None:
        """Forget the turns."""
        self.turns.clear()

    def ask(self, text: str, cancel: threading.Event) -> Iterator[Chunk]:
        """The answer to a message; what has come of it becomes part of the conversation.

        Raises:
            PromptError: the message alone does not fit in the context; the conversation is as it was before.
        """
        before = list(self.turns)
        self.turns.append({"role": "user", "content": text})
        try:
            self._make_room()
            chunks = self.source.stream(self._messages(), cancel=cancel, **self.options)
        except BaseException:
            self.turns = before
            raise
        answer = ""
        try:
            for chunk in chunks:
                answer += chunk.text
                if chunk.timings is not None:
                    self.timings, self.finish_reason = chunk.timings, chunk.finish_reason
                yield chunk
        finally:
            if answer:
                self.turns.append({"role": "assistant", "content": answer})
            else:
                self.turns.pop()

    def _messages(self) -> list[dict[str, str]]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *self.turns]

    def _make_room(self) -> None:
        """Drop the oldest turns until there is room for an answer: a quarter of the context, or --max-tokens."""
        room = min(self.lm.config.replace(max_tokens=self.options.get("max_tokens")).max_tokens, self.lm.context // 4)
        dropped = 0
        while len(self.turns) > 1 and not self._fits(room):
            del self.turns[:2]
            dropped += 1
        if dropped:
            turns = "turn was" if dropped == 1 else f"{dropped} turns were"
            say("note", f"the context of {self.lm.context:,} tokens is full: the oldest {turns} dropped")

    def _fits(self, room: int) -> bool:
        assert self.lm.template is not None
        from edgelm.runtime.text.prompt import Rendering

        how = Rendering(parse_special=bool(self.options.get("parse_special")))
        return self.lm.count_prompt(self._messages(), how=how) + room <= self.lm.context


def _answer(conversation: Conversation, text: str) -> None:
    ended = True  # the line that the answer stands on
    with _interrupt() as cancel:
        try:
            for chunk in conversation.ask(text, cancel):
                ended = chunk.text.endswith("\n") if chunk.text else ended
                print_chunk(chunk)
        finally:
            if not ended:
                click.echo()
    if conversation.finish_reason == "length":
        say("note", "the answer was cut off: --max-tokens, or the context is full")


def _obey(conversation: Conversation, line: str) -> None:
    name, _, rest = line.partition(" ")
    if name == "/help":
        click.echo(HELP, err=True)
    elif name == "/reset":
        conversation.reset()
    elif name == "/system":
        conversation.system = rest.strip() or None
        conversation.reset()
    elif name == "/stats":
        timings = conversation.timings
        used = len(conversation.source.tokens)
        said = "nothing was said yet" if timings is None else speed(timings)
        click.echo(f"{said}; {used:,} of {conversation.lm.context:,} tokens of context used", err=True)
    else:
        say("note", f"no command {name}; /help lists them")


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


def _typed() -> Iterator[str]:
    """Lines typed at a terminal, with editing and history where Python has readline; ends at Ctrl-D and Ctrl-C."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return


def _piped() -> Iterator[str]:
    """Lines of standard input."""
    for number, line in enumerate(() if sys.stdin is None else sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise PromptError(f"standard input is not valid UTF-8 in line {number}") from None
