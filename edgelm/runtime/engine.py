"""An Engine: a bundle loaded for one text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgelm.bundle.reader import Bundle
from edgelm.runtime.model import LoadedModel, Sequence
from edgelm.runtime.ort.options import DEFAULTS, LoadOptions


class Engine(Sequence):
    """A sequence that brings its model: ids in, logits out, for whoever has one text at a time.

    `engine.model.sequence()` is another text on the same weights.

    Attributes:
        model: the loaded model, and
        threads, prefill_threads, packed, provider, load_seconds: of it; see `LoadedModel`.
    """

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        self.threads, self.prefill_threads = model.threads, model.prefill_threads
        self.packed, self.provider, self.load_seconds = model.packed, model.provider, model.load_seconds

    @classmethod
    def load(cls, bundle: Bundle, options: LoadOptions = DEFAULTS, **named: Any) -> Engine:
        """Load a bundle's graph.

        Args:
            bundle: the bundle.
            options: how.
            named: single options, by their names in `LoadOptions`.

        Raises:
            OptionError, BundleError, DeviceError: see `LoadOptions` and `LoadedModel.load`.
            TaskError: it embeds texts.
        """
        bundle.expect_generator()
        return cls(LoadedModel.load(bundle, replace(options, **named)))

    def close(self) -> None:
        """Release the model; neither the engine nor another sequence of it can be used afterwards."""
        self.model.close()
