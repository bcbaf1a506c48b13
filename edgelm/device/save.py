"""A target file for this machine, from what the doctor found."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgelm.device.doctor import Examination
from edgelm.errors import DeviceError, ExportError
from edgelm.files import replacing
from edgelm.machine.host import recommended_threads
from edgelm.machine.wheels import ARCHITECTURES
from edgelm.target.target import Target, load_target
from edgelm.target.toml_text import rates_lines, toml_value

_SAFE = {"aarch64": "rpi4", "x86_64": "x86-64"}  # targets that ask for the least, where none fits
_TOLD = {  # flags that kernels of quantised products are chosen by
    "aarch64": ("fp", "asimd", "crc32", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
    "x86_64": ("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni"),
}


def check_file(path: Path, *, overwrite: bool = False) -> None:
    """Raise ExportError where `path` cannot become a target file, before any work is done."""
    if path.suffix != ".toml":
        raise ExportError(f"{path} does not end in .toml", hint="a target's file does: --save myboard.toml")
    if path.is_dir():
        raise ExportError(f"{path} is a folder", hint="give the name of a file")
    if path.exists() and not overwrite:
        raise ExportError(f"{path} exists already", hint="choose another name, or pass --overwrite")
    if not path.absolute().parent.is_dir():
        raise ExportError(f"folder {path.parent} does not exist", hint="make it first, or choose another")


def save_target(examined: Examination, path: Path, *, overwrite: bool = False) -> Target:
    """Write a target file for the machine that was examined, aside and then renamed.

    Cores, memory and bandwidth are this machine's; recipes and rates are those of the target that fits it best.

    Returns:
        the target, as it loads.

    Raises:
        ExportError: the file exists, or cannot be written.
        DeviceError: too little is known of this machine.
    """
    check_file(path, overwrite=overwrite)
    text = target_text(examined, path.stem)
    try:
        with replacing(path.absolute(), 0o644) as file:
            file.write(text.encode("utf-8"))
            file.flush()
            load_target(file.name)  # nothing is saved that cannot be loaded
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}", hint="choose another place") from None
    return load_target(path)


def target_text(examined: Examination, stem: str) -> str:
    """The TOML of a target called `stem`."""
    cpu, memory = examined.cpu, examined.memory
    if cpu.arch not in ARCHITECTURES or memory.capacity is None:
        what = "architecture" if cpu.arch not in ARCHITECTURES else "memory"
        raise DeviceError(f"no target can be made: this machine's {what} is not known", hint="see: edgelm doctor")
    base = examined.target or load_target(_SAFE[cpu.arch])
    ram = max(16, memory.capacity >> 20)
    usable = min(ram, max(1, (memory.usable or memory.capacity) >> 20))
    threads = min(recommended_threads(None, cpu), len(cpu.cores))
    bandwidth = examined.bandwidth or base.memory.bandwidth_gbs
    told = _TOLD[cpu.arch]
    found = base.cpu.features if cpu.features is None else [flag for flag in told if flag in cpu.features]
    measured = f"Measured by edgelm doctor: numpy's maximum over a large array, {threads} threads; decode reads less."
    tables: dict[str, dict[str, Any]] = {
        "cpu": {
            "arch": cpu.arch,
            "core": cpu.core or base.cpu.core,
            "features": list(found),
            "cores": len(cpu.cores),
            "threads": threads,
            "prefill_threads": threads,
        },
        "memory": {
            "ram_mb": ram,
            "usable_mb": usable,
            "bandwidth_gbs": round(min(10000.0, max(0.01, bandwidth)), 2),
            "source": measured if examined.bandwidth else f"Not measured: that of {base.name}. {base.memory.source}",
        },
        "runtime": base.to_dict()["runtime"],
    }
    lines = [
        f"name = {toml_value(_name(stem))}",
        f"description = {toml_value(f'{cpu.model or base.cpu.core}, {len(cpu.cores)} cores, {ram} MiB; made by edgelm doctor')}",
        f"default = {toml_value(base.default)}",
    ]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {toml_value(value)}" for key, value in table.items())]
    for name, recipe in base.to_dict()["recipe"].items():
        lines += ["", f"[recipe.{name}]", *(f"{key} = {toml_value(value)}" for key, value in recipe.items())]
    return "\n".join([*lines, *_rates(base)]) + "\n"


def _rates(base: Target) -> list[str]:
    if base.rates is None:
        return []
    source = f"Those of {base.name}, not measured here. {base.rates.source}"
    return [
        "",
        *rates_lines(replace(base.rates, measured=False, source=source, thread_gbs=(), spread={}, error_percent={})),
    ]


def _name(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "myboard"
