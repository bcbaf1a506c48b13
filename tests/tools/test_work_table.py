"""Counting instructions in QEMU's log, and what the counts say of the targets' recipes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
LOG = b"""\
IN:
0x004000aa:  d503201f  nop
----------------
MARK first
IN:
0x7f0000001000:  a9bf7bfd  stp      x29, x30, [sp, #-0x10]!
0x7f0000001004:  910003fd  mov      x29, sp

Trace 0: 0x7fffe96cd6c0 [00001001/00007f0000001000/00000001/00008200]
IN:
0x7f0000001100:  d65f03c0  ret

Trace 0: 0x7fffe96cd6c0 [00001001/00007f0000001100/00000001/00008200]
IN:
0x7f0000900000:  d65f03c0  ret
0x00400100:  d65f03c0  ret
MARK MatMul 32-bit 1
Trace 0: 0x7fffe96cd6c0 [00001001/00007f0000001000/00000001/00008200]
Trace 0: 0x7fffe96cd6c0 [00001001/00007f0000001100/00000001/00008200]
IN:
0x7f0000001000:  a9bf7bfd  stp      x29, x30, [sp, #-0x10]!
0x7f0000001004:  910003fd  mov      x29, sp
Trace 0: 0x7fffe96cd6c0 [00001001/00007f0000001000/00000001/00008200]
MARK end
Trace 0: 0x7fffe96cd6c0 [00001001/00007f0000001000/00000001/00008200]
""".splitlines(keepends=True)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("work_table", ROOT / "tools/work_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["work_table"] = module
    spec.loader.exec_module(module)
    return module


def test_the_kernels_are_what_a_product_is_the_first_to_run(tool: ModuleType) -> None:
    assert tool.code(LOG) == [(0x7F0000001000, 0x7F0000001100), (0x7F0000900000, 0x7F0000900000)]


def test_only_the_marked_call_is_counted(tool: ModuleType) -> None:
    assert tool.executed(LOG) == {"MatMul 32-bit 1": 2 + 1 + 2}


def test_the_page_shows_the_data(tool: ModuleType) -> None:
    table = json.loads((ROOT / "docs/notes/work.json").read_text())
    assert tool.markdown(table) in (ROOT / "docs/notes/targets.md").read_text()
    assert set(table["bytes"]) == {str(spec) for spec in tool.FORMATS}
    assert all(set(formats) == set(table["bytes"]) for formats in table["cores"].values())


def test_a_product_is_stored_in_its_format(tool: ModuleType, tmp_path: Path) -> None:
    sizes = {str(spec): tool.make_product(tmp_path, spec) for spec in tool.FORMATS}
    assert sizes["MatMul 32-bit"] == 4
    assert sizes["MatMulNBits 4-bit block 32"] == 0.625
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(sizes)
