"""LM: a loaded model, from a prompt to text."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Unpack, overload

from edgelm.errors import EdgeLMError, OptionError
from edgelm.runtime.loop.asynchronous import each
from edgelm.runtime.loop.chunks import generate_chunks
from edgelm.runtime.loop.completions import complete
from edgelm.runtime.loop.request import Options, Request, check_bias, make_interrupt, speculates, split_options
from edgelm.runtime.loop.results import Chunk, Completion, Timings
from edgelm.runtime.loop.speculation import PassCost
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.sample.logprobs import wanted
from edgelm.runtime.session import Session
from edgelm.runtime.text.chat import ChatTemplate
from edgelm.runtime.text.prompt import Prompt, PromptEncoder, text_tools
from edgelm.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgelm.bundle.reader import Bundle
    from edgelm.runtime.engine import Engine, KVState
    from edgelm.runtime.loop.draft import DraftModel
    from edgelm.runtime.loop.structured import Grammar, Grammars
    from edgelm.runtime.lora_adapter import AdapterCache, RuntimeAdapter
    from edgelm.runtime.ort.packing import OnBytes
    from edgelm.runtime.ort.weightcache import WeightCache
    from edgelm.runtime.sample.token_healing import Healing

__all__ = ["LM", "Chunk", "Completion", "Timings", "load"]


class LM:
    """A model ready to run. One generation at a time; use it as a context manager, or call `close`.

    Args:
        engine: runs the graph.
        tokenizer: of the same model.
        bundle: where both come from.
        template: the model's chat template, or None.
        config: the options where a call names none.
        draft: a small model that guesses tokens, or None; it becomes the LM's.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        bundle: Bundle,
        template: ChatTemplate | None,
        config: GenerationConfig,
        draft: DraftModel | None = None,
    ) -> None:
        self.engine, self.tokenizer, self.bundle = engine, tokenizer, bundle
        self.template, self.config, self.draft = template, config, draft
        self._eos = frozenset(bundle.manifest.special_tokens.eos)
        self._prompts = PromptEncoder(tokenizer, template, engine.context, engine.vocab_size)
        self._cost = PassCost()
        self._grammars: Grammars | None = None
        self._adapters: AdapterCache | None = None
        self._running: threading.Event | None = None  # cancels the generation under way
        self._busy = threading.Lock()
        self._closing = self._closed = False

    @property
    def context(self) -> int:
        """The longest prompt plus completion, in tokens."""
        return self.engine.context

    @property
    def tokens(self) -> Sequence[int]:
        """The ids whose keys and values are in the cache."""
        return tuple(self.engine.tokens)

    def encode_prompt(self, prompt: Prompt, *, raw: bool = False) -> list[int]:
        """The ids of a prompt.

        Args:
            prompt: a str, taken as the user's message where the model has a chat template, or a list of messages.
            raw: take a str as it is.

        Raises:
            PromptError: empty, malformed, longer than the context, or messages for a model without a template.
        """
        return self._prompts.encode(prompt, raw=raw)

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> Generator[Chunk, None, None]:
        """Generate text piece by piece. All arguments are checked here, before the first chunk is asked for.

        The KV cache of the last generation is reused as far as the new prompt begins with the same ids. Logits can
        then differ in the last digits from those of one long prefill, as between any two batch sizes: pass
        ``reuse_cache=False`` where a seed must give the same text whatever ran before.

        Args:
            prompt: see `encode_prompt`.
            options: see `Options`.

        Yields:
            `Chunk`; the last one carries `finish_reason` and `timings`. Closing the generator early is safe.

        Raises:
            PromptError, OptionError: a bad argument.
            EdgeLMError: at the first chunk, where another generation is under way on this LM; or it is closed.
        """
        return self._run(self._request(prompt, options))

    @overload
    def generate(self, prompt: Prompt, *, n: None = None, **options: Any) -> Completion: ...

    @overload
    def generate(self, prompt: Prompt, *, n: int, **options: Any) -> list[Completion]: ...

    def generate(self, prompt: Prompt, *, n: int | None = None, **options: Any) -> Completion | list[Completion]:
        """Generate a whole text; the arguments are those of `stream`.

        Args:
            prompt: see `encode_prompt`.
            n: how many completions of the prompt, which is computed once; None for a single one, not in a list. Their
                seeds are `seed`, `seed` + 1, … . Those after one that was cancelled or met its deadline are left out.
            options: see `Options`.

        Raises:
            PromptError, OptionError: a bad argument.
            EdgeLMError: another generation is under way on this LM, or it is closed.
        """
        return complete(self.stream, self.config, prompt, n, options)

    def astream(self, prompt: Prompt, **options: Unpack[Options]) -> AsyncGenerator[Chunk, None]:
        """`stream` for ``async for``: the model computes in a thread. Leaving the loop early ends the generation."""
        return each(self._request(prompt, options), self._run)

    async def agenerate(self, prompt: Prompt, **options: Unpack[Options]) -> Completion:
        """`generate` to ``await``, one completion; cancelling the task ends the generation."""
        return Completion.join([chunk async for chunk in self.astream(prompt, **options)])

    def cancel(self) -> None:
        """End the generation under way, if any, as ``cancelled`` before its next pass; from any thread."""
        running = self._running
        if running is not None:
            running.set()

    def session(self) -> Session:
        """A conversation with a KV cache of its own, which can be saved and loaded."""
        return Session(self)

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
            if self.draft is not None:
                self.draft.close()
        finally:
            self._busy.release()

    def _request(self, prompt: Prompt, options: Options, state: KVState | None = None) -> Request:
        """A request with everything checked."""
        started = time.perf_counter()
        if self._closing:
            raise EdgeLMError("this LM is closed")
        sampling, others = split_options(options)
        config, cancelled = self.config.replace(**sampling), threading.Event()
        check_bias(config, self.engine.vocab_size)
        logprobs = wanted(others.get("logprobs"), others.get("top_logprobs"))
        raw = others.get("raw", False)
        ids = self.encode_prompt(prompt, raw=raw)
        healing = self._heal(ids, others, raw) if others.get("token_healing") else None
        return Request(
            interrupt=make_interrupt(
                started, others.get("deadline"), others.get("cancel"), lambda: self._closing or cancelled.is_set()
            ),
            ids=ids if healing is None else ids[:-1],
            config=config,
            reuse_cache=others.get("reuse_cache", True),
            speculate=speculates(others.get("speculate", "auto"), config),
            grammar=self._grammar(others, forces=logprobs is None),
            logprobs=logprobs,
            echo=self._prompts.text(prompt, raw=raw) if others.get("echo") else "",
            healing=healing,
            cancelled=cancelled,
            encode_seconds=time.perf_counter() - started,
            state=state,
            adapter=self.open_adapter(others.get("adapter")),
        )

    def open_adapter(self, path: str | PathLike[str] | None) -> RuntimeAdapter | None:
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

        if not raw and self.template is not None:
            raise OptionError("token_healing needs raw=True: behind a chat template no prompt ends within a word")
        if any(name in options for name in ("json_schema", "regex", "choice")):
            raise OptionError("token_healing and a form of the text exclude each other")
        return heal(self.tokenizer, ids, self.engine.vocab_size)

    def _grammar(self, options: Mapping[str, Any], *, forces: bool) -> Grammar | None:
        forms = {name: options[name] for name in ("json_schema", "regex", "choice") if name in options}
        if not forms:
            return None
        from edgelm.runtime.loop.structured import Grammars

        if self._grammars is None:
            self._grammars = Grammars(self.tokenizer, self._eos, self.engine.vocab_size)
        return self._grammars.grammar(**forms, forces=forces)

    @contextlib.contextmanager
    def _using(self, state: KVState | None = None, cancelled: threading.Event | None = None) -> Iterator[None]:
        """The engine for this block alone, reading into `state`; `cancel` sets `cancelled`."""
        if not self._busy.acquire(blocking=False):
            raise EdgeLMError(
                "this LM is busy with another generation", hint="finish or close that one, or load the bundle again"
            )
        try:
            if self._closing:
                raise EdgeLMError("this LM is closed")
            self._running = cancelled
            before = None if state is None else self.engine.use(state)
            try:
                yield
            finally:
                if before is not None:
                    self.engine.use(before)
                if self.draft is not None:
                    self.draft.use(None)  # a closed session's cache must not stay
        finally:
            self._running = None
            self._busy.release()
            if self._closing:
                self._free()

    def _run(self, request: Request) -> Generator[Chunk, None, None]:
        with self._using(request.state, request.cancelled):
            self.engine.adapt(request.adapter)
            last = yield from generate_chunks(self.engine, self.tokenizer, self._eos, request, self._cost, self.draft)
        yield last  # the model is free by now, also for a caller who stops reading at the finish_reason


