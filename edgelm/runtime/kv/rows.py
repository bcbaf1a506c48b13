"""The caches of several texts in one memory, so that one pass computes the next token of each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgelm.bundle.manifest import Manifest
from edgelm.runtime.kv.buffers import Buffers, Layout
from edgelm.runtime.kv.cache import SharedCache
from edgelm.runtime.kv.windows import Window
from edgelm.runtime.ort.session import Runner
from edgelm.target.operators import share_scale

_RUNNERS = 8  # sets of arrays that are fed beside the cache which stay bound


class Rows:
    """Caches of `count` texts, each in a row of the same buffers.

    Each is a `SharedCache` like any other: it reads prompts, goes back, is saved and loaded. What is new is `step`. The
    other arguments are those of `SharedCache`.

    Attributes:
        caches: in no order: rows change places so that those that decode together are side by side.
    """

    def __init__(
        self,
        session: Any,
        context: int,
        vocab: int,
        prompts: Any,
        windows: Mapping[int, Window] | None,
        count: int,
    ) -> None:
        layout = Layout.of(session, windows)
        self._session, self._buffers = session, Buffers(layout, vocab, count)
        self.caches = [
            SharedCache(session, context, vocab, prompts, place=(self._buffers, row)) for row in range(count)
        ]
        self._at = list(self.caches)  # by row
        self._inputs = ["input_ids", "attention_mask", "num_logits", *layout.names]
        self._outputs = ["logits", *(n.replace("past_key_values", "present") for n in layout.names)]
        self._runners: OrderedDict[str, Runner] = OrderedDict()

    def arrange(self, groups: Sequence[Sequence[SharedCache]]) -> None:
        """Bring the caches of each group side by side, as `step` needs them."""
        if all(_side_by_side(group) for group in groups):
            return
        start = 0
        for group in groups:
            block = range(start, start + len(group))
            strangers = [row for row in block if self._at[row] not in group]
            for row, cache in zip(strangers, [c for c in group if c.row not in block], strict=True):
                self._exchange(row, cache.row)
            start += len(group)

    def step(
        self,
        caches: Sequence[SharedCache],
        tokens: Sequence[int],
        positions: Sequence[int],
        fed: tuple[str, Mapping[str, np.ndarray]] = ("", {}),
    ) -> list[np.ndarray]:
        """One pass over one token of each of some caches, which `arrange` brought side by side.

        Args:
            caches: the caches.
            tokens: the token of each.
            positions: where it stands.
            fed: arrays that the graph is fed beside the caches, and what they are known by.

        Returns:
            float32 [vocab] for each, valid until the next step.
        """
        for cache, position in zip(caches, positions, strict=True):
            cache.begin(1, position)
        turn = caches[0].turn
        for cache in caches[1:]:
            if cache.turn != turn:
                cache.change_turn()
        order = sorted(range(len(caches)), key=lambda index: caches[index].row)
        first = caches[order[0]].row
        bound = self._buffers.bound(first, len(caches))
        values = bound.at([tokens[i] for i in order], [positions[i] for i in order], turn)
        self._runner(*fed).run(self._inputs, *values)
        for cache, position in zip(caches, positions, strict=True):
            cache.end(1, position)
        return [bound.logits[cache.row - first, 0] for cache in caches]

    def drop(self, cache: SharedCache) -> None:
        """Give back the memory of a cache that holds nothing any more."""
        self._buffers.drop(cache.row)

    def _exchange(self, a: int, b: int) -> None:
        self._buffers.exchange(a, b)
        self._at[a], self._at[b] = self._at[b], self._at[a]
        self._at[a].row, self._at[b].row = a, b

    def _runner(self, key: str, arrays: Mapping[str, np.ndarray]) -> Runner:
        """One that feeds `arrays`, too."""
        runner = self._runners.pop(key, None)
        if runner is None:
            runner = Runner(self._session, self._outputs)
            runner.always(arrays)
        self._runners[key] = runner
        while len(self._runners) > _RUNNERS:
            self._runners.popitem(last=False)
        return runner


def _side_by_side(group: Sequence[SharedCache]) -> bool:
    rows = [cache.row for cache in group]
    return max(rows) - min(rows) < len(rows)


def why_unbatched(manifest: Manifest, session: Any) -> str | None:
    """Why a bundle's decode session does not compute the next tokens of several texts in one pass; None where it does."""
    if manifest.graph.cache != "shared":
        return "its graph returns a longer cache at every step"
    if share_scale(manifest.recipe.decode_operators):
        return "its activations are rounded by one scale for a whole pass, so that one text would change another"
    if not Layout.batches_of(session):
        return "it was exported by an edgelm whose graphs read one text: export it again"
    return None
