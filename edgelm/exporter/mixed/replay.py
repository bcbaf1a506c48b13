"""A recipe from a file: the manifest of a bundle, or what is left of one, replayed on the model it was made for.

    {"quant": "auto", "recipe": {"body": {"op": …, "bits": …, "block": …}, "head": …, "embedding": …, "kv": …,
     "matrices": {"model.layers.0.mlp.down_proj": {"op": …, "bits": …, "block": …, "shape": [n, k]}, …}}}

``matrices`` may be left out: then `body` holds for all. ``calibration`` and ``mixed`` are taken over where they are
there, so that the same model, target and text give the same bundle, byte by byte.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from edgelm.bundle.json_table import JsonTable, read_json
from edgelm.bundle.origins import Mixed, Text
from edgelm.bundle.reader import MANIFEST
from edgelm.errors import ExportError
from edgelm.evaluate.passages import is_builtin, load_passages
from edgelm.exporter.formats.registry import make_format
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.progress import Progress
from edgelm.target.operators import OPERATORS, operators_of
from edgelm.target.target import ROLES, FormatSpec, RecipeSpec, Target

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HINT = "a recipe is a bundle, its manifest.json, or a JSON file with the 'recipe' of one"


@dataclass(frozen=True)
class Replay:
    """A recipe that was read.

    Attributes:
        path: of the file.
        quant: what the recipe is called.
        spec: the formats.
        shapes: of the matrices [n, k], where the file has them.
        calibrated, kv_calibrated: on which text matrices were rounded, and the scales of keys and values found; or None.
        mixed: how the formats were chosen, as in the manifest, or None.
    """

    path: Path
    quant: str
    spec: RecipeSpec
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    calibrated: Text | None = None
    kv_calibrated: Text | None = None
    mixed: Mixed | None = None

    def slow(self, target: Target) -> list[str]:
        """Operators of its matrices that fall back to slow kernels on a target's core, sorted."""
        formats = [make_format(spec) for spec in (self.spec.body, self.spec.head, *self.spec.matrices.values())]
        return sorted({format.spec.op for format in formats if format.falls_back(target)})

    def check(self, decoder: Decoder | None) -> None:
        """Whether it suits a model; None is one without a native family.

        Raises:
            ExportError: it is for another one; it names the matrix.
        """
        if not self.spec.matrices:
            return
        if decoder is None:
            raise ExportError(
                f"{self.path}: a recipe of single matrices is for models with a native family",
                hint="see: edgelm families",
            )
        hint = "replay a recipe on the model it was made for, or choose anew: --quant auto"
        linears = {linear.name: linear for linear in decoder.linears}
        if strange := [name for name in self.spec.matrices if name not in linears]:
            raise ExportError(
                f"{self.path} is a recipe for another model: this one has no matrix {strange[0]!r}", hint=hint
            )
        if missing := [name for name in linears if name not in self.spec.matrices]:
            raise ExportError(f"{self.path} is a recipe for another model: it has no matrix {missing[0]!r}", hint=hint)
        for name, shape in self.shapes.items():
            here = (linears[name].outputs, linears[name].inputs)
            if shape != here:
                raise ExportError(
                    f"{self.path} is a recipe for another model: {name} is {list(shape)} there, and {list(here)} here",
                    hint=hint,
                )

    def text(self, wanted: str | None, progress: Progress) -> str | None:
        """The text to calibrate on: the one `wanted`, else the one that the recipe was made with.

        Raises:
            ExportError: that text is a file, which has to be given.
        """
        known = self.calibrated or self.kv_calibrated
        if known is None:
            return wanted or "none"
        name, digest = known.name, known.sha256
        own = is_builtin(name) and load_passages(name, "calibration").sha256 == digest
        if self.calibrated is None and own:  # scales of an int8 KV cache are found on it without being asked
            return wanted or "none"
        if wanted is None:
            if not own:
                raise ExportError(
                    f"{self.path}: the recipe was calibrated on {name} (SHA-256 {digest[:12]})",
                    hint="give that text with --calibrate; --calibrate none does without, and gives other bytes",
                )
            return name
        if wanted == "none" or load_passages(wanted, "calibration").sha256 != digest:
            progress.say(f"the recipe was calibrated on {name} (SHA-256 {digest[:12]}): the bytes will be others")
        return wanted


