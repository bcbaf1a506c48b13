"""Count the instructions that each format takes on each core, and write the table of docs/notes/targets.md.

    python tools/work_table.py --core cortex-a76         print one core's figures
    python tools/work_table.py --write                   all cores: docs/notes/work.json and the table in docs/notes/targets.md

QEMU runs one product, W [512, 512] by 1 row (decode) and by 16 rows (prefill) of activations, with onnxruntime's
own kernels for that core, and logs every block of instructions that it executes; the blocks' lengths times their
counts are the work. Only the second call of each product is counted, so that starting up is not. Needs `edgelm
emulate`'s sandbox (Debian or Ubuntu on x86-64) and setarch; takes about a minute a core.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgelm.emulate import Board, prepare
from edgelm.exporter.formats.registry import make_format
from edgelm.exporter.onnx.builder import Builder
from edgelm.exporter.onnx.store import DataFile
from edgelm.target.target import FormatSpec, load_target

ROOT = Path(__file__).resolve().parent.parent
DATA, PAGE = ROOT / "docs" / "notes" / "work.json", ROOT / "docs" / "notes" / "targets.md"
BEGIN, END = "<!-- work table: made by tools/work_table.py -->", "<!-- end of work table -->"
CORES = (
    "cortex-a53",
    "cortex-a72",
    "cortex-a55",
    "cortex-a76",
    "cortex-a710",
    "neoverse-v1",
    "max",
    "max,sme=off",
)
FORMATS = (
    FormatSpec("MatMulNBits", 4, 32),
    FormatSpec("MatMulNBits", 4, 64),
    FormatSpec("MatMulNBits", 4, 128),
    FormatSpec("MatMulNBits", 8, 32),
    FormatSpec("MatMulNBits", 8, 128),
    FormatSpec("DynamicQuantizeMatMul", 8),
    FormatSpec("MatMul", 32),
)
SHAPE = (512, 512)  # small: a line of log for every few instructions
DECODE, PREFILL = 1, 16
# Targets and the clock of their big cores in GHz, for the speeds that the work and the bandwidth allow.
CLOCKS = {"rpi-zero2w": 1.0, "rpi4": 1.8, "rpi5": 2.4, "android-arm64": 2.4, "android-arm64-i8mm": 2.8}
_GAP = 1 << 12  # blocks of code nearer than this are logged as one range
_PROGRAM = 1 << 32  # below lies the interpreter, above the libraries


@click.command(help=__doc__)
@click.option("--core", "cores", multiple=True, help="Only this core; may be given several times.")
@click.option("--write", is_flag=True, help="Write docs/notes/work.json and the table in docs/notes/targets.md.")
@click.option("--page", is_flag=True, help="Only write docs/notes/targets.md again, from docs/notes/work.json.")
def main(cores: tuple[str, ...], write: bool, page: bool) -> None:
    table = json.loads(DATA.read_text()) if DATA.is_file() else {"cores": {}}
    if not page:
        sandbox = prepare(say=lambda text: click.echo(text, err=True))
        wheels = {wheel["name"]: wheel["version"] for wheel in sandbox.record()["wheels"]}
        table |= {"onnxruntime": wheels["onnxruntime"], "shape": SHAPE, "prefill_rows": PREFILL}
        with tempfile.TemporaryDirectory() as name:
            products = Path(name)
            table["bytes"] = {str(spec): make_product(products, spec) for spec in FORMATS}
            for core in cores or CORES:
                table["cores"][core] = count(Board.of(sandbox, core=core), products)
                click.echo(f"{core}: {json.dumps(table['cores'][core])}", err=True)
                if write:  # core by core: each takes a while
                    DATA.write_text(json.dumps(table, indent=1) + "\n")
    if not (write or page):
        click.echo(markdown(table))
        return
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{markdown(table)}\n{END}{rest.partition(END)[2]}")


def make_product(folder: Path, spec: FormatSpec) -> float:
    """A graph of one product in that format; its stored bytes a weight."""
    format, (n, k) = make_format(spec), SHAPE
    folder = folder / str(spec)
    folder.mkdir()
    weight = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    with DataFile(folder / "model.onnx.data") as data:
        b = Builder(data)
        x = b.input("x", "float32", [1, "s", k])
        y = format.matmul(b, x, format.pack(b, "w", n, k, [weight]), "product")
        b.output(y, "y", "float32", [1, "s", n])
        b.save(folder / "model.onnx", {})
    return round(format.nbytes(n, k) / (n * k), 4)


def count(board: Board, products: Path) -> dict[str, dict[str, float]]:
    """Format -> instructions a weight (and token) in decode and in prefill."""
    args = [Path(__file__).with_name("work_guest.py"), products, DECODE, PREFILL]
    ranges = code(log(board, args, ["-d", "in_asm"]))
    filter = ",".join(f"{start:#x}..{end:#x}" for start, end in ranges)
    work = executed(log(board, args, ["-d", "exec,nochain,in_asm", "-dfilter", filter]))
    weights = SHAPE[0] * SHAPE[1]
    return {
        str(spec): {
            "decode": round(work[f"{spec} {DECODE}"] / weights / DECODE, 4),
            "prefill": round(work[f"{spec} {PREFILL}"] / weights / PREFILL, 4),
        }
        for spec in FORMATS
    }


def log(board: Board, args: Sequence[Any], qemu: Sequence[str]) -> Iterator[bytes]:
    """QEMU's log of a run, line by line. The program lies at the same addresses in every run."""
    command = ["setarch", "--addr-no-randomize", *board.command(list(map(str, args)), qemu)]
    with subprocess.Popen(command, env=board.environment(), stderr=subprocess.PIPE) as process:
        assert process.stderr
        yield from process.stderr
    if process.returncode:
        raise click.ClickException(f"the emulated program ends with {process.returncode} on {board.core}")


