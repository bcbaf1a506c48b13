"""What a model is: a decoder-only transformer described by data.

A family file reads config.json into these; the graph builder reads nothing else. All sizes are in elements.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from edgelm.exporter.model.rope import Rope

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]


@dataclass(frozen=True)
class Source:
    """Rows of a checkpoint tensor, a matrix or (as a bias) a vector.

    Attributes:
        tensor: its name.
        rows: how many are taken.
        every, start: of every `every` rows, `take` from `start` on are taken; 0 for all. For tensors in which
            query, key and value rows alternate head by head.
        take: see above.
        transposed: the tensor is stored [columns, rows], as GPT-2's are.
    """

    tensor: str
    rows: int
    every: int = 0
    start: int = 0
    take: int = 0
    transposed: bool = False

    @property
    def stored_rows(self) -> int:
        """Rows of the whole tensor."""
        return self.rows // self.take * self.every if self.every else self.rows


@dataclass(frozen=True)
class Linear:
    """A matrix product ``y = scale (x Wᵀ + b)``, packed from one or more checkpoint tensors stacked by rows.

    Attributes:
        name: of the packed matrix in the graph, as the checkpoint would name it.
        sources: what is stacked, in order.
        inputs: columns of W.
        biases: stacked likewise; empty for no bias.
        scale: multiplied into the weights before they are packed.
        uneven: whether what it reads is not normed, so that tokens are of very different size.
    """

    name: str
    sources: tuple[Source, ...]
    inputs: int
    biases: tuple[Source, ...] = ()
    scale: float = 1.0
    uneven: bool = False

    @property
    def outputs(self) -> int:
        """Rows of W."""
        return sum(source.rows for source in self.sources)


@dataclass(frozen=True)
class Norm:
    """RMS norm (Zhang & Sennrich, 2019, arXiv:1910.07467) or layer norm of `size` values.

    Attributes:
        weight: tensor name; `offset` is added to its values, and `scale` multiplied with the sum.
        bias: tensor name, for a layer norm that has one.
    """

    weight: str
    size: int
    eps: float
    kind: Literal["rms", "layer"] = "rms"
    bias: str | None = None
    offset: float = 0.0
    scale: float = 1.0

    @property
    def name(self) -> str:
        """Of its node: the checkpoint's module."""
        return self.weight.removesuffix(".weight")


@dataclass(frozen=True)
class Attention:
    """Causal self-attention with grouped key/value heads.

    Attributes:
        heads, kv_heads, head_dim: the shape.
        qkv: query, key and value stacked: [(heads + 2 kv_heads) head_dim, hidden]; where it is `gated`, a gate of
            heads head_dim rows after them.
        out: [hidden, heads head_dim].
        rope: rotary embedding, or None.
        window: how many tokens back, itself included, a token sees; None for all.
        scale: of the scores; None for 1/sqrt(head_dim).
        softcap: scores become softcap tanh(scores / softcap); 0 for none.
        q_norm, k_norm: norms of queries and keys before the rotary embedding, over a head or over all heads.
        gated: what comes out is multiplied by sigmoid(gate) before `out`.
    """

    heads: int
    kv_heads: int
    head_dim: int
    qkv: Linear
    out: Linear
    rope: Rope | None = None
    window: int | None = None
    scale: float | None = None
    softcap: float = 0.0
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    gated: bool = False


@dataclass(frozen=True)
class State:
    """What a layer keeps from token to token, of one size whatever their number.

    Attributes:
        kind: what it is called, ``conv_state`` or ``recurrent_state``.
        shape: of the tensor.
        full: it is float32 whatever the activations are.
    """

    kind: Literal["conv_state", "recurrent_state"]
    shape: tuple[int, ...]
    full: bool = False


