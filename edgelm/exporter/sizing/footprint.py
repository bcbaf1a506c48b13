"""What a model takes in one of a target's recipes: on disk, in the host's memory, in the device's.

Told from config.json and the headers of the weight files alone. Bytes of files are exact on the native export path; what
memory is taken is a model fitted to measurements (onnxruntime 1.32, 135M and 0.5B shapes, resident set of the process).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from edgelm.bundle.manifest import Memory
from edgelm.exporter import recipe
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.checkpoint.prequantized import Scheme
from edgelm.exporter.formats.format import Format
from edgelm.exporter.formats.parallel import cores
from edgelm.exporter.formats.registry import PREFILL
from edgelm.exporter.graph import decoder_graph, prefill
from edgelm.exporter.graph.attention import SLACK, cache_head_dim
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.result import GraphResult
from edgelm.runtime.kv.prefill import PREFILL_CHUNK
from edgelm.runtime.kv.windows import windows_bytes
from edgelm.target.target import RecipeSpec, Target

_RUNTIME = 60 << 20  # Python, numpy, onnxruntime, tokenizers and a session; measured
_TOKEN = (
    320  # a token of the vocabulary in `tokenizers`, once what parsing took is given back; 180 to 311, measured on four
)
_ACTIVATIONS = 1.9  # of all that a layer's matrices read and write for a chunk, the arena's peak; measured

_PASSING = 64 << 20  # of the prefill graph's matrices: what a board can read between two releases of them

_EXPORTER = 90 << 20  # Python and the libraries of the native export path; measured, as are the next four
_SLICE = 12 << 20  # a slice of rows being quantised, of which there is one a core, and one more
_TRACER = 450 << 20  # Python and torch, transformers, Optimum
_TRACED = 4.2  # peak of tracing, as a multiple of the weights in fp32
_PROTOBUF_LIMIT = 2 << 30  # a larger trace is written twice: a file a tensor, then one file
_UNPACKING = 6  # bytes a weight while the codes of a quantised checkpoint are unpacked, a matrix at a time; counted
GRAPH = 1 << 20  # model.onnx and the small files, about
_SMALLEST = 16  # rows or columns of a matrix that the Optimum export path packs

# What the architectures call the parts of a config.json.
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "multi_query_group_num")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "n_embed")


@dataclass(frozen=True)
class Footprint:
    """What a model takes, in bytes but for the first two.

    Attributes:
        parameters: how many.
        vocab: how many logits a token has.
        stored: of model.onnx.data.
        trace: written beside it meanwhile, by Optimum's route.
        read: weights read for every token.
        packed: the same in the device's memory.
        table: the embedding's table where it is one of its own.
        prefill: of prefill.onnx.data, which is mapped as it is.
        kv_per_token: keys and values of a token of context, of all layers.
        windows: of layers that look back over a window: (tokens, bytes of a token).
        copies: of keys and values that are held at once: 2 where a step returns a longer copy.
        state: of one size whatever the number of tokens; both buffers.
        width: what a layer's matrices read and write for one token.
        scores: what attention's scores take for a token of the prompt and one of the context; 0 where they are
            never held as a whole.
        host: memory of the export at its peak.
        files: of model.onnx, the tables in its data, and the small files, about; `Sizes.weighed` knows better.
    """

    parameters: int
    vocab: int
    stored: int
    trace: int
    read: int
    packed: int
    table: int
    prefill: int
    kv_per_token: int
    windows: tuple[tuple[int, int], ...]
    copies: int
    state: int
    width: int
    scores: int
    host: int
    files: int = GRAPH

    @property
    def bundle(self) -> int:
        """Of the whole bundle."""
        return self.stored + self.prefill + self.files

    @property
    def disk(self) -> int:
        """Of disk at the export's peak: the bundle and 5 %, and the trace."""
        return self.bundle + self.bundle // 20 + self.trace

    def device(self, context: int) -> Memory:
        """What a device needs for a context of so many tokens."""
        kept = [(window, size) for window, size in self.windows if window + SLACK < context]
        per_token = self.kv_per_token - sum(size for _, size in kept)
        kv = per_token * context
        windows = windows_bytes([(window + SLACK, size) for window, size in kept], context)
        chunk = min(PREFILL_CHUNK, context)
        activations = int(_ACTIVATIONS * self.width * chunk) + self.scores * chunk * context
        logits, runtime = 4 * self.vocab, _RUNTIME + _TOKEN * self.vocab
        passing = min(self.prefill, _PASSING)
        weights = self.packed + self.table + passing
        total = weights + self.copies * kv + windows + self.state + activations + logits + runtime
        return Memory(
            weights_bytes=self.read,
            packed_bytes=self.packed,
            table_bytes=self.table,
            prefill_bytes=self.prefill,
            passing_bytes=passing,
            kv_bytes_per_token=per_token,
            kv_bytes=kv,
            window_bytes=windows,
            state_bytes=self.state,
            activations_bytes=activations,
            logits_bytes=logits,
            runtime_bytes=runtime,
            total_bytes=total,
        )

    def corrected(self, result: GraphResult) -> Footprint:
        """With what is known once the graph is written; the same on the native route."""
        return replace(
            self,
            parameters=result.parameters,
            vocab=result.graph.vocab,
            read=result.weight_bytes_per_token,
            kv_per_token=result.kv_bytes_per_token,
        )


