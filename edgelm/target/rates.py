"""How fast a board computes: the constants from which `edgelm estimate` forecasts, a target file's ``[rates]``.

Rates are of one core (of the whole GPU where the provider is ``cuda``); what they mean is in docs/notes/estimate.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from edgelm.bundle.format_spec import FormatSpec
from edgelm.target.table import Table


@dataclass(frozen=True)
class Product:
    """10**9 multiply-accumulates a second of a matrix product: of many tokens at once, and of a single one."""

    prefill: float
    decode: float


@dataclass(frozen=True)
class Rates:
    """The constants of a board.

    Attributes:
        measured: on the board itself; else they are derived, see `source`.
        node_us: microseconds that the runtime spends on a node of the graph, whatever it computes.
        core_gbs: GB/s (10**9) that one core alone reads; all threads together read the memory's `bandwidth_gbs`.
        activation_gbs: GB/s at which a core reads and writes activations between the products (norms, residuals).
        attention_prefill, attention_decode: 10**9 multiply-accumulates a second of attention, many tokens or one.
        storage_mbs: MB/s (10**6) at which a file is read for the first time.
        pack_mbs: MB/s of a file's weights laid out for the kernels when a model is loaded, on all threads.
        source: where the figures come from.
        products: by format, as `FormatSpec` prints itself: ``MatMulNBits 4-bit block 32``.
        thread_gbs: GB/s that 1, 2, … threads read together, where that is no straight line; empty for `core_gbs` times
            the threads, up to the memory's `bandwidth_gbs`.
        spread: of ``prefill``, ``decode`` and ``load`` how many times the forecast figure may really be, from and to,
            where nothing was measured on the board; of speeds, so that times are the other way round.
        error_percent: of the same and ``memory`` how far forecasts were from measurements on the board at most.
    """

    measured: bool
    node_us: float
    core_gbs: float
    activation_gbs: float
    attention_prefill: float
    attention_decode: float
    storage_mbs: float
    pack_mbs: float
    source: str
    products: Mapping[str, Product] = field(hash=False)
    thread_gbs: tuple[float, ...] = ()
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    error_percent: Mapping[str, float] = field(default_factory=dict, hash=False)

    def gbs(self, threads: int, most: float) -> float:
        """GB/s that so many threads read together; `most` is what the memory gives."""
        if self.thread_gbs:
            return self.thread_gbs[min(threads, len(self.thread_gbs)) - 1]
        return min(most, self.core_gbs * threads)

    def range(self, what: str) -> tuple[float, float] | None:
        """How many times a forecast speed may really be, from and to; None where it was measured on the board."""
        return None if self.measured else self.spread.get(what, _UNKNOWN[what])

    def product(self, spec: FormatSpec) -> tuple[Product, str | None]:
        """The rate of a format, and the name of the nearest one where it is that one's.

        Nearest is the same operator and bits with the block that differs least, then the same operator, then the
        slowest of all, so that a forecast errs on the side of caution.
        """
        if (exact := self.products.get(spec.kernel)) is not None:
            return exact, None
        name = min(self.products, key=lambda other: (_distance(spec, other), self.products[other].prefill))
        return self.products[name], name

    def to_dict(self) -> dict[str, Any]:
        """The table of a target file, for JSON."""
        facts = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) or f.name in _ALWAYS}
        lists = {"thread_gbs": list(self.thread_gbs), "spread": {k: list(v) for k, v in self.spread.items()}}
        facts |= {name: value for name, value in lists.items() if value}
        facts |= {"error_percent": dict(self.error_percent)} if self.error_percent else {}
        return facts | {"products": {name: asdict(rate) for name, rate in self.products.items()}}


_ALWAYS = ("measured",)
# For boards whose file says nothing else: what derived figures were off by where something was published.
_UNKNOWN = {"prefill": (0.5, 2.0), "decode": (0.7, 1.4), "load": (0.4, 2.5)}
_ERRORS = (*_UNKNOWN, "memory")


_FAR = 1 << 20


def _distance(spec: FormatSpec, name: str) -> int:
    """How far the format called `name` is from `spec`."""
    op, _, rest = name.partition(" ")
    if op != spec.op:
        return 4 * _FAR
    if not rest.startswith(f"{spec.bits}-bit"):
        return 2 * _FAR
    block = rest.partition(" block ")[2]
    return abs(int(block) - (spec.block or 0)) if block.isdecimal() else _FAR


def read_rates(table: Table) -> Rates:
    """The ``[rates]`` of a target file."""
    names = (
        "node_us",
        "core_gbs",
        "activation_gbs",
        "attention_prefill",
        "attention_decode",
        "storage_mbs",
        "pack_mbs",
    )
    table.only(("measured", *names, "source", "products", "thread_gbs", "spread", "error_percent"))
    limits = {"node_us": (0.01, 1e5), "core_gbs": (0.01, 1e4), "activation_gbs": (0.001, 1e4)}
    figures = {name: table.number(name, *limits.get(name, (0.001, 1e6))) for name in names}
    products = table.table("products")
    if not products.data:
        table.fail("products", "is empty: give the rate of one format at least")
    return Rates(
        measured=table.flag("measured"),
        source=" ".join(table.string("source").split()),
        products=MappingProxyType({name: _product(products.table(name)) for name in products.data}),
        thread_gbs=table.numbers("thread_gbs", 0.01, 1e4) if "thread_gbs" in table.data else (),
        spread=_spread(table.table("spread")) if "spread" in table.data else {},
        error_percent=_errors(table.table("error_percent")) if "error_percent" in table.data else {},
        **figures,
    )


def _spread(table: Table) -> Mapping[str, tuple[float, float]]:
    table.only(tuple(_UNKNOWN))
    found = {}
    for name in table.data:
        values = table.numbers(name, 0.01, 100)
        if len(values) != 2 or not values[0] <= 1 <= values[1]:
            table.fail(name, "must be two numbers around 1: how many times the figure may really be, from and to")
        found[name] = (values[0], values[1])
    return MappingProxyType(found)


def _errors(table: Table) -> Mapping[str, float]:
    table.only(_ERRORS)
    return MappingProxyType({name: table.number(name, 0, 1000) for name in table.data})


def _product(table: Table) -> Product:
    table.only(("prefill", "decode"))
    return Product(prefill=table.number("prefill", 0.001, 1e6), decode=table.number("decode", 0.001, 1e6))
