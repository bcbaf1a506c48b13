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
        facts = {f.name: getattr(self, f.name) for f in fields(self)}
        return facts | {"products": {name: asdict(rate) for name, rate in self.products.items()}}


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
    table.only(("measured", *names, "source", "products"))
    limits = {"node_us": (0.01, 1e5), "core_gbs": (0.01, 1e4), "activation_gbs": (0.001, 1e4)}
    figures = {name: table.number(name, *limits.get(name, (0.001, 1e6))) for name in names}
    products = table.table("products")
    if not products.data:
        table.fail("products", "is empty: give the rate of one format at least")
    return Rates(
        measured=table.flag("measured"),
        source=" ".join(table.string("source").split()),
        products=MappingProxyType({name: _product(products.table(name)) for name in products.data}),
        **figures,
    )


def _product(table: Table) -> Product:
    table.only(("prefill", "decode"))
    return Product(prefill=table.number("prefill", 0.001, 1e6), decode=table.number("decode", 0.001, 1e6))
