"""edgelm as a model of lm-evaluation-harness, so that its tasks can be run on a bundle.

    python -m edgelm.lm_eval --model edgelm --model_args path=BUNDLE --tasks arc_easy

is the harness's ``lm_eval`` command, which knows models of others only once their module is imported. In Python,
``import edgelm.lm_eval`` is enough. Needs ``edgelm[lm-eval]``; agrees with the harness's ``hf`` model on the same
checkpoint in fp32.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from edgelm.errors import DependencyError, EdgeLMError, OptionError
from edgelm.evaluate.likelihood import log_likelihoods, prefix_token
from edgelm.runtime.lm import LM, load
from edgelm.runtime.sample.config import GenerationConfig

try:
    import lm_eval.models  # noqa: F401  the harness registers its own models only while there is none
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError as error:
    missing = DependencyError(f"lm-evaluation-harness cannot be loaded: {error}", hint="pip install 'edgelm[lm-eval]'")
    if sys.argv[0] == "-m":  # Python imports this on its way to the module that it is to run, which cannot say it then
        sys.exit(f"error: {missing}\nhint: {missing.hint}")
    raise missing from None

_LOG = logging.getLogger(__name__)

MOST_ROWS = 64  # answers at once
_GROUP = 16  # answers, for each that is generated at once, after which the harness is told
MAX_TOKENS = 256  # of an answer where a task names no number: the harness's own default

Request = tuple[Any, list[int], list[int]]
"""(What the harness calls it in its cache or None, the ids of the context, those of the continuation)."""


@register_model("edgelm")
class EdgeLM(TemplateLM):  # type: ignore[misc]
    """A bundle.

    Args:
        path: its folder.
        threads: CPU threads; None for what suits this machine.
        max_length: tokens of context and continuation at most; None for the bundle's context.
        batch_size: answers that are generated at once, each as alone; what is scored is scored one after the other.
        max_batch_size, device: the harness hands them to every model; it runs on the CPU or whatever the bundle is for.

    Raises:
        OptionError: max_length or batch_size is out of range.
        BundleError: no bundle there, or it is damaged.
    """

    def __init__(
        self,
        path: str,
        threads: int | None = None,
        max_length: int | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self._together = _rows(batch_size)
        self.lm: LM = load(
            str(path), threads=threads, parallel=self._together if self._together > 1 else None, profile=False
        )
        if max_length is not None and not 2 <= max_length <= self.lm.context:
            raise OptionError(f"max_length must be from 2 to the context of {self.lm.context:,}, not {max_length}")
        self.max_length = max_length or self.lm.context
        self._eos = list(self.lm.bundle.manifest.special_tokens.eos)

    @property
    def eot_token_id(self) -> int:
        """EOS."""
        return prefix_token(None, self._eos)

    @property
    def prefix_token_id(self) -> int:
        """What stands for an empty context: BOS, or EOS where there is none."""
        return prefix_token(self.lm.bundle.manifest.special_tokens.bos, self._eos)

    @property
    def tokenizer_name(self) -> str:
        """Tells the tokenizer from others, for the harness's cache of requests."""
        return str(self.lm.bundle.files["tokenizer.json"].sha256)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source, which the harness keeps with its results."""
        return self.lm.template.source if chat_template and self.lm.template is not None else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text; without `add_generation_prompt` its last message is the beginning of an answer."""
        if self.lm.template is None:
            raise OptionError("this model has no chat template", hint="leave --apply_chat_template out")
        if add_generation_prompt:
            return self.lm.template.render(chat_history)
        *before, last = chat_history
        return self.lm.template.render(before) + last["content"]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text; BOS is not put before one that begins with it."""
        if add_special_tokens is None:
            name = self.lm.tokenizer.id_to_token(self.prefix_token_id)
            add_special_tokens = not (name and string.startswith(name))
        return self.lm.tokenizer.encode(string, special=add_special_tokens)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, those longer than the context in windows that score every token once."""
        totals = []
        for request in tqdm(requests, desc="Rolling log-likelihoods", disable=disable_tqdm):
            (text,) = request.args
            windows = get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(total for total, _ in self._loglikelihood_tokens(pairs, disable_tqdm=True)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, each up to the first of its stop strings."""
        texts: list[str] = []
        size = _GROUP * self._together  # of which some are under way at a time
        with tqdm(total=len(requests), desc="Generating", disable=disable_tqdm) as bar:
            for start in range(0, len(requests), size):
                some = [request.args for request in requests[start : start + size]]
                found = self.lm.complete_ids([self._asked(context, dict(options)) for context, options in some])
                for (context, options), completion in zip(some, found, strict=True):
                    texts.append(completion.text)
                    self.cache_hook.add_partial("generate_until", (context, options), completion.text)
                bar.update(len(some))
        return texts

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Requests of one context stand together, as a task makes them, and what they share is read once."""
        found: list[tuple[float, bool]] = []
        with tqdm(total=len(requests), desc="Log-likelihoods", disable=disable_tqdm) as bar:
            for _, group in groupby(requests, key=lambda request: request[1]):
                together = list(group)
                pairs = [self._cut(context, continuation) for _, context, continuation in together]
                for (name, _, _), likelihood in zip(together, log_likelihoods(self.lm.engine, pairs), strict=True):
                    found.append((likelihood.total, likelihood.greedy))
                    if name is not None:
                        self.cache_hook.add_partial("loglikelihood", name, found[-1])
                bar.update(len(together))
        return found

    def _cut(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """What fits: the end of the context; the last token of all is not read, so that it needs no place."""
        if len(continuation) > self.max_length:
            raise OptionError(
                f"a continuation of {len(continuation):,} tokens is longer than {self.max_length:,}",
                hint="export with a larger --context",
            )
        over = len(context) + len(continuation) - self.max_length - 1
        if over > 0:
            _LOG.warning("a context of %d tokens is cut by %d at its start", len(context), over)
        return context[max(0, over) :], continuation

    def _asked(self, context: str, options: dict[str, Any]) -> tuple[list[int], GenerationConfig]:
        """The ids of a context, as much of its end as fits, and how to go on."""
        stop = options.pop("until", None) or []
        names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
        given = [value for name in names if (value := options.pop(name, None)) is not None]
        most = int(given[0]) if given else MAX_TOKENS
        if not 1 <= most < self.max_length:
            raise OptionError(f"{most} tokens to generate leave no room for a prompt in {self.max_length:,}")
        sampled = bool(options.pop("do_sample", float(options.get("temperature") or 0) > 0))
        ids = self.tok_encode(context)[-(self.max_length - most) :] or [self.prefix_token_id]
        known = ("top_k", "top_p", "min_p", "repetition_penalty", "seed")
        return ids, GenerationConfig(
            max_tokens=most,
            temperature=float(options.get("temperature") or 1.0) if sampled else 0.0,
            stop=tuple([stop] if isinstance(stop, str) else stop),
            **{name: options[name] for name in known if name in options},
        )


def _rows(batch_size: int | str | None) -> int:
    """How many answers at once; ``auto`` is 4, from where on more cost what they bring."""
    if batch_size is None:
        return 1
    text = str(batch_size)
    if text.partition(":")[0] == "auto":
        return 4
    if not text.isdecimal() or not 1 <= int(text) <= MOST_ROWS:
        raise OptionError(f"batch_size must be from 1 to {MOST_ROWS}, or auto, not {batch_size!r}")
    return int(text)


def main() -> None:
    """The harness's command line."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except EdgeLMError as error:
        sys.exit(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
