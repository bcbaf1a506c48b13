"""A conversation with a model: its turns, kept within the context, and as a file."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelm.cli.failures import say
from edgelm.errors import OptionError, PromptError
from edgelm.files import read_text, replacing
from edgelm.json_text import json_value

if TYPE_CHECKING:
    from edgelm.runtime.lm import LM
    from edgelm.runtime.loop.results import Chunk, Timings
    from edgelm.runtime.session import Session

_LONGEST = 16 << 20  # bytes of a file


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
        self.turns: list[dict[str, Any]] = []  # of the user and the assistant in turn
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

    def again(self, cancel: threading.Event) -> Iterator[Chunk]:
        """Another answer to the last message; with a seed, the next one is taken, so that it is another.

        Raises:
            PromptError: nothing was asked yet.
        """
        asked = [i for i, turn in enumerate(self.turns) if turn["role"] == "user"]
        if not asked:
            raise PromptError("nothing was asked yet")
        text = self.turns[asked[-1]]["content"]
        del self.turns[asked[-1] :]
        if self.options.get("seed") is not None:
            self.options["seed"] += 1
        return self.ask(text, cancel)

    def save(self, path: Path) -> None:
        """Write the conversation to a file: JSON with its ``messages``, as `edgelm.LM.generate` takes them.

        Raises:
            OptionError: it cannot be written.
        """
        facts = {"model": self.lm.bundle.manifest.model.id, "messages": self._messages()}
        try:
            with replacing(path.absolute()) as file:
                file.write(json.dumps(facts, indent=2, ensure_ascii=False).encode())
        except OSError as error:
            raise OptionError(f"cannot write {path}: {error.strerror or error}") from None

    def load(self, path: Path) -> None:
        """Take over the conversation in a file; this one is as it was where that fails.

        Raises:
            OptionError: it cannot be read, or is no conversation.
        """
        from edgelm.runtime.text.chat import check_messages

        try:
            found = json_value(read_text(path, _LONGEST))
            messages = check_messages(found["messages"] if isinstance(found, dict) else found)
        except OSError as error:
            raise OptionError(f"cannot read {path}: {error.strerror or error}") from None
        except (ValueError, KeyError, PromptError):
            raise OptionError(f"{path} is no conversation", hint='JSON with "messages", as /save writes it') from None
        system = [m for m in messages if m["role"] == "system"][:1]
        self.system = system[0]["content"] if system else None
        self.turns = [m for m in messages if m["role"] != "system"]

    def _messages(self) -> list[dict[str, Any]]:
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

        options = self.options
        how = Rendering(
            parse_special=bool(options.get("parse_special")),
            tools=options.get("tools"),
            variables=options.get("template_args") or {},
        )
        return self.lm.count_prompt(self._messages(), how=how) + room <= self.lm.context