def code(lines: Iterable[bytes]) -> list[tuple[int, int]]:
    """Where the code lies that a product is the first to run, as (first, last) address: the kernels."""
    found, inside = set(), False
    for line in lines:
        if line.startswith(b"MARK"):
            inside = line.split()[1] == b"first"
        elif inside and line.startswith(b"0x") and (address := int(line[: line.index(b":")], 16)) > _PROGRAM:
            found.add(address)
    ranges: list[tuple[int, int]] = []
    for address in sorted(found):
        if ranges and address - ranges[-1][1] < _GAP:
            ranges[-1] = (ranges[-1][0], address)
        else:
            ranges.append((address, address))
    return ranges


def executed(lines: Iterable[bytes]) -> dict[str, int]:
    """Phase -> instructions executed in it: every block's length times how often it ran."""
    lengths: Counter[int] = Counter()
    runs: Counter[tuple[str, int]] = Counter()
    phase, block = "", 0
    for line in lines:
        if line.startswith(b"Trace"):
            if phase:
                runs[phase, int(line.split(b"/", 2)[1], 16)] += 1
        elif line.startswith(b"IN:"):
            block = 0
        elif line.startswith(b"0x"):
            if not block:  # the same block may be translated again
                block = int(line[: line.index(b":")], 16)
                lengths[block] = 0
            lengths[block] += 1
        elif line.startswith(b"MARK"):
            name = line[5:].strip().decode()
            phase = "" if name in ("first", "end") else name
    work: Counter[str] = Counter()
    for (name, start), times in runs.items():
        work[name] += lengths[start] * times
    return work


def markdown(table: dict[str, Any]) -> str:
    """The table of the page: a row a format, a column a core, decode / prefill."""
    cores = table["cores"]
    lines = [
        "| format | bytes a weight | " + " | ".join(cores) + " |",
        "|---|---:|" + "---:|" * len(cores),
    ]
    for name, size in table["bytes"].items():
        cells = []
        for formats in cores.values():
            cell = f"{formats[name]['decode']:.2f} / {formats[name]['prefill']:.2f}"
            slow = formats[name]["decode"] > 2 * formats["MatMul 32-bit"]["decode"]
            cells.append(f"**{cell}**" if slow else cell)
        lines.append(f"| {name} | {size:.3f} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_limits(table)])


def _limits(table: dict[str, Any]) -> Iterator[str]:
    """The second table: what bandwidth and instructions allow on each target, and which of them binds decode."""
    yield "| target | format | decode, memory | decode, instructions | decode | prefill |"
    yield "|---|---|---:|---:|---:|---:|"
    for name, clock in CLOCKS.items():
        target = load_target(name)
        formats = table["cores"].get(target.cpu.core, {})
        for spec, work in formats.items():
            memory = target.memory.bandwidth_gbs / table["bytes"][spec]
            rate = target.cpu.threads * clock
            arithmetic, prefill = rate / work["decode"], rate / work["prefill"]
            row = [f"{memory:.1f}", f"{arithmetic:.1f}", f"**{min(memory, arithmetic):.1f}**", f"{prefill:.0f}"]
            yield f"| {name} | {spec} | {' | '.join(row)} |"


if __name__ == "__main__":
    main()
