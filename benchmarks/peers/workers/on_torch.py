"""transformers on torch, in the type that the environment variable PEERS_WEIGHTS names (float32, bfloat16)."""

from __future__ import annotations

import os

import numpy as np
import torch
import transformers


def version() -> str:
    return f"{transformers.__version__} (torch {torch.__version__})"


class Engine:
    def __init__(self, path: str, threads: int, context: int) -> None:
        torch.set_num_threads(threads)
        kind = getattr(torch, os.environ.get("PEERS_WEIGHTS", "float32"))
        self._model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=kind).eval()
        self._cache = transformers.DynamicCache()

    @torch.inference_mode()
    def forward(self, ids: list[int]) -> None:
        out = self._model(torch.tensor([ids]), past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._logits = out.logits

    def logits(self) -> np.ndarray:
        return self._logits[0, -1].float().numpy()

    def rewind(self, position: int) -> None:
        if position:
            self._cache.crop(position)
        else:
            self._cache = transformers.DynamicCache()