def load(
    path: str | PathLike[str],
    *,
    threads: int | None = None,
    prefill_threads: int | None = None,
    max_memory_mb: float | None = None,
    weight_cache: WeightCache | bool = True,
    on_bytes: OnBytes | None = None,
    draft: str | PathLike[str] | None = None,
) -> LM:
    """Load the bundle in the folder `path`.

    Args:
        path: the folder.
        threads: CPU threads; None takes what suits this machine.
        prefill_threads: for prompts; None takes what suits this machine, or `threads` where that is given.
        max_memory_mb: what the process may take, in 10^6 bytes, by the manifest's figures: the context shrinks to what
            fits, and sessions share it. None for no ceiling.
        weight_cache: True keeps the weights, as this processor wants them, in the user's cache, where the first load
            writes them and others map them; False does without; a `WeightCache` is another folder or limit.
        on_bytes: called with (bytes done, bytes in all) while the cache is being filled.
        draft: the folder of a smaller bundle with the same tokens, whose guesses this one checks several at a time: the
            same text, faster, where it guesses well. None for none.

    Raises:
        BundleError: no bundle there, or it is damaged.
        OptionError, DeviceError: it cannot run so, or not here.
    """
    from edgelm.bundle.reader import Bundle
    from edgelm.runtime.engine import Engine

    bundle = Bundle.open(path)
    tokenizer, template = text_tools(bundle)
    config = GenerationConfig.from_hf(bundle.generation_config)
    loading: dict[str, Any] = {"threads": threads, "prefill_threads": prefill_threads, "max_memory_mb": max_memory_mb}
    loading |= {"weight_cache": weight_cache, "on_bytes": on_bytes}
    if draft is None:
        return LM(Engine.load(bundle, **loading), tokenizer, bundle, template, config)
    from edgelm.runtime.loop.draft import load_both

    engine, small = load_both(bundle, tokenizer, Bundle.open(draft), **loading)
    return LM(engine, tokenizer, bundle, template, config, small)
