"""From what a caller gives as a prompt to ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelm.bundle.json_table import shown
from edgelm.errors import PromptError, expect_flags, expect_type
from edgelm.runtime.text.chat import ChatTemplate, check_messages
from edgelm.runtime.text.message_text import Marker, unused_mark
from edgelm.runtime.text.reserved import Reserved
from edgelm.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgelm.bundle.manifest import SpecialTokens, TokenizerFacts
    from edgelm.bundle.reader import Bundle

_ANSWERS = frozenset({"tool", "function", "ipython", "observation", "tool_response", "environment"})  # roles of tools

Prompt = str | Sequence[Mapping[str, Any]] | Sequence[int]


def text_tools(bundle: Bundle) -> tuple[Tokenizer, ChatTemplate | None]:
    """The tokenizer of a bundle, and its chat template where it has one."""
    manifest = bundle.manifest
    tokenizer, template = open_text(
        bundle.tokenizer_path, bundle.chat_template, manifest.tokenizer, manifest.special_tokens
    )
    others = {} if template is None else bundle.chat_templates
    return tokenizer, template if template is None else ChatTemplate(template.source, template.special_tokens, others)


def open_text(
    path: Path, template: str | None, facts: TokenizerFacts, special: SpecialTokens
) -> tuple[Tokenizer, ChatTemplate | None]:
    """The tokenizer in the file `path`, and the chat template of that source, by what a manifest says of them."""
    tokenizer = Tokenizer.open(path, bos=special.bos, add_bos=facts.add_bos)
    return tokenizer, None if template is None else ChatTemplate(template, facts.in_templates)


def open_tokenizer(bundle: Bundle) -> Tokenizer:
    """The tokenizer of a bundle, without its template."""
    manifest = bundle.manifest
    return open_text(bundle.tokenizer_path, None, manifest.tokenizer, manifest.special_tokens)[0]


@dataclass(frozen=True)
class Rendering:
    """How messages become a prompt.

    Attributes:
        parse_special: whether names of special tokens in messages are those tokens, and not text.
        tools: JSON schemas of functions that the model may call, or None.
        template: name of the chat template to use; None for ``tool_use`` where there are tools, else the default.
        variables: what else the template knows, such as ``enable_thinking``.
    """

    parse_special: bool = False
    tools: Sequence[Mapping[str, Any]] | None = None
    template: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict, hash=False)


class PromptEncoder:
    """Encodes prompts for one model.

    Args:
        tokenizer: the model's.
        template: its chat template, or None.
        context: tokens a prompt may have.
        vocab_size: ids the model knows.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, context: int, vocab_size: int) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._context, self._vocab_size = context, vocab_size
        self._reserved = None if template is None else Reserved(tokenizer, template)

    @property
    def chats(self) -> bool:
        """Whether the model has a chat template, so that it takes messages."""
        return self._template is not None

    def encode(self, prompt: Prompt, *, raw: bool = False, how: Rendering | None = None) -> list[int]:
        """The ids of a prompt; see `LM.encode_prompt`."""
        ids = self.ids(prompt, raw=raw, how=how)
        if len(ids) > self._context:
            raise PromptError(
                f"the prompt has {len(ids):,} tokens, this bundle's context is {self._context:,}",
                hint="shorten the prompt, or export with a larger --context",
            )
        if ids and max(ids) >= self._vocab_size:
            raise PromptError(f"the tokenizer gives id {max(ids)}, the model knows {self._vocab_size:,} tokens")
        return ids

    def ids(self, prompt: Prompt, *, raw: bool = False, how: Rendering | None = None) -> list[int]:
        """The ids of a prompt, however many they are."""
        _expect(raw, how)
        if raw and not isinstance(prompt, str):
            return self._checked(prompt)
        if isinstance(prompt, str) and (raw or self._template is None):
            return self._encode_raw(prompt)
        # As transformers does: a template writes BOS itself where the model wants it.
        text, mark = self._render(prompt, raw, how or Rendering())
        ids = self._tokenizer.encode(text, special=False) if not mark else self._encode_marked(text, mark)
        if not ids:
            raise PromptError("the chat template makes an empty prompt of these messages")
        return ids

    def text(self, prompt: Prompt, *, raw: bool = False, how: Rendering | None = None) -> str:
        """The text that `encode` turns into ids."""
        _expect(raw, how)
        if raw and not isinstance(prompt, str):
            return self._tokenizer.decode(self._checked(prompt), skip_special=False)
        if isinstance(prompt, str) and (raw or self._template is None):
            return prompt
        text, mark = self._render(prompt, raw, how or Rendering())
        return text.replace(mark, "") if mark else text

    def _checked(self, prompt: Sequence[Any]) -> list[int]:
        """A raw prompt that is ids already."""
        if not isinstance(prompt, Sequence) or any(
            isinstance(item, bool) or not isinstance(item, int) for item in prompt
        ):
            raise PromptError(
                "raw needs a str prompt or ids, not messages", hint="leave raw out, or render the messages first"
            )
        if not prompt or min(prompt) < 0:
            raise PromptError("a prompt of ids needs at least one, and none below 0")
        return list(prompt)

    def _encode_raw(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text)
        if not ids and self._tokenizer.bos is not None:
            return [self._tokenizer.bos]
        if not ids:
            raise PromptError("the prompt is empty and this model has no BOS token to start from")
        return ids

    def _render(self, prompt: Prompt, raw: bool, how: Rendering) -> tuple[str, str]:
        """A conversation's text, and the mark that stands in names of special tokens which are text; '' for none."""
        messages: Any = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if self._template is None or self._reserved is None:
            raise PromptError(
                "this model has no chat template, so it takes no messages", hint="give the prompt as one str"
            )
        template, tools = self._template.named(how.template, tools=how.tools is not None), how.tools
        if how.parse_special:
            return template.render(messages, tools=tools, **how.variables), ""
        messages = check_messages(messages)
        try:
            mark = unused_mark([messages, tools, how.variables, template.source])
            marked, answered = Marker(self._reserved.anywhere, mark), Marker(self._reserved.of_tools, mark)
            messages = [(answered if message["role"] in _ANSWERS else marked)(message) for message in messages]
            tools, variables = marked(tools), marked.variables(how.variables)
        except RecursionError:
            raise PromptError("the messages, or the tools, are nested too deep") from None
        return template.render(messages, tools=tools, **variables), mark

    def _encode_marked(self, text: str, mark: str) -> list[int]:
        reserved = self._reserved
        assert reserved is not None
        return self._tokenizer.encode_marked(text, mark, lambda: reserved.encoder)


def id_list(name: str, ids: object) -> list[int]:
    """Token ids that a caller gives as an argument; TypeError where they are none."""
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    if not isinstance(values, list | tuple) or any(isinstance(i, bool) or not isinstance(i, Integral) for i in values):
        raise TypeError(f"{name} must be a list of token ids, not {shown(ids)}")
    return [int(i) for i in values]


def _expect(raw: object, how: object) -> None:
    """TypeError where they are of other kinds."""
    expect_flags(raw=raw)
    expect_type("how", how, (Rendering, type(None)), "a Rendering or None")
