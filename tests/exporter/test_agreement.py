"""The table of docs/notes/families.md: what int8 and int4 leave of every native family's likeliest tokens.

    pytest -m slow -s tests/exporter/test_agreement.py

prints it. Weights are random, with a standard deviation of 0.05; of families that would give every token nearly the same
logits with that, 0.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from parity import agreement, load_model, some_ids
from test_golden_nodes import CONFIGS
from test_gpt_parity import SHAPES as GPT
from test_lfm2_parity import COMMON as LFM2_COMMON
from test_lfm2_parity import SHAPES as LFM2
from test_llama_parity import SHAPES as LLAMA
from test_phi_parity import SHAPES as PHI
from test_qwen3_5_parity import DENSE, qwen3_5
from test_qwen_gemma_parity import SHAPES as QWEN_GEMMA
from test_renamed_parity import made

from edgelm.exporter import families
from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine

SMALL = {"initializer_range": 0.05}
SHAPES = {
    "llama": {**LLAMA["bias"], **SMALL},
    "arcee": {"kind": "arcee", **SMALL},
    "mistral": {"kind": "mistral", "sliding_window": 16, **SMALL},
    "ministral": {"kind": "ministral", "sliding_window": 16, "head_dim": 16, **SMALL},
    **{kind: {**QWEN_GEMMA[kind], **SMALL} for kind in ("qwen2", "qwen3", "gemma", "gemma2", "smollm3", "granite")},
    "gemma3_text": {**QWEN_GEMMA["gemma3"], **SMALL},
    "olmo2": {**QWEN_GEMMA["olmo2-bias"], **SMALL},
    "olmo3": {**QWEN_GEMMA["olmo3"], **SMALL},
    "phi": {**PHI["phi-normed"], **SMALL},
    "phi3": {**PHI["phi4-mini"], **SMALL},
    "stablelm": {**PHI["stablelm-bias"], **SMALL},
    "helium": {**PHI["helium-bias"], **SMALL},
    "nemotron": {**PHI["nemotron-bias"], **SMALL},
    "exaone4": {**PHI["exaone4"], **SMALL},
    "cohere2": {**PHI["cohere2"], **SMALL},
    "ernie4_5": {"kind": "ernie4_5", "head_dim": 16, **SMALL},
    "gpt2": GPT["gpt2"],
    "gpt_neox": GPT["pythia"],
    "opt": GPT["opt"],
    "lfm2": {"kind": "lfm2", **LFM2_COMMON, **LFM2["mixed"], **SMALL},
    "qwen3_next": {"kind": "qwen3_next", **DENSE, **SMALL},
}
RENAMED = {"internlm2": "internlm2-bias", "internlm3": "internlm3", "exaone": "exaone"}
SAME = {"gemma3": "gemma3_text", "qwen3_5": "qwen3_5_text", "phi4": "phi3"}  # by another name, or around it
COLUMNS = (("int8", "rpi5"), ("int8", "x86-64"), ("int4", "rpi5"))


def checkpoints(tiny_checkpoint: Callable[..., Path], kind: str) -> tuple[Path, Path]:
    """(checkpoint of that model type, the same as the transformers in use knows it)."""
    if kind in RENAMED:
        return made(tiny_checkpoint, RENAMED[kind], **SMALL)
    if kind == "qwen3_5_text":
        settings = SHAPES["qwen3_next"]
        return qwen3_5(tiny_checkpoint(**settings), outer=False), tiny_checkpoint(**settings)
    checkpoint = tiny_checkpoint(**SHAPES.get(kind, {"kind": kind, **CONFIGS.get(kind, {}), **SMALL}))
    return checkpoint, checkpoint


# A model type without settings of its own here takes those of golden/configs.json.
ROWS = sorted({*SHAPES, *RENAMED, *SAME.values(), *(set(families.model_types()) - set(SAME))})


def test_rows_of_the_table_are_model_types() -> None:
    table = (Path(__file__).parents[2] / "docs" / "notes" / "families.md").read_text().partition("## Agreement")[2]
    told = set(re.findall(r"^\| (\w+) \| \d", table, re.MULTILINE))
    assert told <= set(ROWS) <= set(families.model_types())
    assert {*SHAPES, *RENAMED} <= told


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Rows, printed when all are there."""
    rows: list[str] = []
    yield rows
    head = [f"| | {' | '.join(f'{quant} {target}' for quant, target in COLUMNS)} |", "|---|---|---|---|"]
    print("\n" + "\n".join([*head, *rows]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROWS)
def test_agreement(tiny_checkpoint: Callable[..., Path], tmp_path: Path, table: list[str], kind: str) -> None:
    checkpoint, original = checkpoints(tiny_checkpoint, kind)
    model, found = load_model(original), []
    for quant, target in COLUMNS:
        bundle = export(checkpoint, target, quant, output=tmp_path / f"{quant}-{target}", exporter="native")
        found.append(agreement(Engine.load(bundle), model, some_ids()))
    table.append(f"| {kind} | {' | '.join(f'{top1:.2f} / {correlation:.4f}' for top1, correlation in found)} |")
    for (quant, _), (_, correlation) in zip(COLUMNS, found, strict=True):
        assert correlation > (0.9 if quant == "int8" else 0.5)
