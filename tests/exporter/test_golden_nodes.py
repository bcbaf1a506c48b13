"""The nodes of every family's graph in every kind of recipe, as tests/exporter/golden/nodes.txt has them committed: what a
change does to a graph shows in the diff.

``EDGELM_UPDATE_NODES=1 python -m pytest tests/exporter/test_golden_nodes.py`` writes the file anew. A new family gets its
smallest config.json in golden/configs.json first. Nothing is read or packed: graphs are built over tensors of zeros.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import Any

import onnx

from edgelm.exporter import families, native
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.recipe import Choices, GraphPlan
from edgelm.target.target import load_target

GOLDEN = Path(__file__).parent / "golden"
CONFIGS: dict[str, dict[str, Any]] = json.loads((GOLDEN / "configs.json").read_text(encoding="utf-8"))
CONTEXT = 128
UPDATE = "as meant? EDGELM_UPDATE_NODES=1 writes tests/exporter/golden/nodes.txt anew"

Choice = tuple[str, str, Choices, bool]
"""Target, recipe, choices, whether adapters have a place."""

EXACT: Choice = ("x86-64", "fp32", Choices(), False)
INT4: Choice = ("rpi5", "int4", Choices(), False)
RECIPES: dict[str, tuple[Choice, Choice]] = {  # name → (what it is, what it is compared with)
    "int4": (INT4, EXACT),
    "int8": (("rpi4", "int8", Choices(), False), EXACT),
    "int4 cuda": (("jetson-orin-nano", "int4", Choices(), False), INT4),
    "int4, int8 KV cache": (("rpi5", "int4", Choices(kv="int8"), False), INT4),
    "int4, prefill.onnx": (("rpi5", "int4", Choices(prefill="int8"), False), INT4),
    "int4, LoRA-ready": (("rpi5", "int4", Choices(), True), INT4),
}

OPTIONAL = ("GroupQueryAttention", "MatMulNBits", "DynamicQuantizeMatMul")
"""Operators with inputs that may be left out, such as a bias or the scales of an int8 KV cache: how many there are is told."""

Node = tuple[str, str]
"""Its operator, and its name."""

target_of = cache(load_target)


def graphs(decoder: Decoder, target: str, quant: str, choices: Choices, lora_ready: bool) -> list[list[Node]]:
    """The nodes of a bundle's graphs, in their order."""
    board = target_of(target)
    plan = GraphPlan(decoder, choices.of(board.recipe(quant), board), board, CONTEXT, lora_ready)
    models = [onnx.load_model_from_string(b.serialized({})) for b, _ in native.blank_graphs(plan)]
    for model in models:
        assert len({node.name for node in model.graph.node}) == len(model.graph.node), "names of nodes are their own"
    return [[(label(node), node.name) for node in model.graph.node] for model in models]


def label(node: onnx.NodeProto) -> str:
    return f"{node.op_type}/{sum(map(bool, node.input))}" if node.op_type in OPTIONAL else node.op_type


def sections(decoder: Decoder, nodes: list[Node]) -> list[tuple[str, str]]:
    """(Where, operators in their order): the start, layers of the same nodes together, the end."""

    def layer_of(name: str) -> int | None:
        inside = (i for i, layer in enumerate(decoder.layers) if name.startswith((f"{layer.name}.", f"{layer.name}/")))
        return next(inside, None)

    found: dict[int, list[str]] = {index: [] for index in range(-1, len(decoder.layers) + 1)}
    place = -1
    for operator, name in nodes:
        index = layer_of(name)
        place = len(decoder.layers) if index is None and place >= 0 else -1 if index is None else index
        found[place].append(operator)
    layers: dict[str, list[str]] = {}
    for index in range(len(decoder.layers)):
        layers.setdefault(written(found[index]), []).append(str(index))
    return [
        ("start", written(found[-1])),
        *((f"layer {' '.join(numbers)}", operators) for operators, numbers in layers.items()),
        ("end", written(found[len(decoder.layers)])),
    ]


def written(operators: list[str]) -> str:
    """Those that follow each other are counted."""
    runs = [(name, len(list(run))) for name, run in groupby(operators)]
    return " ".join(name if count == 1 else f"{name}*{count}" for name, count in runs)


def difference(nodes: list[Node], base: list[Node]) -> str:
    """How many more or fewer nodes of each operator than in `base`."""
    counts = Counter(operator for operator, _ in nodes)
    counts.subtract(operator for operator, _ in base)
    return " ".join(f"{name}{count:+d}" for name, count in sorted(counts.items()) if count) or "the same"


def described(kind: str, config: Mapping[str, Any]) -> str:
    """What the file says about one model type."""
    decoder = families.describe(Config({"model_type": kind, **config}, GOLDEN / "configs.json"))
    made = {choice: graphs(decoder, *choice)[-1] for choice in (EXACT, *(choice for choice, _ in RECIPES.values()))}
    lines = [(f"fp32 {where}", operators) for where, operators in sections(decoder, made[EXACT])]
    lines += [(name, difference(made[choice], made[base])) for name, (choice, base) in RECIPES.items()]
    return "\n".join(line for where, text in lines for line in filled(where, text))


def filled(where: str, text: str) -> Iterator[str]:
    yield from wrap(text, 118, initial_indent=f"  {where}: ", subsequent_indent="      ", break_long_words=False)


def whole() -> str:
    """The file: model types with the same graphs together."""
    same: dict[str, list[str]] = {}
    for kind, config in CONFIGS.items():
        same.setdefault(described(kind, config), []).append(kind)
    head = "# Operators in fp32 (/inputs); in int4 and int8 how many more or fewer, and in its variants how many more than in int4."
    return "\n".join([head, *(f"\n{' '.join(kinds)}\n{text}" for text, kinds in same.items())]) + "\n"


def test_nodes_are_those_that_are_committed() -> None:
    path, found = GOLDEN / "nodes.txt", whole()
    if os.environ.get("EDGELM_UPDATE_NODES"):
        path.write_text(found, encoding="utf-8")
    assert found.splitlines() == path.read_text(encoding="utf-8").splitlines(), UPDATE


def test_every_family_has_its_place() -> None:
    missing = [f.name for f in families.all_families() if not set(f.model_types) & CONFIGS.keys()]
    assert not missing, f"add the smallest config.json of a model of {missing[0]} to tests/exporter/golden/configs.json"
