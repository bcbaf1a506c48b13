"""One request for a generation, its arguments checked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Protocol

from edgelm.bundle.json_table import shown
from edgelm.errors import OptionError, expect_flags, unexpected_keyword
from edgelm.runtime.loop.generate import FinishReason, Interrupt, Limits
from edgelm.runtime.sample.config import GenerationConfig, SamplingOptions
from edgelm.runtime.text.prompt import Rendering

if TYPE_CHECKING:
    from edgelm.runtime.loop.structured import Grammar
    from edgelm.runtime.lora_adapter import RuntimeAdapter
    from edgelm.runtime.model import Sequence as TextSequence
    from edgelm.runtime.sample.token_healing import Healing


class CancelEvent(Protocol):
    """What can cancel a generation, such as a ``threading.Event``."""

    def is_set(self) -> bool:
        """Whether to end now."""


class Options(SamplingOptions, total=False):
    """What a generation may be told; an option left out, or None, is the model's default.

    Those of `SamplingOptions`, and:

    Attributes:
        raw: give a str prompt to the model without the chat template.
        parse_special: take names of special tokens in messages as those tokens. By default the text of a message is text:
            a user who writes ``<|im_end|>`` ends no turn. Raw prompts are always taken so.
        tools: JSON schemas of functions the model may call, for its chat template.
        template: name of the chat template to use, of a model that has several; None for ``tool_use`` where there are
            `tools` and it has one, else its default.
        template_args: what else the chat template knows by name, such as ``{"enable_thinking": False}``: JSON values.
        deadline: seconds from now after which the generation ends with what it has.
        cancel: ends the generation once it is set.
        reuse_cache: False computes the whole prompt anew.
        speculate: ``on`` drafts tokens from the text so far, or by the draft model where there is one, and verifies
            several in one pass, while that pays; ``off`` does not. ``auto`` does where the text stays what it is without:
            see `speculates`.
        json_schema, regex, choice: the grammar of the text, at most one of them; see `Grammars.grammar`. The text ends
            where the grammar does; one that `max_tokens` or a stop string cuts short is the beginning of such a text.
        answer_grammar: False leaves answers free where the bundle names a grammar for them (`Bundle.answer_grammar`), to
            which those to chats are held by default: where llguidance is installed and neither another grammar, tools nor
            an adapter is given. True where they must be.
        logprobs, top_logprobs: whether results carry how likely each token was, and how many of the most likely others
            at its place; see `TokenLogprob`. They cost a little time, and all tokens are sampled then.
        echo: whether the text begins with the prompt's, as the model is given it.
        token_healing: whether the last token of a raw prompt may be exchanged for a longer one that begins with it.
        adapter: the file of a LoRA adapter made for this bundle (`edgelm.export_adapter`) to compute with. What is in
            the KV cache is used again only by requests with the same one.
    """

    raw: bool | None
    parse_special: bool | None
    tools: Sequence[Mapping[str, Any]] | None
    template: str | None
    template_args: Mapping[str, Any] | None
    deadline: float | None
    cancel: CancelEvent | None
    reuse_cache: bool | None
    speculate: Literal["auto", "on", "off"] | None
    json_schema: Mapping[str, Any] | bool | str | None
    regex: str | None
    choice: Sequence[str] | None
    answer_grammar: bool | None
    logprobs: bool | None
    top_logprobs: int | None
    echo: bool | None
    token_healing: bool | None
    adapter: str | PathLike[str] | None


@dataclass(frozen=True)
class Request:
    """What is to be generated.

    Attributes:
        sequence: where the prompt is read and continued.
        ids: of the prompt.
        config: the options.
        limits: when the text ends.
        reuse_cache: whether what the KV cache has in common with the prompt need not be computed.
        encode_seconds: what making the ids took.
        speculate: whether tokens are drafted.
        grammar: constrains the text, or None.
        logprobs: how many alternatives are wanted with every token; None for no log-probabilities.
        echo: text that comes before the completion.
        healing: of the prompt's end, whose last token `ids` lack then.
        cancelled: ends the generation once it is set.
        adapter: to compute with, or None.
    """

    sequence: TextSequence
    ids: list[int]
    config: GenerationConfig
    limits: Limits
    reuse_cache: bool
    encode_seconds: float
    speculate: bool = False
    grammar: Grammar | None = None
    logprobs: int | None = None
    echo: str = ""
    healing: Healing | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    adapter: RuntimeAdapter | None = None


def make_interrupt(
    started: float, deadline: float | None, cancel: CancelEvent | None, cancelled: Callable[[], bool]
) -> Interrupt:
    """What ends a generation before its time.

    Args:
        started: when it began, by ``time.perf_counter``.
        deadline: seconds after that, or None.
        cancel: the caller's event, or None.
        cancelled: any other reason to be cancelled.

    Raises:
        OptionError: `deadline` or `cancel` is of the wrong kind.
    """
    if deadline is not None and (
        isinstance(deadline, bool) or not isinstance(deadline, int | float) or not deadline > 0
    ):
        raise OptionError(f"deadline must be a number of seconds above 0, not {shown(deadline)}")
    expect_event(cancel)

    def interrupt() -> FinishReason | None:
        if cancelled() or (cancel is not None and cancel.is_set()):
            return "cancelled"
        return "deadline" if deadline is not None and time.perf_counter() - started >= deadline else None

    return interrupt


def expect_event(cancel: object) -> None:
    """OptionError where nothing can be cancelled by it."""
    if cancel is not None and (isinstance(cancel, type) or not callable(getattr(cancel, "is_set", None))):
        raise OptionError(f"cancel must be a threading.Event or have is_set(), not {type(cancel).__name__}")


_FLAGS = ("raw", "parse_special", "reuse_cache", "echo", "token_healing", "answer_grammar")
_SAMPLING = frozenset(field.name for field in fields(GenerationConfig))


def split_options(options: Options) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that belong to `GenerationConfig`, and the others; those that are None are left out.

    Raises:
        TypeError: an option has an unknown name, or one that is True or False another value.
    """
    for name in options:
        if name not in Options.__annotations__:
            raise unexpected_keyword(name, Options.__annotations__)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    expect_flags(**{name: given[name] for name in _FLAGS if name in given})
    sampling = {name: given.pop(name) for name in list(given) if name in _SAMPLING}
    return sampling, given


