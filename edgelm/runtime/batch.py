"""Sequences of one model that decode together: one pass computes the next token of each."""

from __future__ import annotations

from collections import abc
from dataclasses import replace

import numpy as np

from edgelm.runtime.kv.cache import SharedCache
from edgelm.runtime.model import LoadedModel, Sequence
from edgelm.runtime.ort.failures import failures


class Batch:
    """Some sequences of a model.

    Where the model's graph takes one text alone (`LoadedModel.unbatched` says why), each has a cache of its own and they are
    read one after the other; nothing else differs.

    Args:
        model: the model.
        count: how many sequences.

    Attributes:
        sequences: all of them, in no order.
    """

    def __init__(self, model: LoadedModel, count: int) -> None:
        self.model = model
        self._rows = None if model.unbatched else model.rows(count)
        caches = [None] * count if self._rows is None else self._rows.caches
        self.sequences = [Sequence(model, cache) for cache in caches]
        self._caches: dict[Sequence, SharedCache] = {}
        if self._rows is not None:
            self._caches = dict(zip(self.sequences, self._rows.caches, strict=True))

    def step(self, texts: abc.Sequence[tuple[Sequence, int]]) -> list[np.ndarray]:
        """Append one token to each of some sequences, and compute the logits behind it.

        Args:
            texts: sequence and token; sequences that are not the batch's own are read one after the other.

        Returns:
            float32 [vocab_size] for each, valid until the next step.

        Raises:
            PromptError, DeviceError: as `Sequence.forward`.
        """
        groups = self._groups([sequence for sequence, _ in texts])
        found: dict[Sequence, np.ndarray] = {}
        if self._rows is not None and any(len(group) > 1 for group in groups):
            self._rows.arrange([[self._caches[each] for each in group] for group in groups if len(group) > 1])
        tokens = dict(texts)
        for group in groups:
            found |= self._together(group, [tokens[each] for each in group])
        return [found[each] if each in found else each.forward([token])[0] for each, token in texts]

    def _groups(self, sequences: abc.Sequence[Sequence]) -> list[list[Sequence]]:
        """Those of the batch's own that can be read in one pass, as they compute with the same adapter."""
        groups: dict[str, list[Sequence]] = {}
        for each in sequences:
            if each in self._caches:
                groups.setdefault("" if each.adapter is None else each.adapter.digest, []).append(each)
        return list(groups.values())

    def _together(self, sequences: list[Sequence], tokens: list[int]) -> dict[Sequence, np.ndarray]:
        """One pass over a group; nothing for one alone, which `forward` reads as fast."""
        if self._rows is None or len(sequences) < 2:
            return {}
        for each, token in zip(sequences, tokens, strict=True):
            each.expect_valid([token], 1)
            self.model.memory.expect(self._caches[each], each.position + 1)
        adapter = sequences[0].adapter
        longest = max(each.position for each in sequences)
        with failures(longest + 1, longest):
            logits = self._rows.step(
                [self._caches[each] for each in sequences],
                tokens,
                [each.position for each in sequences],
                ("", {}) if adapter is None else (adapter.digest, adapter.arrays),
            )
        for each, token in zip(sequences, tokens, strict=True):
            each.took(token)
        return dict(zip(sequences, logits, strict=True))

    def copy(self, source: Sequence, target: Sequence, position: int) -> None:
        """Let `target` hold what `source` holds of its first `position` tokens, or of some fewer where the states of that
        place were not saved.
        """
        tokens, snapshot = source.save(position)
        if self._rows is None:  # what is loaded is taken as it is, and would be written to by both
            layers = {name: np.array(array) for name, array in snapshot.layers.items()}
            snapshot = replace(snapshot, layers=layers)
        target.restore(tokens, snapshot)

    @property
    def kv_bytes(self) -> int:
        """Bytes that keys and values of all the model's sequences take."""
        return self.model.kv_bytes

    def room(self) -> int | None:
        """Bytes that its sequences may take together; None for any number."""
        return self.model.memory.room(self.sequences)

    def needs(self, tokens: int) -> int:
        """Bytes that a sequence of so many tokens takes."""
        return self.sequences[0].needs(tokens)

    def drop(self, sequence: Sequence) -> None:
        """Forget what a sequence holds, and give back its memory."""
        sequence.reset()
        if self._rows is not None:
            self._rows.drop(self._caches[sequence])