@dataclass(frozen=True)
class ShortConv:
    """A gated short convolution in attention's place (LFM2, arXiv:2511.23404): ``out(c * conv(b * x))``.

    Attributes:
        in_proj: b, c and x stacked by rows: [3 hidden, hidden].
        kernel: tensor [hidden, 1, length], one causal filter a channel; `bias`: tensor [hidden], or None.
        length: of a filter, in tokens.
        out: [hidden, hidden].
    """

    in_proj: Linear
    kernel: str
    length: int
    out: Linear
    bias: str | None = None

    @property
    def channels(self) -> int:
        """How many are filtered: hidden."""
        return self.in_proj.outputs // 3

    @property
    def states(self) -> tuple[State, ...]:
        """The filter's last inputs."""
        return (State("conv_state", (1, self.length - 1, self.channels)),)

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Those of the checkpoint that are in no matrix and no norm."""
        bias = {self.bias: (self.channels,)} if self.bias is not None else {}
        return {self.kernel: (self.channels, 1, self.length), **bias}


@dataclass(frozen=True)
class GatedDeltaNet:
    """Linear attention by the gated delta rule in attention's place (Yang et al., 2024, arXiv:2412.06464).

    Query, key and value pass a causal filter a channel and silu, queries and keys are scaled to length 1, and with
    decay g = -exp(a_log) softplus(a + dt_bias) and rate β = sigmoid(b) a state S of every value head goes from token to
    token: S ← exp(g) S + β k (v - exp(g) Sᵀk)ᵀ, o = Sᵀq / sqrt(key_dim). ``out(norm(o) * silu(z))`` comes out.

    Attributes:
        key_heads, value_heads: how many; a key head serves value_heads / key_heads value heads in a row.
        key_dim, value_dim: of a head.
        in_proj: query, key, value, z, b and a stacked by rows.
        kernel: tensor [channels, 1, length], the filters of query, key and value.
        length: of a filter, in tokens.
        a_log, dt_bias: tensors [value_heads].
        norm: over a value head.
        out: [hidden, value_heads value_dim].
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    in_proj: Linear
    kernel: str
    length: int
    a_log: str
    dt_bias: str
    norm: Norm
    out: Linear

    @property
    def channels(self) -> int:
        """How many are filtered: of query, key and value."""
        return 2 * self.key_heads * self.key_dim + self.width

    @property
    def width(self) -> int:
        """Of all value heads together."""
        return self.value_heads * self.value_dim

    @property
    def states(self) -> tuple[State, ...]:
        """The filter's last inputs, and Sᵀ of every value head."""
        recurrent = State("recurrent_state", (1, self.value_heads, self.value_dim, self.key_dim), full=True)
        return (State("conv_state", (1, self.length - 1, self.channels)), recurrent)

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Those of the checkpoint that are in no matrix and no norm."""
        heads = (self.value_heads,)
        return {self.kernel: (self.channels, 1, self.length), self.a_log: heads, self.dt_bias: heads}


@dataclass(frozen=True)
class Mlp:
    """Feed-forward ``down(act(gate(x)) * up(x))`` with gate and up stacked by rows, or ``down(act(up(x)))``."""

    up: Linear
    down: Linear
    activation: Activation = "silu"
    gated: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "down", replace(self.down, uneven=True))


@dataclass(frozen=True)
class Layer:
    """Attention and feed-forward, each added to the residual stream.

    Attributes:
        name: the checkpoint's.
        attention: or what stands in its place.
        attention_norm, mlp_norm: of what goes in; None for the stream as it is.
        attention_post_norm, mlp_post_norm: of what comes out, before it is added; None for as it is.
        parallel: both read the same residual; without `mlp_norm` the MLP reads what attention reads.
    """

    name: str
    attention: Attention | ShortConv | GatedDeltaNet
    mlp: Mlp
    attention_norm: Norm | None = None
    mlp_norm: Norm | None = None
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None
    parallel: bool = False

    @property
    def norms(self) -> Iterator[Norm]:
        """All there are."""
        norms = [self.attention_norm, self.mlp_norm, self.attention_post_norm, self.mlp_post_norm]
        if isinstance(self.attention, Attention):
            norms += [self.attention.q_norm, self.attention.k_norm]
        elif isinstance(self.attention, GatedDeltaNet):
            norms.append(self.attention.norm)
        yield from (norm for norm in norms if norm is not None)

    @property
    def linears(self) -> tuple[Linear, ...]:
        """All matrices, in graph order."""
        first = self.attention.qkv if isinstance(self.attention, Attention) else self.attention.in_proj
        return (first, self.attention.out, self.mlp.up, self.mlp.down)


@dataclass(frozen=True)
class Positions:
    """Learned position embeddings: row `offset` + position of a tensor [rows, hidden]."""

    tensor: str
    rows: int
    offset: int = 0


@dataclass(frozen=True)
class Decoder:
    """A whole model.

    Attributes:
        family: the family file that described it.
        hidden, vocab: sizes.
        context: the longest input the model was made for, in tokens.
        layers: in order.
        norm: the last one; None for none.
        embedding: the table [vocab, hidden]; its rows are multiplied by `embedding_scale`.
        head: [vocab, hidden]; the same tensor as `embedding` when tied.
        positions: learned position embeddings, or None.
        embedding_norm: of the token vectors, or None.
        logits_softcap: logits become softcap tanh(logits / softcap); 0 for none.
        headless: the last hidden states come out, and no logits.
    """

    family: str
    hidden: int
    vocab: int
    context: int
    layers: tuple[Layer, ...]
    norm: Norm | None
    embedding: Linear
    head: Linear
    embedding_scale: float = 1.0
    positions: Positions | None = None
    embedding_norm: Norm | None = None
    logits_softcap: float = 0.0
    features: tuple[str, ...] = field(default=())
    headless: bool = False

    @property
    def tied(self) -> bool:
        """Whether embedding and head are one tensor."""
        return self.embedding.sources == self.head.sources

    @property
    def context_limit(self) -> int:
        """The longest context to export for, in tokens."""
        scalings = [attention.rope.scaling for attention in self.attentions if attention.rope is not None]
        return max([self.context, *(scaling.reach for scaling in scalings if scaling is not None)])

    @property
    def vocab_tensors(self) -> dict[str, tuple[int, ...]]:
        """The tensors that have a row for every token: name → shape."""
        tables = (self.embedding, self.head)
        names = {source.tensor for table in tables for source in (*table.sources, *table.biases)}
        return {name: shape for name, shape in self.tensors.items() if name in names}

    def with_vocab(self, vocab: int) -> Decoder:
        """The same model with rows for so many tokens."""

        def cut(table: Linear) -> Linear:
            sources, biases = (
                tuple(replace(source, rows=vocab) for source in part) for part in (table.sources, table.biases)
            )
            return replace(table, sources=sources, biases=biases)

        return replace(self, vocab=vocab, embedding=cut(self.embedding), head=cut(self.head))

    def without_head(self) -> Decoder:
        """The same model up to its last hidden states; a head of its own is no part of it."""
        return replace(self, headless=True, head=replace(self.embedding, name=self.head.name))

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Every body matrix, in graph order."""
        return tuple(linear for layer in self.layers for linear in layer.linears)

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The attention of every layer that has it."""
        return tuple(layer.attention for layer in self.layers if isinstance(layer.attention, Attention))

    @property
    def recurrences(self) -> tuple[ShortConv | GatedDeltaNet, ...]:
        """What stands in attention's place, of every layer that has it."""
        return tuple(layer.attention for layer in self.layers if not isinstance(layer.attention, Attention))

    @property
    def norms(self) -> tuple[Norm, ...]:
        """Every norm."""
        ends = (n for n in (self.embedding_norm, self.norm) if n is not None)
        return (*(norm for layer in self.layers for norm in layer.norms), *ends)

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of a checkpoint: name → shape."""
        shapes: dict[str, tuple[int, ...]] = {}
        for linear in (self.embedding, *self.linears, self.head):
            for source in linear.sources:
                shape = (source.stored_rows, linear.inputs)
                shapes[source.tensor] = shape[::-1] if source.transposed else shape
            shapes |= {source.tensor: (source.stored_rows,) for source in linear.biases}
        for recurrence in self.recurrences:
            shapes |= recurrence.tensors
        for norm in self.norms:
            shapes |= {name: (norm.size,) for name in (norm.weight, norm.bias) if name is not None}
        if self.positions is not None:
            shapes[self.positions.tensor] = (self.positions.rows, self.hidden)
        return shapes

    @property
    def parameters(self) -> int:
        """How many weights, norms and biases included, tied ones once."""
        return sum(math.prod(shape) for shape in self.tensors.values())
