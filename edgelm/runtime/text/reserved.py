"""Which names a message's text must not make into tokens: those of special tokens, and those that steer without being special.

Many tokenizers list a model's turn markers as plain added tokens (``<｜User｜>`` of DeepSeek's, ``<|im_start|>`` of some
fine-tuned models), and all of them what stands around a tool's answer. So the chat template is asked: what it writes around a
plain conversation steers, and in a tool's answer all that it names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from edgelm.errors import PromptError
from edgelm.runtime.text.chat import ChatTemplate
from edgelm.runtime.text.message_text import PlainEncoder, SpecialNames
from edgelm.runtime.text.tokenizer import Tokenizer

# What looks like a mark: runs of blanks, and "###", are added tokens too, and honest text.
_MARK = re.compile(r"[<\[{]\S+[>\]}]")
_THOUGHT = re.compile(r"</?(?:think|thought|reasoning)>")
_TURNS = [
    [{"role": role, "content": "a"} for role in roles]
    for roles in (("system", "user", "assistant", "user"), ("user", "assistant", "user"), ("user",))
]


@dataclass(frozen=True)
class Reserved:
    """The names of a model.

    Attributes:
        tokenizer: its tokenizer.
        template: its chat template, with the others that it has.
    """

    tokenizer: Tokenizer
    template: ChatTemplate

    @cached_property
    def anywhere(self) -> SpecialNames:
        """Special tokens, and others that begin or end a turn: text in every message."""
        # Thoughts, which some templates write empty into answers, end no turn, and templates look for them in what users say.
        written = _THOUGHT.sub("", " ".join(_plain_turns(each) for each in self.template.each))
        tokens = " ".join(str(value) for value in self.template.special_tokens.values())
        return SpecialNames([*self.tokenizer.special_names, *self._within(written), *self._within(tokens)])

    @cached_property
    def of_tools(self) -> SpecialNames:
        """Those, and all others that a template names: text in what a tool answered."""
        sources = " ".join(each.source for each in self.template.each)
        return SpecialNames({*self.anywhere.names, *self._within(sources)})

    @cached_property
    def encoder(self) -> PlainEncoder:
        """Encodes rendered conversations in which names are marked that are text."""
        return self.tokenizer.plain_encoder(self.of_tools.names)

    def _within(self, text: str) -> Iterable[str]:
        """The added tokens that are not special, look like a mark, and stand in a text."""
        return (name for name in self.tokenizer.other_added if _MARK.fullmatch(name) and name in text)


def _plain_turns(template: ChatTemplate) -> str:
    """What a template makes of a conversation without tools; of the first of some that it takes."""
    for turns in _TURNS:
        try:
            return template.render(turns, add_generation_prompt=False)
        except PromptError:  # some know no system message, or want their turns in another order
            continue
    return ""