def read_replay(path: str | os.PathLike[str]) -> Replay:
    """The recipe of a bundle, of its manifest.json, or of a file with such a ``recipe``.

    Raises:
        ExportError: there is none; it names the file and the key.
    """
    place = Path(path)
    file = place / MANIFEST if place.is_dir() else place
    data = read_json(file, error=ExportError, hint=_HINT)
    top, table = _Part(file, "", data), JsonTable(file, data, error=ExportError, hint=_HINT)
    recipe = top.part("recipe")
    body, head, embedding, kv = (recipe.format(role, role) for role in ROLES)
    quant = top.data.get("quant", "recipe")
    if not isinstance(quant, str) or not _NAME.fullmatch(quant):
        top.fail("quant", f"is no name for a recipe: {quant!r}")
    prefill = recipe.format("prefill", "prefill") if "prefill" in recipe.data else None
    matrices = recipe.part("matrices") if "matrices" in recipe.data else _Part(file, "", {})
    shapes = {name: matrices.part(name).shape() for name in matrices.data if "shape" in matrices.part(name).data}
    return Replay(
        file,
        quant,
        RecipeSpec(
            body,
            head,
            embedding,
            kv,
            matrices={name: matrices.format(name, "body") for name in matrices.data},
            prefill=prefill,
        ),
        shapes,
        calibrated=_text(table, "calibration"),
        kv_calibrated=_text(table, "kv_calibration"),
        mixed=Mixed.read(table.table("mixed")) if table.has("mixed") else None,
    )


def _text(table: JsonTable, key: str) -> Text | None:
    """What is said under `key` to have been measured on."""
    facts = table.table(key) if table.has(key) else None
    return None if facts is None or not facts.has("text") else Text.read(facts.table("text"))


@dataclass(frozen=True)
class _Part:
    """An object inside the file, and its dotted key."""

    file: Path
    key: str
    data: Mapping[str, Any]

    def fail(self, key: str, problem: str) -> NoReturn:
        raise ExportError(f"{self.file}: {self._dotted(key)} {problem}", hint=_HINT)

    def part(self, key: str) -> _Part:
        value = self.data.get(key)
        if not isinstance(value, dict):
            self.fail(key, "is missing" if key not in self.data else "must be an object")
        return _Part(self.file, self._dotted(key), value)

    def format(self, key: str, role: str) -> FormatSpec:
        """The format under `key`, one of those that a `role` may have."""
        part = self.part(key)
        op, bits, block = (part.data.get(name) for name in ("op", "bits", "block"))
        if role == "embedding" and isinstance(op, str) and op in OPERATORS:  # manifests name it by the head's operator
            op = OPERATORS[op].lookup or op
        known = operators_of(role)
        if not isinstance(op, str) or op not in known:
            part.fail("op", f"must be one of {', '.join(known)}, not {op!r}")
        all_bits, blocks = known[op].bits, known[op].blocks
        if isinstance(bits, bool) or bits not in all_bits:
            part.fail("bits", f"must be one of {', '.join(map(str, all_bits))} for {op}, not {bits!r}")
        if isinstance(block, bool) or block not in (blocks or (None,)):
            part.fail("block", f"must be one of {', '.join(map(str, blocks)) or 'none'} for {op}, not {block!r}")
        flags = {"zero_points": known[op].zero_points, "half_scales": bool(blocks)}
        for name, may_be in flags.items():
            value = part.data.get(name, False)
            if not isinstance(value, bool) or (value and not may_be):
                part.fail(name, f"must be {'true or ' if may_be else ''}false for {op}")
        set_flags = {name: part.data.get(name) or None for name in flags}
        return FormatSpec(op, int(bits), None if block is None else int(block), **set_flags)

    def shape(self) -> tuple[int, int]:
        """[n, k]."""
        value = self.data["shape"]
        if not (isinstance(value, list) and len(value) == 2 and all(type(size) is int for size in value)):
            self.fail("shape", f"must be two whole numbers, not {value!r}")
        return value[0], value[1]

    def _dotted(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key
