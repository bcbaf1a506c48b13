"""How fast a model will be on a board, before it is there: a model of time with few terms (docs/notes/estimate.md).

A step of n tokens after a context of d takes

    products    for each format the larger of bytes / bandwidth and n * weights / (rate * threads)
    attention   the larger of n * pairs / (rate * threads) and the bytes of the KV cache / bandwidth
    activations n * width / (rate * threads), what is read and written between the products
    nodes       a fixed time for each node of the graph

and the sum of them. The head is multiplied for the last token alone. The constants are the target's: its memory's
bandwidth and its `Rates`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from edgelm.bundle.format_spec import FormatSpec, Recipe, StoredFormat
from edgelm.bundle.manifest import Manifest
from edgelm.errors import OptionError
from edgelm.target.rates import Rates
from edgelm.target.target import Target, load_all

PROMPT = 512  # tokens of the prompt whose prefill and first token are told
DEPTHS = (0, 1024, 4096)
Bound = Literal["bandwidth", "compute", "overhead"]


@dataclass(frozen=True)
class Matrices:
    """All matrices of one format: how many weights are multiplied for a token, and their bytes in memory."""

    spec: FormatSpec
    weights: int
    nbytes: int


@dataclass(frozen=True)
class Heads:
    """The attention of layers that are alike.

    Attributes:
        pair: multiply-accumulates for a query token and a token it sees: 2 * heads * head_dim, of all these layers.
        kv_bytes: of a token in the KV cache, of all these layers.
        window: how many tokens a query sees at most, or None.
    """

    pair: int
    kv_bytes: int
    window: int | None = None

    def seen(self, tokens: int, depth: int) -> int:
        """Pairs of a query and what it sees, for `tokens` queries after `depth` tokens."""
        first, last = depth + 1, depth + tokens
        if self.window is None or last <= self.window:
            return (first + last) * tokens // 2
        if first >= self.window:
            return tokens * self.window
        rising = self.window - first  # queries that see fewer than the window
        return (first + self.window - 1) * rising // 2 + (tokens - rising) * self.window

    def kept(self, tokens: int) -> int:
        """Tokens of `tokens` that the last query sees."""
        return tokens if self.window is None else min(tokens, self.window)


@dataclass(frozen=True)
class Workload:
    """What a model asks of a board.

    Attributes:
        body: the layers' matrices by format.
        head: the matrix that makes the logits.
        attention: the layers that have it.
        nodes: of the graph.
        activation_bytes: that the layers read and write for a token, between the products.
        file_bytes: of the weights as stored.
        prefill: the prefill graph's matrices, where these are not the body's.
    """

    body: tuple[Matrices, ...]
    head: Matrices
    attention: tuple[Heads, ...]
    nodes: int
    activation_bytes: int
    file_bytes: int
    prefill: tuple[Matrices, ...] = ()


@dataclass(frozen=True)
class Step:
    """Seconds of a forward pass by what they are spent on, and what binds its products."""

    products: float
    attention: float
    activations: float
    nodes: float
    bound: Bound

    @property
    def seconds(self) -> float:
        """All together."""
        return self.products + self.attention + self.activations + self.nodes

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "seconds": self.seconds}


@dataclass(frozen=True)
class Speed:
    """Tokens a second at a depth, and the step behind the figure.

    Attributes:
        depth: tokens in the cache.
        tokens_per_second: the forecast.
        step: what it is made of.
        range: from and to which it may really be; None where the board was measured.
    """

    depth: int
    tokens_per_second: float
    step: Step
    range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Forecast:
    """What is to be expected of a model on a board.

    Attributes:
        threads: with which it computes.
        prefill: of a prompt of `PROMPT` tokens, or of the context where that is shorter.
        prompt: tokens of that prompt.
        decode: at each depth that the context has room for.
        ttft_seconds: until the first token of that prompt.
        load_seconds: reading the file for the first time, and packing the weights.
        ttft_range, load_range: from and to which these may really be; None where the board was measured.
        error_percent: how far forecasts were from measurements on this board at most, by what was forecast.
        notes: what the figures rest on, and what could not be told.
    """

    threads: int
    prompt: int
    prefill: Speed
    decode: tuple[Speed, ...]
    ttft_seconds: float
    load_seconds: float
    notes: tuple[str, ...]
    ttft_range: tuple[float, float] | None = None
    load_range: tuple[float, float] | None = None
    error_percent: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""

        def told(speed: Speed) -> dict[str, Any]:
            return {
                "depth": speed.depth,
                "tokens_per_second": speed.tokens_per_second,
                "range": None if speed.range is None else list(speed.range),
                "bound": speed.step.bound,
                "seconds": speed.step.to_dict(),
            }

        return {
            "threads": self.threads,
            "prompt_tokens": self.prompt,
            "prefill": told(self.prefill),
            "decode": [told(speed) for speed in self.decode],
            "ttft_seconds": self.ttft_seconds,
            "load_seconds": self.load_seconds,
            "ttft_range": None if self.ttft_range is None else list(self.ttft_range),
            "load_range": None if self.load_range is None else list(self.load_range),
            "error_percent": dict(self.error_percent),
            "notes": list(self.notes),
        }


def forecast(
    work: Workload,
    target: Target,
    *,
    context: int,
    threads: int | None = None,
    depths: Sequence[int] = DEPTHS,
) -> Forecast:
    """The speed of a model on a board.

    Args:
        work: what the model asks for.
        target: the board.
        context: the longest prompt plus answer, in tokens.
        threads: None takes the target's, those for decode and those for prefill.
        depths: tokens in the cache beforehand; what the context has no room for is left out.

    Raises:
        OptionError: threads below 1, or more than the board has cores.
    """
    if threads is not None and not 1 <= threads <= target.cpu.cores:
        raise OptionError(
            f"threads must be from 1 to {target.cpu.cores}, the cores of {target.name}, not {threads}",
            hint="for another machine: edgelm doctor --save my.toml on it, then --target my.toml",
        )
    rates, notes = rates_of(target)
    notes += [
        f"{target.name} has no rate for {matrices.spec}: that of {other} is taken"
        for matrices in dict.fromkeys([*work.body, work.head, *work.prefill])
        if (other := rates.product(matrices.spec)[1]) is not None
    ]
    read = sum(matrices.nbytes for matrices in (*work.body, work.head))
    decode = Clock(target, rates, threads or target.cpu.decode_threads(read))
    prefill = Clock(target, rates, threads or target.cpu.prefill_threads)
    prompt = min(PROMPT, context)
    first = prefill.prompt(work, prompt)
    speeds = []
    for depth in depths:
        if depth < context:
            step = decode.step(work, 1, depth)
            speeds.append(_speed(depth, 1 / step.seconds, step, rates.range("decode")))
    if beyond := [f"{depth:,}" for depth in depths if depth >= context]:
        notes.append(f"decode after {' and '.join(beyond)} needs a longer context than {context:,}: export with one")
    load = work.file_bytes / 1e6 / rates.storage_mbs + work.file_bytes / 1e6 / rates.pack_mbs
    return Forecast(
        threads=decode.threads,
        prompt=prompt,
        prefill=_speed(0, prompt / first.seconds, first, rates.range("prefill")),
        decode=tuple(speeds),
        ttft_seconds=first.seconds,
        load_seconds=load,
        notes=tuple(dict.fromkeys(notes)),
        ttft_range=_slower(first.seconds, rates.range("prefill")),
        load_range=_slower(load, rates.range("load")),
        error_percent=rates.error_percent,
    )


def _speed(depth: int, rate: float, step: Step, spread: tuple[float, float] | None) -> Speed:
    return Speed(depth, rate, step, None if spread is None else (rate * spread[0], rate * spread[1]))


def _slower(seconds: float, spread: tuple[float, float] | None) -> tuple[float, float] | None:
    """A time's range, from that of its speed."""
    return None if spread is None else (seconds / spread[1], seconds / spread[0])


