"""LM: a loaded model, from a prompt to text."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Unpack

from edgelm.bundle.json_table import shown
from edgelm.errors import OptionError, PromptError, expect_type, names_keywords
from edgelm.files import path_argument
from edgelm.runtime.loop.request import Options
from edgelm.runtime.loop.request_builder import RequestBuilder
from edgelm.runtime.loop.results import Chunk, Completion, SchedulerStats, Timings
from edgelm.runtime.loop.scheduler import Scheduler
from edgelm.runtime.loop.text_generator import TextGenerator
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.session import Session
from edgelm.runtime.text.chat import ChatTemplate
from edgelm.runtime.text.prompt import Prompt, Rendering, id_list, text_tools
from edgelm.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

    from edgelm.bundle.reader import Bundle
    from edgelm.runtime.engine import Engine
    from edgelm.runtime.loop.batch_scheduler import BatchScheduler
    from edgelm.runtime.loop.draft import DraftModel
    from edgelm.runtime.lora_adapter import RuntimeAdapter
    from edgelm.runtime.ort.packing import OnBytes
    from edgelm.runtime.ort.weightcache import WeightCache

_MOST = 4096  # generations at once, or waiting

__all__ = ["LM", "Chunk", "Completion", "Timings", "load"]


class LM(TextGenerator):
    """A model ready to run; use it as a context manager, or call `close`.

    One generation runs at a time, and another one is refused meanwhile. Where it was loaded with `parallel`, so many run at
    once, called for from any threads, and more wait for their turn.

    Args:
        engine: runs the graph; its own sequence is that of `stream` and `generate`.
        tokenizer: of the same model.
        bundle: where both come from.
        template: the model's chat template, or None.
        config: the options where a call names none.
        draft: a small model that drafts tokens, or None; it becomes the LM's.
        parallel: how many generations run at once; None for one, and no queue.
        max_queue: how many may wait; None for any number.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        bundle: Bundle,
        template: ChatTemplate | None,
        config: GenerationConfig,
        draft: DraftModel | None = None,
        *,
        parallel: int | None = None,
        max_queue: int | None = None,
    ) -> None:
        requests = RequestBuilder(engine.model, tokenizer, bundle, template, config, drafts=draft is not None)
        scheduler: Scheduler | BatchScheduler = Scheduler(engine.model, tokenizer, draft)
        if parallel is not None:
            from edgelm.runtime.batch import Batch
            from edgelm.runtime.loop.batch_scheduler import BatchScheduler

            batch = Batch(engine.model, parallel)
            scheduler = BatchScheduler(batch, engine, tokenizer, engine.close, max_queue)
        super().__init__(requests, scheduler, engine)
        self.engine, self.tokenizer, self.bundle, self.template = engine, tokenizer, bundle, template
        self._embeds = threading.Lock()

    @property
    def config(self) -> GenerationConfig:
        """The options where a call names none."""
        return self._requests.config

    @property
    def draft(self) -> DraftModel | None:
        """The model that drafts tokens, or None."""
        return self._scheduler.draft

    @property
    def context(self) -> int:
        """The longest prompt plus completion, in tokens."""
        return self.engine.context

    def encode_prompt(self, prompt: Prompt, *, raw: bool = False, how: Rendering | None = None) -> list[int]:
        """The ids of a prompt.

        Args:
            prompt: a str, taken as the user's message where the model has a chat template, or a list of messages.
            raw: take a str as it is; ids are taken so, too.
            how: to render messages; None as by default, where their text is text and no special token.

        Raises:
            PromptError: empty, malformed, longer than the context, or messages for a model without a template.
        """
        return self._requests.prompts.encode(prompt, raw=raw, how=how)

    def count_prompt(self, prompt: Prompt, *, raw: bool = False, how: Rendering | None = None) -> int:
        """How many tokens `encode_prompt` would give, also where these are more than the context."""
        return len(self._requests.prompts.ids(prompt, raw=raw, how=how))

    def open_adapter(self, path: str | PathLike[str] | None) -> RuntimeAdapter | None:
        """The adapter in a file, checked to be this bundle's; one that was used before is not read again. None for None.

        Raises:
            AdapterError: no adapter, a damaged one, or one made for another base.
        """
        return self._requests.adapter(path)

    def embed(self, texts: Sequence[str], *, prompt: str | None = None) -> np.ndarray:
        """The vectors of texts, in a bundle that was exported with ``task="embedding"``; from any threads, which take turns.

        Args:
            texts: what is to be embedded.
            prompt: the name of the model's prompt to put before each, such as ``query``; "" for none, None for the one
                that the model uses by default.

        Returns:
            float32 [n, hidden], of length 1 each where the model says so.

        Raises:
            TaskError: the bundle generates text.
            OptionError: the model has no such prompt.
            PromptError: a text is no str, empty, or longer than the context.
        """
        return self.embed_ids(self.encode_texts(texts, prompt=prompt))

    def encode_texts(self, texts: Sequence[str], *, prompt: str | None = None) -> list[list[int]]:
        """The ids of which `embed` makes a vector each; raises as it does."""
        from edgelm.runtime.loop.embedding import encode

        if isinstance(texts, str):
            raise PromptError("texts must be a list of str, not one str", hint="embed([text])[0]")
        expect_type("texts", texts, Iterable, "a list of str")
        return encode(list(texts), self.tokenizer, self.bundle.expect_embedding(), prompt, self.context)

    def embed_ids(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """The vectors of texts given as ids, float32 [n, hidden]."""
        import numpy as np

        from edgelm.runtime.loop.embedding import embed

        expect_type("texts", texts, (list, tuple), "a list of lists of ids")
        texts = [id_list("texts", ids) for ids in texts]
        facts, found = self.bundle.expect_embedding(), np.empty((len(texts), self.engine.width), np.float32)
        for index, ids in enumerate(texts):
            with self._embeds, self._scheduler.alone():  # text by text, so that callers take turns
                found[index] = embed(ids, self.engine, facts)
        return found

    def cancel(self) -> None:
        """End the generation under way, if any, as ``cancelled`` before its next pass; from any thread."""
        self._scheduler.cancel()

    def session(self) -> Session:
        """A conversation with a KV cache of its own, which can be saved and loaded."""
        return Session(self._requests, self._scheduler, self.engine.model.sequence())

    def batch(self, prompts: Sequence[Prompt], **options: Unpack[Options]) -> list[Completion]:
        """Whole texts of several prompts, in their order: as many at once as the LM was loaded for with `parallel`.

        Args:
            prompts: see `encode_prompt`.
            options: of each of them; see `Options`. A deadline counts from the moment a prompt's turn has come.

        Raises:
            PromptError, OptionError, EdgeLMError: as `generate`; where one fails, all end.
        """
        expect_type("prompts", prompts, (list, tuple), "a list of prompts")
        return self._complete([(prompt, options) for prompt in prompts])

    def scheduler_stats(self) -> SchedulerStats:
        """How many generations run and wait, what they take, and what was done since the model was loaded."""
        return self._scheduler.stats()

    def save_beginning(self, ids: Sequence[int], path: str | PathLike[str]) -> int:
        """Write what texts left in the KV cache that began with `ids`, such as a system prompt, to a file.

        All generations wait meanwhile. The file is that of `Session.save`.

        Args:
            ids: of the beginning.
            path: the file; one that is there is replaced if it is a prompt cache.

        Returns:
            how many tokens were written; 0, and no file, where no text that is kept begins so.

        Raises:
            PromptCacheError: it cannot be written.
            OptionError: the LM was loaded without `parallel`.
        """
        return self._batched().save_beginning(id_list("ids", ids), path_argument("path", path), self.bundle.digest)

    def load_beginning(self, path: str | PathLike[str]) -> int:
        """Let texts that begin as a file does take it from there; it is kept as those of earlier texts are.

        Args:
            path: from `save_beginning` or `Session.save`, without an adapter.

        Returns:
            its tokens; 0 where all places are in use, or hold it.

        Raises:
            PromptCacheError: it is missing, damaged, or was saved with another bundle or adapter.
            OptionError: the LM was loaded without `parallel`.
        """
        return self._batched().load_beginning(path_argument("path", path), self.bundle.digest)

    def _batched(self) -> BatchScheduler:
        from edgelm.runtime.loop.batch_scheduler import BatchScheduler

        if not isinstance(self._scheduler, BatchScheduler):
            raise OptionError("only an LM loaded with parallel keeps beginnings", hint="use a session: LM.session()")
        return self._scheduler

    def close(self, *, wait: bool = False, timeout: float | None = None) -> None:
        """Free the model. Generations under way end as ``cancelled`` at their next token, and free it then.

        Args:
            wait: let those under way come to their ends first; none begins any more, and those that wait are cancelled.
            timeout: seconds to wait for them at most.
        """
        self._scheduler.close(wait=wait, timeout=timeout)

    def __repr__(self) -> str:
        manifest = self.bundle.manifest
        return f"<LM {manifest.model.id} as {manifest.quant} for {manifest.target}, context of {self.context:,} tokens>"

    def __enter__(self) -> LM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@names_keywords
def load(
    path: str | PathLike[str],
    *,
    threads: int | None = None,
    prefill_threads: int | None = None,
    max_memory_mb: float | None = None,
    weight_cache: WeightCache | bool = True,
    on_bytes: OnBytes | None = None,
    draft: str | PathLike[str] | None = None,
    parallel: int | None = None,
    max_queue: int | None = None,
    profile: bool = True,
) -> LM:
    """Load the bundle in the folder `path`: `edgelm.load`, which has names besides, and tells the arguments.

    Raises:
        BundleError: no bundle there, or it is damaged.
        OptionError, DeviceError: it cannot run so, or not here.
    """
    from edgelm.bundle.reader import Bundle
    from edgelm.profile.store import profile_for
    from edgelm.runtime.engine import Engine
    from edgelm.runtime.loop.own_grammar import prepare
    from edgelm.runtime.model import LoadedModel
    from edgelm.runtime.ort.options import LoadOptions

    _expect_parallel(parallel, max_queue, draft)
    bundle = Bundle.open(path)
    if bundle.answer_grammar is not None:
        prepare()
    tuned = profile_for(bundle.manifest) if profile else None
    config = GenerationConfig.from_hf(bundle.generation_config)
    options = LoadOptions(
        threads=threads,
        prefill_threads=prefill_threads,
        max_memory_mb=max_memory_mb,
        weight_cache=weight_cache,
        on_bytes=on_bytes,
        disable_spinning=draft is not None,  # the two alternate on the same cores
        settings=None if tuned is None else tuned.settings,
    )
    small: DraftModel | None = None
    if draft is None:
        engine = Engine(LoadedModel.load(bundle, options))
    else:
        from edgelm.runtime.loop.draft import load_both

        engine, small = load_both(bundle, Bundle.open(path_argument("draft", draft)), options)
    try:
        # After the engine, whose weights need the most memory while they are packed, and are mapped from then on.
        tokenizer, template = text_tools(bundle)
        if bundle.manifest.embedding is not None:
            parallel = max_queue = None  # texts to embed take turns
        return LM(engine, tokenizer, bundle, template, config, small, parallel=parallel, max_queue=max_queue)
    except BaseException:
        engine.close()
        if small is not None:
            small.close()
        raise


def _expect_parallel(parallel: int | None, max_queue: int | None, draft: object) -> None:
    """OptionError where requests cannot run so."""
    for name, value, least in (("parallel", parallel, 1), ("max_queue", max_queue, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST):
            raise OptionError(f"{name} must be an integer, {least} or more and at most {_MOST:,}, not {shown(value)}")
    if parallel is None and max_queue is not None:
        raise OptionError("max_queue goes with parallel: without it none may wait")
    if parallel is not None and draft is not None:
        raise OptionError(
            "draft and parallel exclude each other: drafts are for one text at a time", hint="leave one of them out"
        )
