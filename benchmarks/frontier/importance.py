"""What llama.cpp's tools call an importance matrix: the mean square of every input of every matrix on a text.

llama.cpp's own program for it is not in its library; the same figures come from the model in fp32, run layer by layer as
edgelm's calibration runs it, on the text that edgelm calibrates on by default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgelm.bundle.reader import Bundle
from edgelm.evaluate.passages import load_passages, spread_chunks, starting_token
from edgelm.exporter import families
from edgelm.exporter.calibration import layer_runner
from edgelm.exporter.calibration.flow import Flow
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.formats.parallel import pieces_apart
from edgelm.exporter.formats.registry import EXACT
from edgelm.exporter.graph.decoder_graph import Formats
from edgelm.exporter.model.weights import WeightReader
from edgelm.runtime.text.prompt import text_tools

TOKENS, CHUNK = 16384, 512
_NAMES = {
    "qkv_proj": ("attn_q", "attn_k", "attn_v"),
    "o_proj": ("attn_output",),
    "gate_up_proj": ("ffn_gate", "ffn_up"),
    "down_proj": ("ffn_down",),
}


def importance(checkpoint: Path, bundle: Bundle, text: str = "builtin") -> dict[str, np.ndarray]:
    """GGUF name of a tensor → float32 [inputs], of every body matrix of a Llama or Qwen2; `bundle` lends its tokenizer."""
    tokenizer, template = text_tools(bundle)
    ids = list(load_passages(text, "calibration").encode(tokenizer, template))
    chunks = spread_chunks(ids, CHUNK, TOKENS, starting_token(tokenizer))
    with pieces_apart():
        return dict(_means(Checkpoint(checkpoint), chunks))


def _means(checkpoint: Checkpoint, chunks: list[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    decoder, reader = families.describe(checkpoint.config), WeightReader(checkpoint)
    formats = Formats(EXACT, EXACT, EXACT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        embed = layer_runner.embedding(decoder, formats, reader, folder)
        flow = Flow(decoder, [embed(ids[None], {}) for ids in chunks])
        for index, layer in enumerate(decoder.layers):
            parts = layer_runner.parts(decoder, formats, index, reader, CHUNK, folder)
            for linear, inputs in flow.through(layer, parts):
                mean = np.square(inputs).mean(axis=0, dtype=np.float64).astype(np.float32)
                for short in _NAMES[linear.name.rpartition(".")[2]]:
                    yield f"blk.{index}.{short}.weight", mean
                flow.multiply(linear, reader.matrix(linear))