@dataclass(frozen=True)
class Clock:
    """A board with a number of threads: how long a step takes there."""

    target: Target
    rates: Rates
    threads: int

    @property
    def cores(self) -> int:
        """By how many a rate of one core is multiplied; a GPU's rate is that of all of it."""
        return 1 if self.target.runtime.provider == "cuda" else self.threads

    @property
    def bandwidth(self) -> float:
        """Bytes a second that all threads read together."""
        if self.target.runtime.provider == "cuda":
            return self.target.memory.bandwidth_gbs * 1e9
        return self.rates.gbs(self.threads, self.target.memory.bandwidth_gbs) * 1e9

    def step(self, work: Workload, tokens: int, depth: int) -> Step:
        """One forward pass of `tokens` after `depth` others."""
        reading = computing = products = 0.0
        for matrices, count in (*((m, tokens) for m in work.body), (work.head, 1)):
            rate = self.rates.product(matrices.spec)[0]
            speed = rate.decode if count == 1 else rate.prefill
            read = matrices.nbytes / self.bandwidth
            computed = count * matrices.weights / (speed * 1e9 * self.cores)
            reading, computing, products = reading + read, computing + computed, products + max(read, computed)
        attention = self._attention(work, tokens, depth)
        activations = tokens * work.activation_bytes / (self.rates.activation_gbs * 1e9 * self.cores)
        nodes = work.nodes * self.rates.node_us / 1e6
        bound: Bound = "bandwidth" if reading > computing else "compute"
        if nodes > products + attention + activations:
            bound = "overhead"
        return Step(products, attention, activations, nodes, bound)

    def prompt(self, work: Workload, tokens: int) -> Step:
        """A whole prompt on an empty cache, its last token's logits included."""
        if not work.prefill:
            return self.step(work, tokens, 0)
        # Read as the file has them, and activations brought to one range and back; the last token is decoded.
        own = replace(
            work,
            body=tuple(replace(m, weights=int(m.weights / _UNPACKED)) for m in work.prefill),
            head=replace(work.head, weights=0, nbytes=0),
            activation_bytes=int(_EVENED * work.activation_bytes),
        )
        read, decoded = self.step(own, tokens, 0), self.step(work, 1, tokens)
        return Step(
            read.products + decoded.products,
            read.attention + decoded.attention,
            read.activations + decoded.activations,
            read.nodes + decoded.nodes,
            read.bound,
        )

    def _attention(self, work: Workload, tokens: int, depth: int) -> float:
        rate = self.rates.attention_decode if tokens == 1 else self.rates.attention_prefill
        pairs = sum(heads.pair * heads.seen(tokens, depth) for heads in work.attention)
        read = sum(heads.kv_bytes * heads.kept(depth + tokens) for heads in work.attention)
        return max(pairs / (rate * 1e9 * self.cores), read / self.bandwidth)


