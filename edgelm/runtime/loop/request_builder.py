"""From a prompt and options to a request: everything is checked here, before the first pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from edgelm.bundle.answer_grammar import EXTRA, KINDS, PACKAGE, installed
from edgelm.bundle.reader import ANSWERS
from edgelm.errors import DependencyError, OptionError
from edgelm.runtime.loop.generate import Limits
from edgelm.runtime.loop.request import (
    Options,
    Request,
    check_bias,
    make_interrupt,
    rendering,
    speculates,
    split_options,
)
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.sample.logprobs import wanted
from edgelm.runtime.text.chat import ChatTemplate
from edgelm.runtime.text.prompt import Prompt, PromptEncoder
from edgelm.runtime.text.tokenizer import Tokenizer
from edgelm.target.operators import round_activations

if TYPE_CHECKING:
    from edgelm.bundle.reader import Bundle
    from edgelm.runtime.loop.own_grammar import OwnGrammar
    from edgelm.runtime.loop.structured import Grammar, Grammars
    from edgelm.runtime.lora_adapter import AdapterCache, RuntimeAdapter
    from edgelm.runtime.model import LoadedModel
    from edgelm.runtime.model import Sequence as TextSequence
    from edgelm.runtime.sample.token_healing import Healing


class RequestBuilder:
    """Makes the requests of one model; grammars and adapters that it was asked for before are at hand.

    Args:
        model: whose context and vocabulary prompts must fit.
        tokenizer: of the same model.
        bundle: where both come from.
        template: the model's chat template, or None.
        config: the options where a request names none.
        drafts: whether a draft model was loaded, which asks for speculation.
    """

    def __init__(
        self,
        model: LoadedModel,
        tokenizer: Tokenizer,
        bundle: Bundle,
        template: ChatTemplate | None,
        config: GenerationConfig,
        *,
        drafts: bool = False,
    ) -> None:
        self.bundle, self.config = bundle, config
        self.context, self.vocab_size = model.context, model.vocab_size
        self._exact = drafts or not round_activations(bundle.manifest.recipe.operators)
        self.eos = frozenset(bundle.manifest.special_tokens.eos)
        self.prompts = PromptEncoder(tokenizer, template, model.context, model.vocab_size)
        self.tokenizer, self._template = tokenizer, template
        self._own = bundle.answer_grammar
        self._grammars: Grammars | None = None
        self._answers: OwnGrammar | None = None
        self._adapters: AdapterCache | None = None

    def build(self, prompt: Prompt, options: Options, sequence: TextSequence) -> Request:
        """A request to continue a prompt in a sequence.

        Raises:
            PromptError, OptionError, AdapterError: a bad argument.
            TaskError: the bundle embeds texts.
        """
        self.bundle.expect_generator()
        started = time.perf_counter()
        sampling, others = split_options(options)
        config, cancelled = self.config.replace(**sampling), threading.Event()
        check_bias(config, self.vocab_size)
        interrupt = make_interrupt(started, others.get("deadline"), others.get("cancel"), cancelled.is_set)
        logprobs = wanted(others.get("logprobs"), others.get("top_logprobs"))
        raw = others.get("raw", False)
        grammar = self._grammar(prompt, others, raw=raw, forces=logprobs is None)  # compiled while the prompt is made
        how = rendering(others)
        ids = self.prompts.encode(prompt, raw=raw, how=how)
        healing = self._heal(ids, others, raw) if others.get("token_healing") else None
        return Request(
            sequence=sequence,
            ids=ids if healing is None else ids[:-1],
            config=config,
            limits=Limits(config.max_tokens, self.eos, interrupt),
            reuse_cache=others.get("reuse_cache", True),
            speculate=speculates(others.get("speculate", "auto"), config, exact=self._exact),
            grammar=grammar,
            logprobs=logprobs,
            echo=self.prompts.text(prompt, raw=raw, how=how) if others.get("echo") else "",
            healing=healing,
            cancelled=cancelled,
            encode_seconds=time.perf_counter() - started,
            adapter=self.adapter(others.get("adapter")),
        )

    def of_ids(self, ids: Sequence[int], config: GenerationConfig, sequence: TextSequence) -> Request:
        """A request to continue ids that the caller made, computed anew whatever is cached."""
        cancelled = threading.Event()
        interrupt = make_interrupt(time.perf_counter(), None, None, cancelled.is_set)
        limits = Limits(config.max_tokens, self.eos, interrupt)
        return Request(sequence, list(ids), config, limits, reuse_cache=False, encode_seconds=0.0, cancelled=cancelled)

    def adapter(self, path: str | PathLike[str] | None) -> RuntimeAdapter | None:
        """The adapter in a file, checked to be this bundle's; one that was used before is not read again. None for None.

        Raises:
            AdapterError: no adapter, a damaged one, or one made for another base.
        """
        if path is None:
            return None
        from edgelm.runtime.lora_adapter import AdapterCache

        if self._adapters is None:
            self._adapters = AdapterCache(self.bundle)
        return self._adapters.get(path)

    def _heal(self, ids: list[int], options: Mapping[str, Any], raw: bool) -> Healing | None:
        from edgelm.runtime.sample.token_healing import heal

        if not raw and self._template is not None:
            raise OptionError("token_healing needs raw=True: behind a chat template no prompt ends within a word")
        if any(name in options for name in KINDS):
            raise OptionError("token_healing and constrained decoding exclude each other")
        return heal(self.tokenizer, ids, self.vocab_size)

    def _grammar(self, prompt: Prompt, options: Mapping[str, Any], *, raw: bool, forces: bool) -> Grammar | None:
        given = {name: options[name] for name in KINDS if name in options}
        asked, chats = options.get("answer_grammar"), self.prompts.chats and not raw
        if asked and (given or not chats or self._own is None):
            what = "it excludes another one" if given else "a raw prompt has none" if raw else "this bundle names none"
            raise OptionError(f"answer_grammar holds a chat's answers to the model's own grammar: {what}")
        if given:
            return self._compiler().grammar(**given, forces=forces)
        # Tools are called in other ways, and an adapter makes another model of it.
        other = not chats or "tools" in options or "adapter" in options
        return self._own_grammar(prompt, bool(asked)) if asked or not (asked is False or other) else None

    def _own_grammar(self, prompt: Prompt, asked: bool) -> Grammar | None:
        """That of the model's answers, where there is one and what holds to it."""
        if self._own is None:
            return None
        from edgelm.runtime.loop.own_grammar import OwnGrammar

        if self._answers is None:
            if not installed():
                if asked:
                    raise DependencyError(
                        f"answer_grammar needs {PACKAGE}", hint=f"install it with: pip install '{EXTRA}'"
                    )
                return None
            self._answers = OwnGrammar(self._own, self._compiler(), str(self.bundle.path / ANSWERS))
        return self._answers.grammar(prompt)

    def _compiler(self) -> Grammars:
        from edgelm.runtime.loop.structured import Grammars

        if self._grammars is None:
            self._grammars = Grammars(self.tokenizer, self.eos, self.vocab_size)
        return self._grammars