def of_decoder(decoder: Decoder, spec: RecipeSpec, target: Target, scheme: Scheme | None = None) -> Footprint:
    """Of a model on the native export path; `scheme` is how the checkpoint is quantised already."""
    spec = recipe.named(spec, decoder)
    formats, dtype = recipe.formats(spec, decoder.hidden), recipe.activations(spec, target)
    body = [(stored_as(formats.of(m), m.inputs, scheme), m.outputs, m.inputs) for m in decoder.linears]
    products = body if decoder.headless else [*body, (formats.head, decoder.vocab, decoder.hidden)]
    prompts = [(PREFILL, m.outputs, m.inputs) for m in prefill.linears(decoder)]
    tied = decoder_graph.shares_table(decoder, formats)
    table = 0 if tied else decoder_graph.embedding_format(decoder, formats).nbytes(decoder.vocab, decoder.hidden)
    read = sum(format.nbytes(n, k) for format, n, k in products)
    small = sum(math.prod(shape) for shape in decoder.tensors.values() if len(shape) != 2)
    positions = decoder.positions.rows * decoder.hidden if decoder.positions is not None else 0
    values = sum(2 * x.kv_heads * cache_head_dim(x) for x in decoder.attentions)
    itemsize = recipe.cache_type(spec, target).itemsize
    scales = 4 * values if recipe.quantised_kv(spec) else 0
    states = [state for x in decoder.recurrences for state in x.states]
    return Footprint(
        parameters=decoder.parameters,
        vocab=decoder.vocab,
        stored=read + table + (small + positions) * dtype.itemsize + scales,
        trace=0,
        read=read,
        packed=sum(format.resident_bytes(n, k, target, dtype.itemsize) for format, n, k in products),
        table=table + positions * dtype.itemsize,
        prefill=0 if spec.prefill is None else prefill.nbytes(decoder),
        kv_per_token=values * itemsize,
        windows=tuple(
            (x.window, 2 * x.kv_heads * cache_head_dim(x) * itemsize)
            for x in decoder.attentions
            if x.window is not None and recipe.keeps_windows(target)
        ),
        copies=1,
        state=2 * sum(math.prod(s.shape) * (4 if s.full else dtype.itemsize) for s in states),
        width=dtype.itemsize * sum(n + k for _, n, k in body) // max(1, len(decoder.layers)),
        scores=0,
        host=_EXPORTER
        + _SLICE * (cores() + 1)
        + max(
            format.packing_bytes(n, k) for format, n, k in (products if spec.prefill is None else [*products, *prompts])
        )
        + (max(_UNPACKING * n * k for _, n, k in body) if scheme is not None else 0)
        + max((8 * m.outputs * m.inputs for m in decoder.linears if any(s.transposed for s in m.sources)), default=0),
    )


def of_checkpoint(checkpoint: Checkpoint, spec: RecipeSpec, target: Target, tokens: int | None = None) -> Footprint:
    """Of a model on Optimum's route: about, since its graph is not known before it is traced.

    `tokens` is how many of its vocabulary are left; None for all.
    """
    config = checkpoint.config.text_part
    shapes = [checkpoint.shape(name) for name in checkpoint.names()]
    fp32 = 4 * sum(math.prod(shape) for shape in shapes)  # traced as a whole
    layers, heads = _first(config, _LAYERS, 1), _first(config, _HEADS, 1)
    vocab = _first(config, ("vocab_size",), max((shape[0] for shape in shapes if shape), default=1))
    if tokens is not None:
        shapes = [(tokens, *shape[1:]) if shape and shape[0] == vocab else shape for shape in shapes]
        vocab = tokens
    parameters = sum(math.prod(shape) for shape in shapes)
    matrices = [(shape[0], shape[1]) for shape in shapes if len(shape) == 2 and min(shape) >= _SMALLEST]
    tables = [shape for shape in matrices if shape[0] == vocab]
    bodies = [shape for shape in matrices if shape[0] != vocab]
    hidden = tables[0][1] if tables else _first(config, _HIDDEN, 1)
    formats = recipe.formats(spec, hidden)
    tied = len(tables) < 2 and formats.head.can_gather(hidden)
    body = [(formats.body.fit(k), n, k) for n, k in bodies]
    products = [*body, (formats.head, vocab, hidden)]
    rest = 4 * (parameters - sum(n * k for n, k in matrices))
    read = sum(format.nbytes(n, k) for format, n, k in products) + rest
    table = 0 if tied else formats.embedding.nbytes(vocab, hidden)
    return Footprint(
        parameters=parameters,
        vocab=vocab,
        stored=read + table,
        trace=fp32 * (2 if fp32 > _PROTOBUF_LIMIT else 1),
        read=read,
        packed=sum(format.resident_bytes(n, k, target, 4) for format, n, k in products) + rest,
        table=table,
        prefill=0,
        kv_per_token=_kv_per_token(config, layers, heads, hidden),
        windows=(),
        copies=2,
        state=0,
        width=4 * sum(n + k for n, k in bodies) // layers,
        scores=4 * heads,
        host=_TRACER + int(_TRACED * fp32),
    )


def stored_as(format: Format, k: int, scheme: Scheme | None) -> Format:
    """The format of a body matrix: that of the checkpoint's codes where they can be taken over."""
    return (None if scheme is None else format.adopting(scheme, k)) or format


def _kv_per_token(config: Config, layers: int, heads: int, hidden: int) -> int:
    hidden = _first(config, _HIDDEN, hidden)  # an embedding may be narrower than the layers
    kv_heads = 1 if config.get("multi_query") is True else _first(config, _KV_HEADS, heads)
    return 4 * 2 * layers * kv_heads * _first(config, ("head_dim",), hidden // heads)


def _first(config: Config, keys: Iterable[str], default: int) -> int:
    """The first of `keys` that config.json has."""
    return next((config.integer(key) for key in keys if config.get(key) is not None), default)
