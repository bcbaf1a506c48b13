"""llama.cpp through llama-cpp-python's low-level calls, as llama-bench makes them: no sampling, no copy of the logits."""

from __future__ import annotations

import ctypes
import os

import llama_cpp as llama
import numpy as np

_NO_FLASH_ATTENTION = 0  # llama.h: LLAMA_FLASH_ATTN_TYPE_DISABLED


def version() -> str:
    return f"llama-cpp-python {llama.__version__}"


@llama.llama_log_callback
def _quiet(level: int, text: bytes, data: object) -> None:
    pass


class Engine:
    def __init__(self, path: str, threads: int, context: int) -> None:
        llama.llama_log_set(_quiet, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self._model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        if not self._model:
            raise ValueError(f"llama.cpp cannot load {path}")
        # Flash attention is left on auto; n_batch and n_ubatch are llama-bench's.
        options = llama.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, 2048, 512
        if os.environ.get("PEERS_WEIGHTS") == "f32":  # to be compared digit by digit: no fp16 anywhere
            options.type_k = options.type_v = llama.GGML_TYPE_F32
            options.flash_attn_type = _NO_FLASH_ATTENTION
        elif "no-flash-attention" in os.environ.get("PEERS_OPTIONS", "").split():
            options.flash_attn_type = _NO_FLASH_ATTENTION
        options.n_threads = options.n_threads_batch = threads
        self._context = llama.llama_init_from_model(self._model, options)
        if not self._context:
            raise ValueError("llama.cpp cannot make a context")
        self._memory = llama.llama_get_memory(self._context)
        self._vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))

    def forward(self, ids: list[int]) -> None:
        tokens = (llama.llama_token * len(ids))(*ids)
        code = llama.llama_decode(self._context, llama.llama_batch_get_one(tokens, len(ids)))
        if code:
            raise ValueError(f"llama_decode ended with code {code}")
        llama.llama_synchronize(self._context)

    def logits(self) -> np.ndarray:
        return np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, -1), (self._vocab,))

    def rewind(self, position: int) -> None:
        if not llama.llama_memory_seq_rm(self._memory, 0, position, -1):
            raise ValueError(f"llama.cpp cannot go back to position {position}")
