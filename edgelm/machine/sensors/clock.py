"""Clocks in MHz: what the cores of each cluster run at now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgelm.machine.host import read_cpu
from edgelm.machine.sensors.source import Missing, System


@dataclass(frozen=True)
class Clocks:
    """How the clocks of a machine are read.

    Attributes:
        system: the machine.
        clusters: the cores of each cluster, by its name.
        firmware: whether the firmware is asked: a Raspberry Pi's scaling_cur_freq is what was wished for, not what is.
    """

    system: System
    clusters: Mapping[str, tuple[int, ...]]
    firmware: bool

    def read(self) -> dict[str, float]:
        """MHz by cluster: the mean of its cores."""
        if self.firmware and (mhz := _firmware(self.system)) is not None:
            return {next(iter(self.clusters), "arm"): mhz}
        found = {}
        for name, cores in self.clusters.items():
            read = [
                khz
                for core in cores
                if (khz := self.system.number(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq"))
                and 0 < khz < 10**8
            ]
            if read:
                found[name] = sum(read) / len(read) / 1000
        return found


def open_clocks(system: System) -> Clocks | Missing:
    """The clocks of a machine, or why they cannot be told."""
    clusters = dict[str, tuple[int, ...]]()
    cpu = read_cpu(system.root)
    for big in (True, False):  # an x86 processor's cores differ by a few MHz in what they may reach: one cluster
        groups = [cluster for cluster in cpu.clusters if cluster.little is not big]
        if cpu.arch == "aarch64":
            for cluster in groups:
                _put(clusters, cluster.name, [core.index for core in cluster.cores])
        elif groups:
            _put(clusters, "cores" if big else "small cores", [core.index for g in groups for core in g.cores])
    clocks = Clocks(system, clusters, _firmware(system) is not None)
    return clocks if clocks.read() else Missing("no cpufreq (a virtual machine has none)")


def _put(clusters: dict[str, tuple[int, ...]], name: str | None, cores: list[int]) -> None:
    name = name or "cores"
    if name in clusters:  # two clusters of one kind, at other clocks
        name = f"{name} {cores[0]}-{cores[-1]}"
    clusters[name] = tuple(cores)


def _firmware(system: System) -> float | None:
    """MHz by ``vcgencmd measure_clock arm``: ``frequency(0)=2400026112``."""
    match = re.fullmatch(
        r"frequency\(\d+\)=(\d{1,12})", system.run(["vcgencmd", "measure_clock", "arm"]) or "", re.ASCII
    )
    return int(match[1]) / 1e6 if match and int(match[1]) else None
