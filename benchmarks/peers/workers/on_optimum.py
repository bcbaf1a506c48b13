"""Optimum's ORTModelForCausalLM on onnxruntime."""

from __future__ import annotations

import importlib.metadata
import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForCausalLM


def version() -> str:
    return f"{importlib.metadata.version('optimum-onnx')} (onnxruntime {onnxruntime.__version__})"


class Engine:
    def __init__(self, path: str, threads: int, context: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        torch.set_num_threads(threads)
        self._model = ORTModelForCausalLM.from_pretrained(path, session_options=options, use_cache=True)
        self._past: tuple[tuple[torch.Tensor, ...], ...] | None = None
        self._position = 0

    @torch.inference_mode()
    def forward(self, ids: list[int]) -> None:
        total = self._position + len(ids)
        out = self._model(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, total, dtype=torch.int64),
            position_ids=torch.arange(self._position, total)[None],
            past_key_values=self._past,
            use_cache=True,
        )
        self._past, self._logits, self._position = out.past_key_values, out.logits, total

    def logits(self) -> np.ndarray:
        return self._logits[0, -1].numpy()

    def rewind(self, position: int) -> None:
        past = self._past
        self._past = None
        if position and past is not None:
            self._past = tuple(tuple(part[:, :, :position].contiguous() for part in layer) for layer in past)
        self._position = position
