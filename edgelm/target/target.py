"""A target is one board: its cores, memory and bandwidth, and how a model is stored and run there.

Targets are TOML files. Those which come with edgelm are known by name; a file of your own works wherever a name does.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgelm.bundle.format_spec import FormatSpec as FormatSpec
from edgelm.errors import TargetError, expect_type, near
from edgelm.files import path_argument, read_text
from edgelm.target.operators import operators_of
from edgelm.target.rates import Rates, read_rates
from edgelm.target.table import Table
from edgelm.target.toml_lines import key_lines

ROLES = ("body", "head", "embedding", "kv")
AUTO = ("auto", "host")  # names of the target that fits this machine

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # targets and recipes give their names to folders


@dataclass(frozen=True)
class RecipeSpec:
    """The format of each role: `body` (the layers' matrices), `head` (lm_head), `embedding`, `kv` (the cache).

    `up` is that of the feed-forwards' first matrices (gate and up), half of a model's weights and those that lose least,
    where it is another one than `body`.

    `matrices` has those of body matrices that differ from `body`, by the matrix' name; `prefill` is the format of the
    layers' matrices in a prefill graph, or None.
    """

    body: FormatSpec
    head: FormatSpec
    embedding: FormatSpec
    kv: FormatSpec
    note: str | None = None
    matrices: Mapping[str, FormatSpec] = field(default_factory=dict, hash=False)
    prefill: FormatSpec | None = None
    up: FormatSpec | None = None

    def to_dict(self) -> dict[str, Any]:
        """Role -> format, as in a manifest; with the prefill graph's format and the note where there are such."""
        roles: dict[str, Any] = {role: getattr(self, role).to_dict() for role in ROLES}
        roles |= {name: spec.to_dict() for name in ("up", "prefill") if (spec := getattr(self, name)) is not None}
        return roles | ({"note": self.note} if self.note else {})


@dataclass(frozen=True)
class Cpu:
    """The processor: `arch` as platform.machine() says it, `core` by its QEMU name, flags of /proc/cpuinfo.

    `cores` counts all cores; `threads` are those worth using for decode, `prefill_threads` for prefill. Where fewer
    read memory faster, `large_threads` are those for decode of models that read `large_mb` (10**6 bytes) or more for a
    token.
    """

    arch: str
    core: str
    features: tuple[str, ...]
    cores: int
    threads: int
    prefill_threads: int
    large_mb: int | None = None
    large_threads: int | None = None

    def decode_threads(self, weight_bytes: int) -> int:
        """Threads for decode of a model that reads so many bytes of weights for a token."""
        if self.large_mb is None or self.large_threads is None or weight_bytes < self.large_mb * 1_000_000:
            return self.threads
        return self.large_threads


@dataclass(frozen=True)
class Memory:
    """RAM and what of it a model may use, in MB (2**20 bytes); the GB/s (10**9) at which decode reads weights."""

    ram_mb: int
    usable_mb: int
    bandwidth_gbs: float
    source: str


@dataclass(frozen=True)
class Runtime:
    """onnxruntime's provider (``cpu``, ``cuda``), the type of activations (``fp32``, ``fp16``), tokens of context."""

    provider: str
    activations: str
    context: int


@dataclass(frozen=True)
class Target:
    """One board. `recipes` are those of its file; `fp32` and `fp16` exist for every target besides."""

    name: str
    description: str
    default: str
    cpu: Cpu
    memory: Memory
    runtime: Runtime
    recipes: Mapping[str, RecipeSpec] = field(hash=False)
    board: str | None = None  # how /proc/device-tree/model begins on it, where it has one
    rates: Rates | None = None  # how fast it computes, for `edgelm estimate`

    @property
    def has_dotprod(self) -> bool:
        """ARM int8 dot products (SDOT): without them 4-bit products fall back to dequantising."""
        return "asimddp" in self.cpu.features

    @property
    def has_i8mm(self) -> bool:
        """ARM int8 matrix products (SMMLA)."""
        return "i8mm" in self.cpu.features

    @property
    def zero_points(self) -> bool:
        """Whether 4-bit blocks had better have zero points on it: its recipes say so."""
        specs = {spec for recipe in self.recipes.values() for spec in (recipe.body, recipe.up) if spec is not None}
        return any(spec.zero_points for spec in specs)

    @property
    def quants(self) -> tuple[str, ...]:
        """The values `recipe` takes, the default first."""
        own = sorted({*self.recipes, "fp32", "fp16"} - {self.default})
        return (self.default, *own)

    def recipe(self, quant: str | None = None) -> RecipeSpec:
        """The recipe called `quant` (``int4``, ``int8``, ``fp16``, ``fp32``); None is the target's default.

        Raises:
            TargetError: the target has no such recipe.
        """
        name = self.default if quant is None else quant
        expect_type("quant", name, str, "the name of a recipe")
        if name in self.recipes:
            return self.recipes[name]
        if name in ("fp32", "fp16"):
            return self._plain(int(name[2:]))
        raise TargetError(
            f"target {self.name} has no recipe {name!r}", hint=near(name, self.quants, listing=f"{self.name} has")
        )

    def _plain(self, bits: int) -> RecipeSpec:
        """Weights as they are. The cache has the type of the activations (fp32 beside fp32 weights): attention reads
        no other.
        """
        half = bits == 16 and self.runtime.activations == "fp16"
        matrix, kv = FormatSpec("MatMul", bits), FormatSpec("none", 16 if half else 32)
        return RecipeSpec(matrix, matrix, FormatSpec("Gather", bits), kv)

    def to_dict(self) -> dict[str, Any]:
        """The content of the target's file, for JSON."""
        return {
            "name": self.name,
            "description": self.description,
            **({"board": self.board} if self.board else {}),
            "default": self.default,
            "cpu": {k: v for k, v in asdict(self.cpu).items() if v is not None} | {"features": list(self.cpu.features)},
            "memory": asdict(self.memory),
            "runtime": asdict(self.runtime),
            "recipe": {name: recipe.to_dict() for name, recipe in self.recipes.items()},
            **({"rates": self.rates.to_dict()} if self.rates else {}),
        }


def target_names() -> list[str]:
    """The names of the targets that come with edgelm, in alphabetical order."""
    return sorted(path.stem for path in _targets_dir().glob("*.toml"))


def load_all() -> list[Target]:
    """All targets that come with edgelm, in the order of their names."""
    return [load_target(name) for name in target_names()]


def load_target(name_or_path: str | os.PathLike[str]) -> Target:
    """The target of that name, or the one described in that file; ``auto`` (or ``host``) is the one that fits this
    machine, as `edgelm doctor` finds it.

    Raises:
        TargetError: no such target or file, or one that is not a valid target; it names the file, key and line. Or none
            fits this machine.
    """
    name = name_or_path if isinstance(name_or_path, str) else os.fspath(path_argument("name_or_path", name_or_path))
    if isinstance(name_or_path, str) and name in AUTO:
        from edgelm.target.match import target_here  # which looks through these

        return target_here()
    known = target_names()
    if isinstance(name_or_path, str) and name in known:
        return _parse(_targets_dir() / f"{name}.toml")
    path = Path(name)
    if name and (name.endswith(".toml") or os.sep in name or os.path.isfile(path)):
        return _parse(path)
    raise TargetError(
        f"unknown target {name!r}",
        hint=near(name, known, listing="targets") + " (auto is this machine's; a .toml file works too)",
    )


def target_toml(name_or_path: str) -> str:
    """The file that describes a target, for a copy to begin with; raises as `load_target` does."""
    target = load_target(name_or_path)
    known = name_or_path in AUTO or name_or_path in target_names()
    return _read(_targets_dir() / f"{target.name}.toml" if known else Path(name_or_path))


def _targets_dir() -> Path:
    """Inside the package once installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "_targets"
    return installed if installed.is_dir() else package.parent / "targets"


def _parse(path: Path) -> Target:
    text = _read(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, place = str(error).partition(" (at ")
        line = re.match(r"line (\d+)", place)
        raise TargetError(
            f"{path}:{line[1] if line else len(text.splitlines()) or 1}: {message[:1].lower()}{message[1:]}",
            hint=f"not valid TOML; {_example()}",
        ) from None
    return _target(Table(path, key_lines(text), (), data, _example()))


_LONGEST = 1 << 20  # bytes of a target file


def _read(path: Path) -> str:
    try:
        return read_text(path, _LONGEST)
    except FileNotFoundError:
        names = ", ".join(target_names())
        raise TargetError(f"no target file {path}", hint=f"names that need no file: {names}") from None
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror or error}", hint="a target is a TOML file") from None
    except ValueError as error:  # not UTF-8, or no possible file name
        raise TargetError(f"{str(path)!r} is not a text file: {error}", hint="a target is a TOML file") from None


def _example() -> str:
    return f"compare with {_targets_dir() / 'rpi5.toml'}"


def _target(top: Table) -> Target:
    top.only(("name", "description", "board", "default", "cpu", "memory", "runtime", "recipe", "rates"))
    name = top.string("name")
    if not _NAME.fullmatch(name):
        top.fail("name", f"must consist of letters, digits, '.', '_' and '-', not {name!r}")
    recipe = top.table("recipe")
    for quant in recipe.data:
        if quant in ("fp32", "fp16"):
            recipe.fail(quant, "is built in and cannot be changed")
        if not _NAME.fullmatch(quant):
            recipe.fail(quant, "is no name for a recipe: letters, digits, '.', '_' and '-'")
    runtime = _runtime(top.table("runtime"))
    recipes = {quant: _recipe(recipe.table(quant), runtime) for quant in recipe.data}
    return Target(
        name=name,
        description=top.string("description"),
        default=top.string("default", choices=[*recipes, "fp32", "fp16"]),
        cpu=_cpu(top.table("cpu")),
        memory=_memory(top.table("memory")),
        runtime=runtime,
        recipes=MappingProxyType(recipes),
        board=top.string("board") if "board" in top.data else None,
        rates=read_rates(top.table("rates")) if "rates" in top.data else None,
    )


def _cpu(table: Table) -> Cpu:
    table.only(("arch", "core", "features", "cores", "threads", "prefill_threads", "large_mb", "large_threads"))
    cores = table.integer("cores", 1, 1024)
    large = [key in table.data for key in ("large_mb", "large_threads")]
    if any(large) and not all(large):
        table.fail("large_mb" if large[0] else "large_threads", "needs large_mb and large_threads, both or neither")
    return Cpu(
        arch=table.string("arch", choices=("aarch64", "x86_64")),
        core=table.string("core"),
        features=table.strings("features"),
        cores=cores,
        threads=table.integer("threads", 1, cores),
        prefill_threads=table.integer("prefill_threads", 1, cores),
        large_mb=table.integer("large_mb", 1, 2**24) if all(large) else None,
        large_threads=table.integer("large_threads", 1, cores) if all(large) else None,
    )


def _memory(table: Table) -> Memory:
    table.only(("ram_mb", "usable_mb", "bandwidth_gbs", "source"))
    ram = table.integer("ram_mb", 16, 2**24)
    return Memory(
        ram_mb=ram,
        usable_mb=table.integer("usable_mb", 1, ram),
        bandwidth_gbs=table.number("bandwidth_gbs", 0.01, 10000),
        source=" ".join(table.string("source").split()),
    )


def _runtime(table: Table) -> Runtime:
    table.only(("provider", "activations", "context"))
    return Runtime(
        provider=table.string("provider", choices=("cpu", "cuda")),
        activations=table.string("activations", choices=("fp32", "fp16")),
        context=table.integer("context", 16, 2**20),
    )


def _recipe(table: Table, runtime: Runtime) -> RecipeSpec:
    table.only((*ROLES, "up", "prefill", "note"))
    body, head, embedding, kv = (_format(role, table.table(role)) for role in ROLES)
    if kv.op != "none" and runtime.provider != "cpu":
        table.table("kv").fail("op", f"must be 'none' for provider {runtime.provider!r}: 8 bits are for the CPU")
    prefill = _format("prefill", table.table("prefill")) if "prefill" in table.data else None
    if prefill is not None and (runtime.provider, runtime.activations) != ("cpu", "fp32"):
        table.fail("prefill", "is for provider 'cpu' and activations 'fp32'")
    note = table.string("note") if "note" in table.data else None
    up = _format("body", table.table("up")) if "up" in table.data else None
    return RecipeSpec(body, head, embedding, kv, note, prefill=prefill, up=up)


def _format(role: str, table: Table) -> FormatSpec:
    table.only(("op", "bits", "block", "zero_points", "half_scales"))
    known = operators_of(role)
    op = table.string("op", choices=known)
    bits = table.choice("bits", known[op].bits, f" for {op}")
    zero_points = True if "zero_points" in table.data and table.flag("zero_points") else None
    if zero_points and not known[op].zero_points:
        table.fail("zero_points", f"do not go with {op}: leave them out")
    if known[op].blocks:
        half = True if "half_scales" in table.data and table.flag("half_scales") else None
        block = table.choice("block", known[op].blocks, f" for {op}")
        return FormatSpec(op, bits, block, zero_points=zero_points, half_scales=half)
    for key in ("block", "half_scales"):
        if key in table.data:
            table.fail(key, f"does not go with {op}: leave it out")
    return FormatSpec(op, bits)