def rendering(options: Mapping[str, Any]) -> Rendering:
    """How messages become a prompt.

    Raises:
        OptionError: an option is of the wrong kind.
    """
    tools, template = options.get("tools"), options.get("template")
    if tools is not None and (
        isinstance(tools, str | bytes | Mapping)
        or not isinstance(tools, Sequence)
        or not all(isinstance(tool, Mapping) for tool in tools)
    ):
        raise OptionError(f"tools must be a list of JSON schemas, not {shown(tools)}")
    if template is not None and not isinstance(template, str):
        raise OptionError(f"template must be the name of a chat template, not {shown(template)}")
    variables = options.get("template_args", {})
    if not isinstance(variables, Mapping) or not all(isinstance(name, str) for name in variables):
        raise OptionError(f"template_args must be a dict of names and values, not {shown(variables)}")
    if taken := sorted({"messages", "tools", "documents", "add_generation_prompt"} & variables.keys()):
        raise OptionError(f"template_args cannot set {taken[0]!r}: it is given to every template")
    return Rendering(bool(options.get("parse_special", False)), tools, template, variables)


def check_bias(config: GenerationConfig, vocab_size: int) -> None:
    """OptionError where a biased token is none of the model's."""
    if config.logit_bias and config.logit_bias[-1][0] >= vocab_size:
        raise OptionError(f"logit_bias: the model has no token {config.logit_bias[-1][0]}, but {vocab_size:,} of them")


def speculates(speculate: str, config: GenerationConfig, *, exact: bool) -> bool:
    """Whether to draft tokens.

    A pass over several tokens adds up in another order than a pass over one: in attention, the last digits differ. Where
    activations are rounded to 8 bits, some of them are rounded to the other side then, and from layer to layer that grows to
    what rounding costs by itself. So with ``auto`` a greedy text is drafted only where passes are `exact`, and a sampled one
    only without a seed, which promises the same text again.

    Args:
        speculate: ``auto``, ``on`` or ``off``.
        config: the options.
        exact: whether passes over one and over several tokens agree but for last digits.

    Raises:
        OptionError: `speculate` is none of these.
    """
    if not isinstance(speculate, str) or speculate not in ("auto", "on", "off"):
        raise OptionError(f"speculate must be 'auto', 'on' or 'off', not {shown(speculate)}")
    if speculate == "off" or config.max_tokens <= 2:
        return False
    return speculate == "on" or (exact if config.temperature == 0 else config.seed is None)
