"""llama.cpp's part, in a Python of its own, through llama-cpp-python's low-level calls.

    python -m benchmarks.frontier.llama quantize F32.gguf OUT.gguf Q4_K_M [IMPORTANCE.npz]
    python -m benchmarks.frontier.llama read MODEL.gguf IDS.npy LOGITS.npy

`read` takes int64 [chunks, size] and writes the float32 logits behind each position of every second half but the last
position, [chunks, size - 1 - size // 2, vocabulary].
"""

from __future__ import annotations

import ctypes
import os
import sys

import llama_cpp as llama
import numpy as np

_NO_FLASH_ATTENTION = 0  # llama.h: LLAMA_FLASH_ATTN_TYPE_DISABLED


@llama.llama_log_callback
def _quiet(level: int, text: bytes, data: object) -> None:
    pass


def quantize(source: str, output: str, kind: str, importance: str | None = None) -> None:
    options = llama.llama_model_quantize_default_params()
    options.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}")
    options.allow_requantize = True  # a source that is quantised already is the original here, by its values
    if importance is not None:
        arrays = {name: np.ascontiguousarray(values, np.float32) for name, values in np.load(importance).items()}
        entries = (llama.llama_model_imatrix_data * (len(arrays) + 1))()  # the last has no name
        for entry, (name, values) in zip(entries, arrays.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        options.imatrix = entries
    aside = f"{output}.part"
    code = llama.llama_model_quantize(source.encode(), aside.encode(), ctypes.byref(options))
    if code:
        raise SystemExit(f"llama_model_quantize ended with code {code}")
    os.replace(aside, output)


def read(path: str, ids: str, output: str) -> None:
    chunks = np.load(ids)
    size = chunks.shape[1]
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp cannot load {path}")
    options = llama.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = size
    options.type_k = options.type_v = llama.GGML_TYPE_F32
    options.flash_attn_type = _NO_FLASH_ATTENTION
    context = llama.llama_init_from_model(model, options)
    if not context:
        raise SystemExit("llama.cpp cannot make a context")
    vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    found = [_logits(context, chunk[:-1].tolist(), size // 2, vocab) for chunk in chunks]
    np.save(output, np.stack(found))


def _logits(context: object, ids: list[int], first: int, vocab: int) -> np.ndarray:
    """Behind each id from `first` on, float32 [len(ids) - first, vocab]."""
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    batch = llama.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for place, token in enumerate(ids):
        batch.token[place], batch.pos[place] = token, place
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        batch.logits[place] = place >= first
    if code := llama.llama_decode(context, batch):
        raise SystemExit(f"llama_decode ended with code {code}")
    rows = np.ctypeslib.as_array(llama.llama_get_logits(context), (len(ids) - first, vocab)).copy()
    llama.llama_batch_free(batch)
    return rows


if __name__ == "__main__":
    llama.llama_log_set(_quiet, ctypes.c_void_p(0))
    llama.llama_backend_init()
    if len(sys.argv) not in (5, 6) or sys.argv[1] not in ("quantize", "read"):
        raise SystemExit(__doc__)
    (quantize if sys.argv[1] == "quantize" else read)(*sys.argv[2:])
