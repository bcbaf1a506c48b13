"""LM: a loaded model, from a prompt to text."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol

from edgelm.errors import EdgeLMError, OptionError, PromptError
from edgelm.runtime.chat import ChatTemplate
from edgelm.runtime.generate import FinishReason, Interrupt, generate_step
from edgelm.runtime.results import Chunk, Completion, Stopwatch, Timings
from edgelm.runtime.sampling import GenerationConfig, make_sampler
from edgelm.runtime.text import Detokenizer, StopStrings, Tokenizer

if TYPE_CHECKING:
    from edgelm.bundle import Bundle
    from edgelm.runtime.engine import Engine

__all__ = ["LM", "Chunk", "Completion", "Timings", "load"]

Prompt = str | Sequence[Mapping[str, Any]]


class CancelEvent(Protocol):
    """What can cancel a generation, such as a ``threading.Event``."""

    def is_set(self) -> bool:
        """Whether to end now."""


class LM:
    """A model ready to run. One generation at a time; use it as a context manager, or call `close`.

    Args:
        engine: runs the graph.
        tokenizer: of the same model.
        bundle: where both come from.
        template: the model's chat template, or None.
        config: the options where a call names none.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        bundle: Bundle,
        template: ChatTemplate | None,
        config: GenerationConfig,
    ) -> None:
        self.engine, self.tokenizer, self.bundle = engine, tokenizer, bundle
        self.template, self.config = template, config
        self._eos = frozenset(int(i) for i in bundle.manifest["special_tokens"]["eos"])
        self._cached: list[int] = []  # ids whose keys and values are in the engine's cache
        self._busy = threading.Lock()
        self._closing = self._closed = False

    @property
    def context(self) -> int:
        """The longest prompt plus completion, in tokens."""
        return self.engine.context

    def encode_prompt(self, prompt: Prompt, *, raw: bool = False) -> list[int]:
        """The ids of a prompt.

        Args:
            prompt: a str, taken as the user's message where the model has a chat template, or a list of messages.
            raw: take a str as it is.

        Raises:
            PromptError: empty, malformed, longer than the context, or messages for a model without a template.
        """
        if isinstance(prompt, str):
            wrapped = self.template is not None and not raw
            ids = self._encode_messages([{"role": "user", "content": prompt}]) if wrapped else self._encode_raw(prompt)
        elif raw:
            raise PromptError(
                "raw needs a str prompt, not messages", hint="leave raw out, or render the messages first"
            )
        else:
            ids = self._encode_messages(prompt)
        if len(ids) > self.context:
            raise PromptError(
                f"the prompt has {len(ids):,} tokens, this bundle's context is {self.context:,}",
                hint="shorten the prompt, or export with a larger --context",
            )
        if ids and max(ids) >= self.engine.vocab_size:
            raise PromptError(f"the tokenizer gives id {max(ids)}, the model knows {self.engine.vocab_size:,} tokens")
        return ids

    def _encode_raw(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(text)
        if not ids and self.tokenizer.bos is not None:
            return [self.tokenizer.bos]
        if not ids:
            raise PromptError("the prompt is empty and this model has no BOS token to start from")
        return ids

    def _encode_messages(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        if self.template is None:
            raise PromptError(
                "this model has no chat template, so it takes no messages", hint="give the prompt as one str"
            )
        # As transformers does: a template writes BOS itself where the model wants it.
        ids = self.tokenizer.encode(self.template.render(messages), special=False)
        if not ids:
            raise PromptError("the chat template makes an empty prompt of these messages")
        return ids

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        raw: bool = False,
        deadline: float | None = None,
        cancel: CancelEvent | None = None,
        reuse_cache: bool = True,
    ) -> Generator[Chunk, None, None]:
        """Generate text piece by piece. All arguments are checked here, before the first chunk is asked for.

        The KV cache of the last generation is reused as far as the new prompt begins with the same ids. Logits can
        then differ in the last digits from those of one long prefill, as between any two batch sizes: pass
        ``reuse_cache=False`` where a seed must give the same text whatever ran before.

        Args:
            prompt: see `encode_prompt`.
            max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop: see `GenerationConfig`; None
                leaves the model's default. A stop string ends the text and is not part of it.
            raw: give a str prompt to the model without the chat template.
            deadline: seconds from now after which the generation ends with what it has.
            cancel: ends the generation once it is set.
            reuse_cache: False computes the whole prompt anew.

        Yields:
            `Chunk`; the last one carries `finish_reason` and `timings`. Closing the generator early is safe.

        Raises:
            PromptError, OptionError: a bad argument.
            EdgeLMError: at the first chunk, where another generation is under way on this LM; or it is closed.
        """
        started = time.perf_counter()
        if self._closing:
            raise EdgeLMError("this LM is closed")
        config = self.config.replace(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
        )
        interrupt = self._interrupt(started, deadline, cancel)
        ids = self.encode_prompt(prompt, raw=raw)
        request = _Request(ids, config, interrupt, reuse_cache, time.perf_counter() - started)
        return self._run(request)

    def generate(self, prompt: Prompt, **options: Any) -> Completion:
        """Generate a whole text; the arguments are those of `stream`.

        Raises:
            PromptError, OptionError: a bad argument.
            EdgeLMError: another generation is under way on this LM, or it is closed.
        """
        chunks = list(self.stream(prompt, **options))
        reason, timings = chunks[-1].finish_reason, chunks[-1].timings
        assert reason is not None
        assert timings is not None
        tokens = tuple(token for chunk in chunks for token in chunk.tokens)
        return Completion("".join(chunk.text for chunk in chunks), tokens, reason, timings)

    def close(self) -> None:
        """Free the model. A generation under way ends as ``cancelled`` at its next token, and frees it then."""
        self._closing = True
        self._free()

    def __enter__(self) -> LM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _free(self) -> None:
        if self._closed or not self._busy.acquire(blocking=False):
            return
        try:
            self._closed = True
            self.engine.close()
        finally:
            self._busy.release()

    def _interrupt(self, started: float, deadline: float | None, cancel: CancelEvent | None) -> Interrupt:
        if deadline is not None and (
            isinstance(deadline, bool) or not isinstance(deadline, int | float) or not deadline > 0
        ):
            raise OptionError(f"deadline must be a number of seconds above 0, not {deadline!r}")
        if cancel is not None and not hasattr(cancel, "is_set"):
            raise OptionError(f"cancel must be a threading.Event or have is_set(), not {type(cancel).__name__}")

        def interrupt() -> FinishReason | None:
            if self._closing or (cancel is not None and cancel.is_set()):
                return "cancelled"
            return "deadline" if deadline is not None and time.perf_counter() - started >= deadline else None

        return interrupt

    def _run(self, request: _Request) -> Generator[Chunk, None, None]:
        if not self._busy.acquire(blocking=False):
            raise EdgeLMError(
                "this LM is busy with another generation", hint="finish or close that one, or load the bundle again"
            )
        try:
            if self._closing:
                raise EdgeLMError("this LM is closed")
            last = yield from self._chunks(request)
        finally:
            self._busy.release()
            if self._closing:
                self._free()
        yield last  # the model is free by now, also for a caller who stops reading at the finish_reason

    def _chunks(self, request: _Request) -> Generator[Chunk, None, Chunk]:
        """Yield every chunk but the last, and return that one."""
        history, pending, text = list(request.ids), list[int](), ""
        watch = Stopwatch(len(history), self._reuse(history if request.reuse_cache else []), request.encode_seconds)
        writer = _Writer(self.tokenizer, request.config.stop)
        steps = generate_step(
            self.engine,
            request.ids,
            make_sampler(request.config),
            max_tokens=request.config.max_tokens,
            eos=self._eos,
            interrupt=request.interrupt,
            progress=watch.prefilled,
        )
        try:
            while True:
                watch.start()
                step = _next(steps)
                if isinstance(step, str):
                    break
                watch.token()
                history.append(step)
                pending.append(step)
                text = writer.push(step)
                if writer.stopped:
                    step = "stop"
                    break
                if text:
                    yield Chunk(text, tuple(pending))
                    pending, text = [], ""
            text += writer.flush()
        except GeneratorExit:
            raise
        except BaseException:  # the cache may hold half a step
            history.clear()
            with contextlib.suppress(Exception):
                self.engine.reset()
            raise
        finally:
            steps.close()
            self._cached = history[: self.engine.position] if history else []
        return Chunk(text, tuple(pending), "stop" if writer.stopped else step, watch.timings())

    def _reuse(self, ids: list[int]) -> int:
        """Rewind the engine to what its cache has in common with `ids`, at least one token short of all of them."""
        if self.engine.position != len(self._cached):  # someone else has used the engine
            self._cached = []
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._cached, ids[:-1], strict=False)))
        if same:
            self.engine.rewind(same)
        else:
            self.engine.reset()
        return same


