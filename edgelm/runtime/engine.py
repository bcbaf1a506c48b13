"""Ids in, logits out: one onnxruntime session and its KV cache. The Engine knows nothing of text."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgelm.bundle import Bundle
from edgelm.errors import BundleError, DeviceError, EdgeLMError, EdgeLMWarning, OptionError, PromptError
from edgelm.fallback import find_fallback
from edgelm.machine import read_cpu, recommended_threads
from edgelm.runtime.cache import Cache, GrowingCache, SharedCache
from edgelm.runtime.ort import open_or_fall_back


class Engine:
    """A loaded graph.

    Attributes:
        context: how many tokens it can hold.
        vocab_size: how many logits a token has.
        position: how many tokens it holds.
        threads: with which it computes.
        provider: onnxruntime's provider in use.
        load_seconds: what loading took.
    """

    def __init__(
        self, session: Any, *, cache: str, context: int, vocab: int, threads: int, load_seconds: float = 0.0
    ) -> None:
        self.context = context
        self.vocab_size = vocab
        self.position = 0
        self.threads = threads
        self.provider = str(session.get_providers()[0])
        self.load_seconds = load_seconds
        self._tokens: list[int] = []  # of all that was read, where the cache cannot go back to any position
        self._cache: Cache | None = (
            SharedCache(session, context, vocab) if cache == "shared" else GrowingCache(session, vocab)
        )

    @classmethod
    def load(cls, bundle: Bundle, *, threads: int | None = None) -> Engine:
        """Load a bundle's graph.

        Args:
            bundle: the bundle.
            threads: None for the target's number, capped by this machine's cores.

        Raises:
            OptionError: threads below 1.
            BundleError: onnxruntime cannot load the graph, or the manifest does not describe it.
            DeviceError: not enough memory.
        """
        if threads is not None and threads < 1:
            raise OptionError(f"threads must be at least 1, not {threads}")
        manifest = bundle.manifest
        cpu = read_cpu()
        if slow := find_fallback(manifest, cpu):
            warnings.warn(f"{slow.detail}; better: {slow.todo}", EdgeLMWarning, stacklevel=2)
        count = threads or recommended_threads(manifest.get("threads", {}).get("decode"), cpu)
        start = time.perf_counter()
        session, reason = open_or_fall_back(bundle.model_path, count, str(manifest.get("provider", "cpu")))
        if reason is not None:
            message = f"{reason}: running on the CPU instead (see README, Jetson)"
            warnings.warn(message, EdgeLMWarning, stacklevel=2)
        try:
            return cls(
                session,
                cache=manifest["graph"]["cache"],
                context=bundle.context,
                vocab=int(manifest["graph"]["vocab"]),
                threads=count,
                load_seconds=time.perf_counter() - start,
            )
        except (KeyError, TypeError, IndexError) as error:
            raise BundleError(
                f"{bundle.path}: manifest.json does not describe the graph ({error})", hint="export the bundle again"
            ) from None

    @property
    def cache_bytes(self) -> int:
        """Bytes held for keys and values."""
        return self._open().nbytes

    def forward(self, ids: Sequence[int] | np.ndarray, num_logits: int = 1) -> np.ndarray:
        """Append tokens and compute the logits of the last ones.

        Args:
            ids: token ids [n], n >= 1.
            num_logits: for how many of the last of them, 1 … n.

        Returns:
            float32 [num_logits, vocab_size]; it may be overwritten by the next call.

        Raises:
            PromptError: the context is full, or an id is not in the vocabulary.
            OptionError: num_logits is out of range.
        """
        tokens = np.asarray(ids, dtype=np.int64).reshape(-1)
        if not 1 <= num_logits <= len(tokens):
            raise OptionError(f"num_logits must be from 1 to the number of ids ({len(tokens)}), not {num_logits}")
        total = self.position + len(tokens)
        if total > self.context:
            raise PromptError(
                f"{total:,} tokens do not fit in the context of {self.context:,}",
                hint="shorten the prompt, or export with a larger --context",
            )
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            raise PromptError(
                f"token ids must be from 0 to {self.vocab_size - 1}", hint="the tokenizer belongs to another model"
            )
        cache = self._open()
        try:
            logits = cache.run(tokens, self.position, num_logits)
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
        self.position = total
        if not cache.rewinds:
            self._tokens += tokens.tolist()
        return logits

    def rewind(self, position: int) -> None:
        """Forget the tokens from `position` on; a model with states reads the tokens before it again."""
        if not 0 <= position <= self.position:
            raise OptionError(f"cannot rewind to {position}: the engine holds {self.position} tokens")
        if position == self.position:
            return
        cache = self._open()
        if cache.rewinds:
            cache.truncate(position)
            self.position = position
        else:
            again, self._tokens, self.position = self._tokens[:position], [], 0
            cache.truncate(0)
            if again:
                self.forward(again)

    def reset(self) -> None:
        """Forget all tokens."""
        self.rewind(0)

    def close(self) -> None:
        """Release the session and the cache; the engine cannot be used afterwards."""
        self._cache = None

    def _open(self) -> Cache:
        if self._cache is None:
            raise EdgeLMError("the engine is closed")
        return self._cache
