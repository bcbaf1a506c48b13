"""From what a caller gives as a prompt to ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelm.errors import PromptError
from edgelm.runtime.text.chat import ChatTemplate
from edgelm.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgelm.bundle.manifest import SpecialTokens, TokenizerFacts
    from edgelm.bundle.reader import Bundle

Prompt = str | Sequence[Mapping[str, Any]]


def text_tools(bundle: Bundle) -> tuple[Tokenizer, ChatTemplate | None]:
    """The tokenizer of a bundle, and its chat template where it has one."""
    manifest = bundle.manifest
    return open_text(bundle.tokenizer_path, bundle.chat_template, manifest.tokenizer, manifest.special_tokens)


def open_text(
    path: Path, template: str | None, facts: TokenizerFacts, special: SpecialTokens
) -> tuple[Tokenizer, ChatTemplate | None]:
    """The tokenizer in the file `path`, and the chat template of that source, by what a manifest says of them."""
    tokenizer = Tokenizer.open(path, bos=special.bos, add_bos=facts.add_bos)
    return tokenizer, None if template is None else ChatTemplate(template, facts.names)


def open_tokenizer(bundle: Bundle) -> Tokenizer:
    """The tokenizer of a bundle, without its template."""
    manifest = bundle.manifest
    return open_text(bundle.tokenizer_path, None, manifest.tokenizer, manifest.special_tokens)[0]


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

    def encode(self, prompt: Prompt, *, raw: bool = False) -> list[int]:
        """The ids of a prompt; see `LM.encode_prompt`."""
        if isinstance(prompt, str) and (raw or self._template is None):
            ids = self._encode_raw(prompt)
        else:
            # As transformers does: a template writes BOS itself where the model wants it.
            ids = self._tokenizer.encode(self._render(prompt, raw), special=False)
            if not ids:
                raise PromptError("the chat template makes an empty prompt of these messages")
        if len(ids) > self._context:
            raise PromptError(
                f"the prompt has {len(ids):,} tokens, this bundle's context is {self._context:,}",
                hint="shorten the prompt, or export with a larger --context",
            )
        if ids and max(ids) >= self._vocab_size:
            raise PromptError(f"the tokenizer gives id {max(ids)}, the model knows {self._vocab_size:,} tokens")
        return ids

    def text(self, prompt: Prompt, *, raw: bool = False) -> str:
        """The text that `encode` turns into ids."""
        return prompt if isinstance(prompt, str) and (raw or self._template is None) else self._render(prompt, raw)

    def _encode_raw(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text)
        if not ids and self._tokenizer.bos is not None:
            return [self._tokenizer.bos]
        if not ids:
            raise PromptError("the prompt is empty and this model has no BOS token to start from")
        return ids

    def _render(self, prompt: Prompt, raw: bool) -> str:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if raw:
            raise PromptError(
                "raw needs a str prompt, not messages", hint="leave raw out, or render the messages first"
            )
        if self._template is None:
            raise PromptError(
                "this model has no chat template, so it takes no messages", hint="give the prompt as one str"
            )
        return self._template.render(messages)