def load(path: str | PathLike[str], *, threads: int | None = None) -> LM:
    """Load the bundle in the folder `path`.

    Args:
        path: the folder.
        threads: CPU threads; None takes what suits this machine.

    Raises:
        BundleError: no bundle there, or it is damaged.
        OptionError, DeviceError: it cannot run so, or not here.
    """
    from edgelm.bundle import Bundle
    from edgelm.runtime.engine import Engine

    bundle = Bundle.open(path)
    names = bundle.manifest["tokenizer"]
    bos = bundle.manifest["special_tokens"]["bos"]
    tokenizer = Tokenizer.open(bundle.tokenizer_path, bos=bos, add_bos=names.get("add_bos"))
    tokens = {name: token for name, token in names.items() if isinstance(token, str)}
    template = None if bundle.chat_template is None else ChatTemplate(bundle.chat_template, tokens)
    config = GenerationConfig.from_hf(bundle.generation_config)
    return LM(Engine.load(bundle, threads=threads), tokenizer, bundle, template, config)


@dataclass(frozen=True)
class _Request:
    ids: list[int]
    config: GenerationConfig
    interrupt: Interrupt
    reuse_cache: bool
    encode_seconds: float


class _Writer:
    """Ids to text that may be shown: detokenised, up to the first stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        return self._stops.matched is not None

    def push(self, token: int) -> str:
        return self._stops.push(self._detokenizer.push(token))

    def flush(self) -> str:
        return self._stops.push(self._detokenizer.flush()) + self._stops.flush()


def _next(steps: Generator[int, None, FinishReason]) -> int | FinishReason:
    try:
        return next(steps)
    except StopIteration as end:
        reason: FinishReason = end.value
        return reason
