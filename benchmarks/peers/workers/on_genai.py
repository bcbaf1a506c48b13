"""onnxruntime-genai; threads are set by hand, as its default is half of the cores."""

from __future__ import annotations

import json
import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime_genai as genai


def version() -> str:
    return str(genai.__version__)


class Engine:
    def __init__(self, path: str, threads: int, context: int) -> None:
        config = genai.Config(path)
        options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = genai.Model(config)
        params = genai.GeneratorParams(self._model)
        params.set_search_options(max_length=context, min_length=0, do_sample=False)
        self._generator = genai.Generator(self._model, params)

    def forward(self, ids: list[int]) -> None:
        self._generator.append_tokens(np.array(ids, np.int32))

    def logits(self) -> np.ndarray:
        return np.asarray(self._generator.get_logits(), np.float32).reshape(-1)

    def rewind(self, position: int) -> None:
        self._generator.rewind_to(position)
