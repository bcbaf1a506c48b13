"""What is loaded once, and the texts that it reads: ids in, logits out. Nothing here knows of words.

A `LoadedModel` holds what all texts share: onnxruntime's sessions, the limits, the weights. A `Sequence` is one text:
its tokens, its KV cache, its adapter. Whoever has a text owns its sequence (an LM, a session of it, a draft model beside
it), and what the sequence holds is freed with it.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import abc
from collections.abc import Iterator
from typing import Literal

import numpy as np

from edgelm.bundle.json_table import shown
from edgelm.bundle.reader import Bundle
from edgelm.errors import BundleError, DeviceError, EdgeLMError, EdgeLMWarning, OptionError, PromptError, expect_type
from edgelm.machine.host import read_cpu
from edgelm.runtime.kv.cache import PROMPT_PASS, Cache, KVSnapshot, SharedCache
from edgelm.runtime.kv.compiled_prompt import CompiledPrompt
from edgelm.runtime.kv.concat_cache import ConcatCache
from edgelm.runtime.kv.held_memory import HeldMemory
from edgelm.runtime.kv.memory_limit import Room, fit
from edgelm.runtime.kv.prefill import common, pass_size, prefill_pieces
from edgelm.runtime.kv.rows import Rows, why_unbatched
from edgelm.runtime.kv.windows import read_windows
from edgelm.runtime.lora_adapter import RuntimeAdapter
from edgelm.runtime.ort.bundle_sessions import Sessions, open_sessions
from edgelm.runtime.ort.failures import failures
from edgelm.runtime.ort.options import DEFAULTS, LoadOptions
from edgelm.target.fallback import find_fallback

_WORTH = 16  # tokens more than are held for which a sequence takes over the compiled beginning


class LoadedModel:
    """A bundle's graph, loaded once for all its sequences.

    Attributes:
        context: how many tokens a sequence can hold.
        vocab_size: how many tokens it knows.
        width: how many logits a token has, or the size of its hidden state in a bundle that embeds texts.
        threads: with which it decodes.
        prefill_threads: with which it computes prompts, at most `prefill_chunk` tokens in a pass.
        packed: the cache's folder whose prepacked weights it has mapped (`edgelm.runtime.ort.weightcache`), or None.
        provider: onnxruntime's provider in use.
        unbatched: why it does not compute the next tokens of several sequences in one pass; None where it does.
        load_seconds: what loading took.
        compiled: the beginning of prompts that the bundle has read already, or None.
        memory: what its sequences hold, and may.
    """

    def __init__(self, bundle: Bundle, sessions: Sessions, room: Room | None = None, load_seconds: float = 0.0) -> None:
        self.context = bundle.context if room is None else room.context
        graph = bundle.manifest.graph
        self.vocab_size = graph.vocab
        self.width = graph.vocab if bundle.manifest.embedding is None else graph.hidden
        self.threads, self.prefill_threads = sessions.threads, sessions.prefill_threads
        self.packed, self.load_seconds = sessions.packed, load_seconds
        self.provider = str(sessions.decode.get_providers()[0])
        self.prefill_chunk = pass_size(sessions.prefill_chunk, limited=room is not None)
        self._sessions: Sessions | None = sessions
        self._path, self._graph = bundle.path, bundle.manifest.graph
        self.compiled = CompiledPrompt.of(bundle)
        self.unbatched = why_unbatched(bundle.manifest, sessions.decode)
        self.memory = HeldMemory(None if room is None else room.kv_bytes)

    @classmethod
    def load(cls, bundle: Bundle, options: LoadOptions = DEFAULTS, room: Room | None = None) -> LoadedModel:
        """Load a bundle's graph.

        Args:
            bundle: the bundle.
            options: how.
            room: what fits, where that is known already, in place of `options.max_memory_mb`.

        Raises:
            OptionError: max_memory_mb is no number above 0.
            BundleError: onnxruntime cannot load the graph.
            DeviceError: not enough memory, or max_memory_mb leaves no room for a context of use.
        """
        manifest = bundle.manifest
        if room is None and options.max_memory_mb is not None:
            room = fit(manifest, options.max_memory_mb)
        cpu = read_cpu()
        if slow := find_fallback(manifest, cpu):
            warnings.warn(f"{slow.detail}; better: {slow.todo}", EdgeLMWarning, stacklevel=2)
        start = time.perf_counter()
        sessions = open_sessions(bundle, cpu, options)
        return cls(bundle, sessions, room, time.perf_counter() - start)

    @property
    def kv_bytes(self) -> int:
        """Bytes that keys and values of all sequences take."""
        return self.memory.kv_bytes

    def rows(self, count: int) -> Rows:
        """Caches for `count` sequences that are read together; not where `unbatched` says why not.

        Raises:
            BundleError: the manifest does not describe the graph.
            EdgeLMError: the model is closed.
        """
        opened = self._opened()
        with self._describing():
            windows = read_windows(self._graph)
            return Rows(opened.decode, self.context, self.vocab_size, opened.prompts, windows, count)

    def sequence(self) -> Sequence:
        """A new, empty sequence.

        Raises:
            BundleError: the manifest does not describe the graph.
            EdgeLMError: the model is closed.
        """
        return Sequence(self)

    def close(self) -> None:
        """Release the sessions and the caches of all sequences; none can be used afterwards."""
        self._sessions = None
        self.memory.release()

    def _enrol(self, sequence: Sequence, cache: Cache | None) -> Cache:
        """A cache for a new sequence, whose memory counts for as long as the sequence lives."""
        opened = self._opened()
        with self._describing():
            if cache is None and self._graph.cache == "shared":
                windows = read_windows(self._graph)
                cache = SharedCache(opened.decode, self.context, self.width, opened.prompts, windows)
            elif cache is None:
                cache = ConcatCache(opened.decode, self.vocab_size, opened.prompts)
        self.memory.add(sequence)
        return cache

    @contextlib.contextmanager
    def _describing(self) -> Iterator[None]:
        """BundleError where the manifest does not describe the graph."""
        try:
            yield
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise BundleError(
                f"{self._path}: manifest.json does not describe the graph ({error})", hint="export the bundle again"
            ) from None

    def _fill(self, cache: Cache, ids: np.ndarray, position: int) -> None:
        """A piece of a prompt; of two sets of mapped weights only the active one stays resident."""
        sessions = self._opened()
        sessions.decode_pages.release()
        with sessions.prompt_pages.passing():
            cache.fill(ids, position)

    def _opened(self) -> Sessions:
        if self._sessions is None:
            raise EdgeLMError("the engine is closed")
        return self._sessions


class Sequence:
    """One text: its tokens, a cache of their keys and values, and the adapter that these were computed with.

    Its owner alone reads into it. Sequences of a model know nothing of each other; one call of any of them runs at a time.

    Attributes:
        model: which reads it.
        context, vocab_size, width: of the model.
        cache: of its keys and values; None once the model is closed.
    """

    def __init__(self, model: LoadedModel, cache: Cache | None = None) -> None:
        """`cache` is one that was made for it, or None for one of its own."""
        self.model = model
        self.context, self.vocab_size, self.width = model.context, model.vocab_size, model.width
        self._tokens: list[int] = []
        self._adapter: RuntimeAdapter | None = None
        self.cache: Cache | None = model._enrol(self, cache)

    @property
    def tokens(self) -> abc.Sequence[int]:
        """The ids it holds; not to be changed."""
        return self._tokens

    @property
    def position(self) -> int:
        """How many tokens it holds."""
        return len(self._tokens)

    @property
    def rewinds(self) -> bool:
        """Whether `rewind` costs nothing; otherwise it may have to read tokens again."""
        return self._opened().rewinds

    @property
    def cache_bytes(self) -> int:
        """Bytes held for keys and values."""
        return self._opened().nbytes

    @property
    def adapter(self) -> RuntimeAdapter | None:
        """With which its tokens are computed."""
        return self._adapter

    def room_after(self, position: int) -> int | None:
        """How many tokens after `position` can be read, and forgotten again at no cost; None for any number."""
        return self._opened().room(position)

    def forward(self, ids: abc.Sequence[int] | np.ndarray, num_logits: int = 1) -> np.ndarray:
        """Append tokens and compute the logits of the last ones.

        Args:
            ids: token ids [n], n >= 1.
            num_logits: for how many of the last of them, 0 … n; a piece of a prompt that others follow wants none.

        Returns:
            float32 [num_logits, width]; it may be overwritten by the next call.

        Raises:
            PromptError: the context is full, or an id is not in the vocabulary.
            OptionError: num_logits is out of range.
            DeviceError: not enough memory, or onnxruntime fails.
        """
        tokens = _token_array(ids)
        listed: list[int] = tokens.tolist()  # of a single token, all that follows is faster in Python than in numpy
        self.expect_valid(listed, num_logits)
        cache, total = self._opened(), len(self._tokens) + len(listed)
        self.model.memory.expect(cache, total)
        with failures(total, self.position):
            if cache.fills and (lead := len(listed) - num_logits) >= PROMPT_PASS:
                self.model._fill(cache, tokens[:lead], len(self._tokens))
                self._tokens += listed[:lead]
                tokens, listed = tokens[lead:], listed[lead:]
            if listed:
                logits = cache.run(tokens, len(self._tokens), max(1, num_logits))[:num_logits]
            else:
                logits = self._no_logits()
        self._tokens += listed
        return logits

    def prefill(self, ids: abc.Sequence[int], num_logits: Literal[0, 1] = 1) -> np.ndarray:
        """Append the tokens of a prompt, in passes of the model's `prefill_chunk`.

        Args:
            ids: token ids [n].
            num_logits: whether the logits after the last of them are wanted.

        Returns:
            float32 [num_logits, vocab_size]; it may be overwritten by the next call.

        Raises:
            PromptError, DeviceError: as `forward`; the passes before are done.
        """
        logits = self._no_logits()
        for piece, wanted in prefill_pieces(ids, self.model.prefill_chunk, self.rewinds):
            logits = self.forward(piece, min(wanted, num_logits))
        return logits

    def prefill_passes(self, ids: abc.Sequence[int], size: int | None = None) -> Iterator[np.ndarray]:
        """`prefill` one pass at a time, for a caller who has something to do in between, or may stop.

        Args:
            ids: token ids [n].
            size: tokens of a pass, at most; None for the model's `prefill_chunk`.

        Yields:
            the logits of each pass: float32 [1, vocab_size] after the last one, [0, vocab_size] after others.
        """
        for piece, wanted in prefill_pieces(ids, size or self.model.prefill_chunk, self.rewinds):
            yield self.forward(piece, wanted)

    def took(self, token: int) -> None:
        """A pass of several sequences has read a token of this one."""
        self._tokens.append(token)

    def needs(self, tokens: int) -> int:
        """Bytes it would hold with so many tokens."""
        return self._opened().needs(tokens)

    def resume(self, ids: abc.Sequence[int]) -> None:
        """Take over the beginning that the bundle has read already, where that is more of `ids` than is held now."""
        compiled = self.model.compiled
        if compiled is None or self._adapter is not None or len(compiled.tokens) > self.context:
            return
        same = common(compiled.tokens, ids)
        if not self.rewinds and same < len(compiled.tokens):
            return  # going back within it means reading again
        if same < common(self._tokens, ids) + _WORTH:
            return
        try:
            self.model.memory.expect(self._opened(), len(compiled.tokens))
        except DeviceError:
            return  # then it is computed, as far as there is room
        snapshot = compiled.load()
        if self.takes(compiled.tokens, snapshot):
            self.restore(compiled.tokens, snapshot)

    def rewind(self, position: int) -> None:
        """Forget the tokens from `position` on; a model with states or windows may read tokens before it again."""
        expect_type("position", position, (int, np.integer), "a number of tokens")
        if not 0 <= position <= self.position:
            raise OptionError(f"cannot rewind to {position}: the engine holds {self.position} tokens")
        if position == self.position:
            return
        reached = self._opened().truncate(position)
        again = self._tokens[reached:position]
        del self._tokens[reached:]
        for piece, _ in prefill_pieces(again, self.model.prefill_chunk, rewinds=True):  # what comes begins there
            self.forward(piece, 0)

    def forget(self, position: int) -> int:
        """Forget the tokens from `position` on, and some before it where going back there would mean to read them again.

        Returns:
            how many tokens it holds now.
        """
        reached = self._opened().truncate(position) if position < self.position else self.position
        del self._tokens[reached:]
        return reached

    def reset(self) -> None:
        """Forget all tokens."""
        self.rewind(0)

    def adapt(self, adapter: RuntimeAdapter | None) -> None:
        """Compute with an adapter from now on, or with none; where it is another one than before, all tokens are forgotten.

        Args:
            adapter: of this bundle (`RuntimeAdapter.expect_for`).
        """
        old = self._adapter
        if (None if old is None else old.digest) != (None if adapter is None else adapter.digest):
            self.reset()
            self._opened().feed({} if adapter is None else adapter.arrays)
            self._adapter = adapter

    def save(self, position: int) -> tuple[list[int], KVSnapshot]:
        """The first `position` tokens and what they left in the cache, as views of it; some fewer for a model with
        states, where the state of that place was not saved.
        """
        expect_type("position", position, (int, np.integer), "a number of tokens")
        if not 0 <= position <= self.position:
            raise OptionError(f"cannot save {position} tokens: the engine holds {self.position}")
        cache = self._opened()
        cache.keep(self.position)
        snapshot = cache.save(position)
        return self._tokens[: snapshot.position], snapshot

    def takes(self, tokens: abc.Sequence[int], snapshot: KVSnapshot) -> bool:
        """Whether `restore` can be called so: what is in a file may be of another model, whatever it is tied to."""
        return max(tokens, default=0) < self.vocab_size and self._opened().takes(snapshot)

    def restore(self, tokens: abc.Sequence[int], snapshot: KVSnapshot) -> None:
        """Hold `tokens`, whose keys and values are in `snapshot`, instead of what there is; its arrays may be written to.

        Raises:
            PromptError: more than the context.
        """
        if len(tokens) > self.context:
            raise PromptError(f"{len(tokens):,} saved tokens do not fit in the context of {self.context:,}")
        self._opened().load(snapshot)
        self._tokens = list(tokens)

    def expect_valid(self, ids: list[int], num_logits: int) -> None:
        """PromptError or OptionError where `forward` cannot be called so."""
        expect_type("num_logits", num_logits, (int, np.integer), "how many of the ids")
        if not ids or not 0 <= num_logits <= len(ids):
            raise OptionError(f"num_logits must be from 0 to the number of ids ({len(ids)}), not {num_logits}")
        total = len(self._tokens) + len(ids)
        if total > self.context:
            raise PromptError(
                f"{total:,} tokens do not fit in the context of {self.context:,}",
                hint="shorten the prompt, or export with a larger --context",
            )
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise PromptError(
                f"token ids must be from 0 to {self.vocab_size - 1}", hint="the tokenizer belongs to another model"
            )

    def _no_logits(self) -> np.ndarray:
        return np.empty((0, self.width), np.float32)

    def _opened(self) -> Cache:
        if self.cache is None:
            raise EdgeLMError("the engine is closed")
        return self.cache


def _token_array(ids: abc.Sequence[int] | np.ndarray) -> np.ndarray:
    """Token ids, int64 [n]; TypeError where they are none."""
    try:
        found = np.asarray(ids)
    except ValueError:  # lists of unequal lengths
        found = np.empty(1, object)
    if found.dtype.kind not in "iu" and found.size:
        raise TypeError(f"ids must be token ids, a list or an array of integers, not {shown(ids)}")
    return found.astype(np.int64, copy=False).reshape(-1)
