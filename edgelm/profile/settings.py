"""How a bundle is run on a machine: what `edgelm tune` searches, and a profile holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from edgelm.bundle.json_table import JsonTable

MOST_THREADS, MOST_CPUS = 1024, 8192
CHUNKS = (16, 4096)  # tokens of a prefill pass, the fewest and the most


@dataclass(frozen=True)
class Settings:
    """How a bundle is run.

    Attributes:
        threads, prefill_threads: for decode and for prefill.
        cpus, prefill_cpus: the numbers of the CPUs on which these run; None for any that the process may use.
        spinning: whether threads wait actively for their next piece of work, which is faster and takes power.
        prefill_chunk: tokens of a prompt that a pass reads at most; None for what edgelm takes by itself.
    """

    threads: int
    prefill_threads: int
    cpus: tuple[int, ...] | None = None
    prefill_cpus: tuple[int, ...] | None = None
    spinning: bool = True
    prefill_chunk: int | None = None

    @classmethod
    def read(cls, table: JsonTable) -> Settings:
        """From JSON."""
        threads, prefill = (table.integer(name, 1, MOST_THREADS) for name in ("threads", "prefill_threads"))
        return cls(
            threads,
            prefill,
            _cpus(table, "cpus", threads),
            _cpus(table, "prefill_cpus", prefill),
            table.flag("spinning"),
            table.integer("prefill_chunk", *CHUNKS) if table.has("prefill_chunk") else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def __str__(self) -> str:
        decode = f"decode {_workers(self.threads, self.cpus)}"
        prefill = f"prefill {_workers(self.prefill_threads, self.prefill_cpus)}"
        if self.prefill_chunk is not None:
            prefill += f" in passes of {self.prefill_chunk}"
        return f"{decode}, {prefill}, spinning {'on' if self.spinning else 'off'}"


def _cpus(table: JsonTable, key: str, threads: int) -> tuple[int, ...] | None:
    if not table.has(key):
        return None
    found = table.integers(key, 0, MOST_CPUS - 1)
    if len(set(found)) != len(found) or not threads <= len(found) <= MOST_CPUS:
        table.wrong(key, "different CPUs, as many as threads or more")
    return found


def _workers(threads: int, cpus: Sequence[int] | None) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}" + ("" if cpus is None else f" on CPUs {shown(cpus)}")


def shown(cpus: Sequence[int]) -> str:
    """Numbers of CPUs as the kernel writes them: ``0-3,6``."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
