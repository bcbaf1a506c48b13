"""What a decoder in a recipe asks of a board, from config.json alone."""

from __future__ import annotations

from collections import Counter

from edgelm.bundle.format_spec import FormatSpec
from edgelm.exporter import recipe
from edgelm.exporter.checkpoint.prequantized import Scheme
from edgelm.exporter.formats.format import Format
from edgelm.exporter.formats.registry import PREFILL
from edgelm.exporter.graph import decoder_graph, prefill
from edgelm.exporter.graph.attention import cache_head_dim
from edgelm.exporter.model.decoder import Attention, Decoder, Layer
from edgelm.exporter.sizing import footprint
from edgelm.forecast.cost_model import Heads, Matrices, Workload
from edgelm.target.target import RecipeSpec, Target

_LAYER = 8  # two norms, qkv, attention, out, up, activation, down
_GATED = 2  # a split and a product
_HEAD_NORM = 3  # two reshapes around the norm
_EVEN = 5  # tokens brought to one range, and back
_AROUND = 11  # mask, embedding, last norm, slice, head
_POSITIONS = 8  # learned position embeddings are looked up and added


def of_decoder(decoder: Decoder, spec: RecipeSpec, target: Target, scheme: Scheme | None = None) -> Workload:
    """The workload of a model on the native export path; `scheme` is how the checkpoint is quantised already."""
    spec = recipe.named(spec, decoder)
    formats, dtype = recipe.formats(spec, decoder.hidden), recipe.activations(spec, target)
    taken = footprint.of_decoder(decoder, spec, target, scheme)
    weights: Counter[FormatSpec] = Counter()
    nbytes: Counter[FormatSpec] = Counter()
    for m in decoder.linears:
        format = footprint.stored_as(formats.of(m), m.inputs, scheme)
        weights[format.spec] += m.outputs * m.inputs
        nbytes[format.spec] += format.resident_bytes(m.outputs, m.inputs, target, dtype.itemsize)
    heads: Counter[tuple[int | None]] = Counter()
    kv: Counter[tuple[int | None]] = Counter()
    for attention in decoder.attentions:
        size, window = cache_head_dim(attention), (attention.window,)
        heads[window] += 2 * attention.heads * size
        kv[window] += 2 * attention.kv_heads * size * recipe.cache_type(spec, target).itemsize
    head = formats.head
    uneven = sum(formats.multiplied(m) != formats.of(m) for m in decoder.linears) + (head.scoring != head)
    return Workload(
        body=tuple(Matrices(kind, weights[kind], nbytes[kind]) for kind in weights),
        head=Matrices(
            head.spec,
            decoder.vocab * decoder.hidden,
            head.resident_bytes(decoder.vocab, decoder.hidden, target, dtype.itemsize),
        ),
        attention=tuple(Heads(heads[window], kv[window], window[0]) for window in heads),
        nodes=nodes(decoder, formats.head) + _EVEN * uneven,
        activation_bytes=taken.width * len(decoder.layers),
        file_bytes=taken.stored,
        prefill=_prompts(decoder) if spec.prefill is not None else (),
    )


def _prompts(decoder: Decoder) -> tuple[Matrices, ...]:
    """The matrices of a prefill graph."""
    weights = sum(m.outputs * m.inputs for m in prefill.linears(decoder))
    return (Matrices(PREFILL.spec, weights, prefill.nbytes(decoder)),)


def nodes(decoder: Decoder, head: Format) -> int:
    """About how many nodes the graph has (`decoder_graph.build`)."""
    around = _AROUND + (0 if decoder_graph.shares_table(decoder, decoder_graph.Formats(head, head, head)) else 1)
    around += 0 if decoder.positions is None else _POSITIONS
    return around + sum(_of_layer(layer) for layer in decoder.layers)


def _of_layer(layer: Layer) -> int:
    count = _LAYER + (_GATED if layer.mlp.gated else 0)
    count += sum(norm is not None for norm in (layer.attention_post_norm, layer.mlp_post_norm))
    mixer = layer.attention
    if isinstance(mixer, Attention) and (mixer.q_norm or mixer.k_norm):
        count += 1 + _HEAD_NORM * sum(norm is not None for norm in (mixer.q_norm, mixer.k_norm))
    return count
