"""Ids in, logits out: one onnxruntime session and its KV cache. The Engine knows nothing of text."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakSet

import numpy as np

from edgelm.bundle.reader import Bundle
from edgelm.errors import BundleError, DeviceError, EdgeLMError, EdgeLMWarning, OptionError, PromptError
from edgelm.machine.host import read_cpu
from edgelm.runtime.kv.cache import PROMPT_PASS, Cache, KVSnapshot, SharedCache
from edgelm.runtime.kv.concat_cache import GrowingCache
from edgelm.runtime.kv.memory_limit import Room, fit
from edgelm.runtime.kv.windows import Window, read_windows
from edgelm.runtime.lora_adapter import RuntimeAdapter
from edgelm.runtime.ort.bundle_sessions import Sessions, open_sessions
from edgelm.runtime.ort.packing import OnBytes
from edgelm.runtime.ort.weightcache import WeightCache
from edgelm.runtime.prefill import PREFILL_CHUNK
from edgelm.target.fallback import find_fallback


@dataclass(eq=False)
class KVState:
    """What an engine has read: the ids, and the cache of their keys and values; None once the engine is closed.

    Keys and values are those of the model with the `adapter`: another one's would be others.
    """

    cache: Cache | None
    tokens: list[int] = field(default_factory=list)
    adapter: RuntimeAdapter | None = None


class Engine:
    """A loaded graph, and the state that it reads into.

    Attributes:
        context: how many tokens it can hold.
        vocab_size: how many logits a token has.
        threads: with which it computes.
        prefill_threads: with which it computes prompts.
        packed: the cache's folder whose packed weights it has mapped (`edgelm.runtime.ort.weightcache`), or None.
        provider: onnxruntime's provider in use.
        load_seconds: what loading took.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        cache: str,
        context: int,
        vocab: int,
        load_seconds: float = 0.0,
        kv_limit: int | None = None,
        windows: Mapping[int, Window] | None = None,
    ) -> None:
        self.context = context
        self.vocab_size = vocab
        self.threads, self.prefill_threads = sessions.threads, sessions.prefill_threads
        self.packed = sessions.packed
        self.provider = str(sessions.decode.get_providers()[0])
        self.load_seconds = load_seconds
        self._sessions: Sessions | None = sessions
        self._kind = cache
        self._kv_limit, self._windows = kv_limit, windows
        self._states: WeakSet[KVState] = WeakSet()
        self._state = self.new_state()

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        *,
        threads: int | None = None,
        prefill_threads: int | None = None,
        max_memory_mb: float | None = None,
        weight_cache: WeightCache | bool = True,
        on_bytes: OnBytes | None = None,
        room: Room | None = None,
        disable_spinning: bool = False,
    ) -> Engine:
        """Load a bundle's graph.

        Args:
            bundle: the bundle.
            threads: None for the target's number, capped by this machine's cores.
            prefill_threads: for prompts, in a session of its own where that is another number; None for the target's
                number, or `threads` where that is given, or where it would take the memory of the weights twice.
            max_memory_mb: what the process may take, in 10^6 bytes, by the manifest's figures; the context shrinks to
                what fits. None for no ceiling.
            weight_cache: True for the user's cache of packed weights, which the environment may switch off; False for
                none; or another one.
            on_bytes: hears of the packing, where the cache has to be filled.
            room: what fits, where that is known already, in place of `max_memory_mb`.
            disable_spinning: whether it takes turns with another engine on the same cores, whose threads its own must not keep
                waiting.

        Raises:
            OptionError: threads below 1, or max_memory_mb is no number above 0.
            BundleError: onnxruntime cannot load the graph, or the manifest does not describe it.
            DeviceError: not enough memory, or max_memory_mb leaves no room for a context of use.
        """
        for name, number in (("threads", threads), ("prefill_threads", prefill_threads)):
            if number is not None and number < 1:
                raise OptionError(f"{name} must be at least 1, not {number}")
        manifest = bundle.manifest
        if max_memory_mb is not None:
            room = fit(manifest, max_memory_mb)
        cpu = read_cpu()
        if slow := find_fallback(manifest, cpu):
            warnings.warn(f"{slow.detail}; better: {slow.todo}", EdgeLMWarning, stacklevel=2)
        cache = WeightCache.default() if weight_cache is True else weight_cache or None
        start = time.perf_counter()
        sessions = open_sessions(
            bundle, cpu, threads, prefill_threads, cache, on_bytes, disable_spinning=disable_spinning
        )
        try:
            return cls(
                sessions,
                cache=manifest.graph.cache,
                context=bundle.context if room is None else room.context,
                vocab=manifest.graph.vocab,
                load_seconds=time.perf_counter() - start,
                kv_limit=None if room is None else room.kv_bytes,
                windows=read_windows(manifest.graph),
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise BundleError(
                f"{bundle.path}: manifest.json does not describe the graph ({error})", hint="export the bundle again"
            ) from None

    @property
    def tokens(self) -> Sequence[int]:
        """The ids it holds; not to be changed."""
        return self._state.tokens

    @property
    def position(self) -> int:
        """How many tokens it holds."""
        return len(self._state.tokens)

    @property
    def rewinds(self) -> bool:
        """Whether `rewind` costs nothing; otherwise it may have to read tokens again."""
        return self._open().rewinds

    def room_after(self, position: int) -> int | None:
        """How many tokens after `position` can be read, and forgotten again at no cost; None for any number."""
        return self._open().room(position)

    @property
    def cache_bytes(self) -> int:
        """Bytes held for keys and values."""
        return self._open().nbytes

    def new_state(self) -> KVState:
        """An empty state for `use`."""
        opened = self._opened()
        session, prompts = opened.decode, opened.prompts
        shared = self._kind == "shared"
        cache: Cache = (
            SharedCache(session, self.context, self.vocab_size, prompts, self._windows)
            if shared
            else GrowingCache(session, self.vocab_size, prompts)
        )
        state = KVState(cache)
        self._states.add(state)
        return state

    def use(self, state: KVState) -> KVState:
        """Read into `state` from now on.

        Returns:
            the state that was in use.
        """
        old, self._state = self._state, state
        return old

    def adapt(self, adapter: RuntimeAdapter | None) -> None:
        """Compute with an adapter from now on, in the state in use, or with none; where it is another one than before,
        all tokens are forgotten.

        Args:
            adapter: of this bundle (`RuntimeAdapter.expect_for`).
        """
        old = self._state.adapter
        if (None if old is None else old.digest) != (None if adapter is None else adapter.digest):
            self.reset()
            self._open().feed({} if adapter is None else adapter.arrays)
            self._state.adapter = adapter

    @property
    def adapter(self) -> RuntimeAdapter | None:
        """The one in use, in the state in use."""
        return self._state.adapter

    def save(self, position: int) -> tuple[list[int], KVSnapshot]:
        """The first `position` tokens and what they left in the cache, as views of it; some fewer for a model with
        states, where the state of that place was not kept.
        """
        if not 0 <= position <= self.position:
            raise OptionError(f"cannot save {position} tokens: the engine holds {self.position}")
        cache = self._open()
        cache.keep(self.position)
        kept = cache.save(position)
        return self._state.tokens[: kept.position], kept

    def restore(self, tokens: Sequence[int], kept: KVSnapshot) -> None:
        """Hold `tokens`, whose keys and values are in `kept`, instead of what there is; its arrays may be written to.

        Raises:
            PromptError: more than the context.
        """
        if len(tokens) > self.context:
            raise PromptError(f"{len(tokens):,} saved tokens do not fit in the context of {self.context:,}")
        self._open().load(kept)
        self._state.tokens = list(tokens)

    def forward(self, ids: Sequence[int] | np.ndarray, num_logits: int = 1) -> np.ndarray:
        """Append tokens and compute the logits of the last ones.

        Args:
            ids: token ids [n], n >= 1.
            num_logits: for how many of the last of them, 0 … n; a piece of a prompt that others follow wants none.

        Returns:
            float32 [num_logits, vocab_size]; it may be overwritten by the next call.

        Raises:
            PromptError: the context is full, or an id is not in the vocabulary.
            OptionError: num_logits is out of range.
        """
        tokens = np.asarray(ids, dtype=np.int64).reshape(-1)
        if not len(tokens) or not 0 <= num_logits <= len(tokens):
            raise OptionError(f"num_logits must be from 0 to the number of ids ({len(tokens)}), not {num_logits}")
        total = self.position + len(tokens)
        if total > self.context:
            raise PromptError(
                f"{total:,} tokens do not fit in the context of {self.context:,}",
                hint="shorten the prompt, or export with a larger --context",
            )
        listed = tokens.tolist()  # of a single token, all that follows is faster in Python than in numpy
        if min(listed) < 0 or max(listed) >= self.vocab_size:
            raise PromptError(
                f"token ids must be from 0 to {self.vocab_size - 1}", hint="the tokenizer belongs to another model"
            )
        cache = self._open()
        self._check_limit(cache, total)
        try:
            if cache.fills and (lead := len(tokens) - num_logits) >= PROMPT_PASS:
                self._fill(cache, tokens[:lead])
                self._state.tokens += listed[:lead]
                tokens, listed = tokens[lead:], listed[lead:]
            if listed:
                logits = cache.run(tokens, self.position, max(1, num_logits))[:num_logits]
            else:
                logits = np.empty((0, self.vocab_size), np.float32)
        except MemoryError:
            raise DeviceError(
                f"not enough memory for {total:,} tokens", hint="export with a smaller --context"
            ) from None
        except (KeyboardInterrupt, EdgeLMError):
            raise
        except Exception as error:  # onnxruntime's exceptions have no public base class
            raise DeviceError(
                f"onnxruntime failed at token {self.position}: {str(error).strip().splitlines()[0]}",
                hint="see: edgelm verify, edgelm doctor",
            ) from None
        self._state.tokens += listed
        return logits

    def _fill(self, cache: Cache, ids: np.ndarray) -> None:
        """A piece of a prompt; of two sets of mapped weights only what is at work stays in memory."""
        sessions = self._opened()
        sessions.decode_pages.release()
        with sessions.prompt_pages.passing():
            cache.fill(ids, self.position)

    def _check_limit(self, cache: Cache, total: int) -> None:
        """DeviceError where `total` tokens, and what other states hold, are more than the memory allowed."""
        if self._kv_limit is None:
            return
        others = sum(s.cache.nbytes for s in self._states if s.cache is not None and s.cache is not cache)
        others += sum({s.adapter.digest: s.adapter.nbytes for s in self._states if s.adapter is not None}.values())
        if others + cache.needs(total) > self._kv_limit:
            raise DeviceError(
                f"{total:,} tokens, beside {others / 1e6:,.1f} MB of other sessions and adapters, need more than max_memory_mb allows",
                hint="close a session, or allow for more memory",
            )

    def rewind(self, position: int) -> None:
        """Forget the tokens from `position` on; a model with states or windows may read tokens before it again."""
        if not 0 <= position <= self.position:
            raise OptionError(f"cannot rewind to {position}: the engine holds {self.position} tokens")
        if position == self.position:
            return
        reached = self._open().truncate(position)
        again = self._state.tokens[reached:position]
        del self._state.tokens[reached:]
        for start in range(0, len(again), PREFILL_CHUNK):
            self.forward(again[start : start + PREFILL_CHUNK], 0)

    def reset(self) -> None:
        """Forget all tokens."""
        self.rewind(0)

    def close(self) -> None:
        """Release the session and every state; the engine cannot be used afterwards."""
        self._sessions = None
        for state in self._states:
            state.cache = None

    def _open(self) -> Cache:
        if self._state.cache is None:
            raise EdgeLMError("the engine is closed")
        return self._state.cache

    def _opened(self) -> Sessions:
        if self._sessions is None:
            raise EdgeLMError("the engine is closed")
        return self._sessions
