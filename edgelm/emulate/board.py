"""A board: the sandbox as one core sees it, with the name and the memory of the target."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.emulate.sandbox import MAKING, Sandbox
from edgelm.errors import DeviceError, near
from edgelm.files import swept_folder
from edgelm.machine.host import EMULATED
from edgelm.target.target import Target

# For cores that QEMU does not have: the nearest one with the same instructions, as far as products go.
STAND_INS = {
    "cortex-a73": "cortex-a72",
    "cortex-a75": "cortex-a55",
    "cortex-a77": "cortex-a76",
    "cortex-a78": "cortex-a76",
    "cortex-a78ae": "cortex-a76",
    "cortex-x1": "cortex-a76",
    "cortex-a510": "cortex-a710",
    "cortex-a715": "cortex-a710",
    "cortex-a720": "cortex-a710",
    "cortex-x2": "cortex-a710",
    "cortex-x3": "cortex-a710",
    "cortex-x4": "cortex-a710",
    "neoverse-v2": "neoverse-n2",
}
_FOREIGN = ("PYTHON", "LD_", "QEMU_", "VIRTUAL_ENV", "CONDA")  # of the host's Python, or of no use to a guest


@dataclass(frozen=True)
class Board:
    """Runs programs on `core` (QEMU's name; features may follow after commas, as ``max,sme=off``).

    `target` gives its name and memory to /proc/device-tree/model and /proc/meminfo: programs read them, nothing
    enforces them. The number of cores and the clock remain the host's.
    """

    sandbox: Sandbox
    core: str
    target: Target | None = None

    @classmethod
    def of(cls, sandbox: Sandbox, target: Target | None = None, core: str | None = None) -> Board:
        """The board of a target, or any core by its name.

        Raises:
            DeviceError: the target is no ARM board, or QEMU has no such core.
        """
        if target is not None and target.cpu.arch != "aarch64":
            raise DeviceError(
                f"target {target.name} is {target.cpu.arch}, and only aarch64 is emulated",
                hint="run edgelm without `emulate`",
            )
        name = core or (target.cpu.core if target else "max")
        kind = name.partition(",")[0]
        if kind not in sandbox.cores and kind in STAND_INS:
            name = name.replace(kind, STAND_INS[kind], 1)
        elif kind not in sandbox.cores:
            raise DeviceError(
                f"QEMU has no core {kind!r}",
                hint=near(kind, [c for c in sandbox.cores if c not in STAND_INS], listing="cores"),
            )
        return cls(sandbox, name, target)

    def command(self, args: Sequence[str | Path], qemu: Sequence[str] = ()) -> list[str]:
        """The command line that runs the aarch64 Python with `args`; `qemu` are further options of QEMU."""
        return [
            str(self.sandbox.qemu),
            *qemu,
            "-cpu",
            self.core,
            "-L",
            str(self._prefix()),
            str(self.sandbox.python),
            "-P",  # not the current folder: it may hold packages of the host
            *map(str, args),
        ]

    def environment(self) -> dict[str, str]:
        """The host's environment less what is of its Python, with edgelm as it is imported here."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        path = f"{self._edgelm()}{os.pathsep}{self.sandbox.site}"
        return kept | {"PYTHONPATH": path, "PYTHONNOUSERSITE": "1", "ORT_DISABLE_TELEMETRY": "1", EMULATED: "1"}

    def run(self, args: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the aarch64 Python with `args`; `options` as subprocess.run takes them."""
        return subprocess.run(self.command(args), env=self.environment(), text=True, check=False, **options)

    def edgelm(self, args: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``edgelm ARGS`` on the board."""
        return self.run(["-m", "edgelm", *args], **options)

    def _edgelm(self) -> Path:
        """A folder with this edgelm alone: beside it stand packages of the host, which must not be found."""
        package = Path(__file__).resolve().parents[1]
        links = {"edgelm": package}
        if not (package / "_targets").is_dir():
            links["targets"] = package.parent / "targets"
        return self._linked("edgelm", links, {})

    def _prefix(self) -> Path:
        """What the guest finds at / before it looks at the host's: its system, and the board's own /proc."""
        links = {name: self.sandbox.root / name for name in ("bin", "etc", "lib", "usr")}
        return self._linked("board", links, _proc(self.target) if self.target else {})

    def _linked(self, kind: str, links: Mapping[str, Path], files: Mapping[str, str]) -> Path:
        """A folder of links and small files in the cache, made once for each content."""
        content = repr((sorted(links.items()), sorted(files.items())))
        folder = self.sandbox.folder.parent / f"{kind}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
        if folder.is_dir():
            return folder
        with swept_folder(folder.parent, MAKING) as place:
            made = place / kind
            made.mkdir()
            for name, path in links.items():
                (made / name).symlink_to(path)
            for name, text in files.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_text(text)
            made.chmod(0o755)
            try:
                made.rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
        return folder


def _proc(target: Target) -> dict[str, str]:
    """The board's name and memory, as its own kernel would tell them."""
    total, usable = target.memory.ram_mb * 1024, target.memory.usable_mb * 1024
    memory = {"MemTotal": total, "MemFree": usable, "MemAvailable": usable, "SwapTotal": 0, "SwapFree": 0}
    files = {
        "proc/meminfo": "".join(f"{name}:{value:>15} kB\n" for name, value in memory.items()),
        "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
    }
    return files | ({"proc/device-tree/model": target.board} if target.board else {})