def rates_of(target: Target) -> tuple[Rates, list[str]]:
    """A target's rates, or those of the most similar board that comes with edgelm; and what to know about them."""
    if target.rates is not None:
        return target.rates, [] if target.rates.measured else [_derived(target.name)]
    other = min(
        (board for board in load_all() if board.rates is not None),
        key=lambda board: (
            board.runtime.provider != target.runtime.provider,
            board.cpu.arch != target.cpu.arch,
            board.has_i8mm != target.has_i8mm,
            board.has_dotprod != target.has_dotprod,
            board.cpu.core != target.cpu.core,
        ),
    )
    assert other.rates is not None
    rates = replace(other.rates, measured=False, spread={}, error_percent={})
    return rates, [f"{target.name} has no [rates]: those of {other.name} are taken, so expect a wide error"]


def _derived(name: str) -> str:
    return f"derived, not measured on the board: figures are ranges (where from: edgelm targets {name})"


def from_manifest(manifest: Manifest) -> Workload:
    """The workload of a bundle, from its manifest: the shapes of single matrices and windows are not in it."""
    graph, memory, recipe = manifest.graph, manifest.memory, manifest.recipe
    body_spec, head_spec = recipe.body.spec, recipe.head.spec
    tables = 1 if graph.tied else 2
    head = graph.vocab * graph.hidden
    body = max(0, manifest.model.parameters - tables * head)
    share = head * head_spec.stored_bits / (head * head_spec.stored_bits + body * body_spec.stored_bits)
    kv, itemsize = memory.kv_bytes_per_token, 2 if graph.activations == "float16" else 4
    cached = kv_bytes(recipe, itemsize)
    queries = (graph.heads or graph.kv_heads) / graph.kv_heads
    return Workload(
        body=_mixed(recipe.matrices, int(memory.packed_bytes * (1 - share)))
        if recipe.matrices
        else (Matrices(body_spec, body, int(memory.packed_bytes * (1 - share))),),
        head=Matrices(head_spec, head, int(memory.packed_bytes * share)),
        attention=(
            Heads(int(kv / cached * queries), kv),
            *(
                Heads(int(w.bytes_per_token / cached * queries), w.bytes_per_token, w.window)
                for w in (graph.windows or {}).values()
            ),
        ),
        nodes=_LAYER_NODES * graph.layers
        + _OTHER_NODES
        + _PLACE_NODES * (graph.lora_places or 0)
        + _EVEN_NODES * ((body_spec.op == _ONE_SCALE) * graph.layers + (head_spec.op == _ONE_SCALE)),
        activation_bytes=int(_WIDTH * itemsize * body / graph.hidden),
        file_bytes=memory.weights_bytes + memory.table_bytes,
        prefill=() if recipe.prefill is None else (Matrices(recipe.prefill.spec, body, memory.prefill_bytes),),
    )


def _mixed(matrices: Mapping[str, StoredFormat], packed: int) -> tuple[Matrices, ...]:
    """The layers' matrices by format; `packed` bytes of memory, shared out by their bits."""
    weights: dict[FormatSpec, int] = {}
    for format in matrices.values():
        weights[format.spec] = weights.get(format.spec, 0) + math.prod(format.shape or ())
    bits = {spec: count * spec.stored_bits for spec, count in weights.items()}
    return tuple(Matrices(spec, weights[spec], int(packed * bits[spec] / sum(bits.values()))) for spec in weights)


def kv_bytes(recipe: Recipe, activations: int) -> int:
    """Bytes of a value in the cache, by a manifest's recipe; without an operator of its own as many as `activations`."""
    kv = recipe.kv
    return activations if kv is None or kv.spec.op == "none" else max(1, kv.spec.bits // 8)


_LAYER_NODES, _OTHER_NODES = 10, 11  # of a native graph without extras
_ONE_SCALE, _EVEN_NODES = (
    "DynamicQuantizeMatMul",
    5,
)  # a layer and the head have one product with tokens brought to one range
_PLACE_NODES = 3  # of a matrix beside which an adapter has a place
_UNPACKED = 0.8  # of the rate of packed int8 matrices, what unpacked ones reach; measured on x86-64, 0.76 to 0.87
_EVENED = 1.1  # of what is read and written between products; fitted to the gain of a 0.5B shape's prompt, 1.6
_WIDTH = 1.4  # what matrices read and write for a token, as a multiple of their weights over the hidden size
