"""What a source of power is to those who integrate it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgelm.machine.sensors.source import Missing


@dataclass(frozen=True)
class PowerSource:
    """A source of power.

    Attributes:
        name: short; `covers` says what its figure is the power of.
        read: called with the time in seconds; watts, or joules since some time where it `counts`. None: no reading.
        counts: whether it gives joules, which only grow.
        check: what every figure must be multiplied by, known once it has been read for a while; or why none is right.
        close: ends what it has started.
    """

    name: str
    covers: str
    read: Callable[[float], float | None]
    counts: bool = False
    check: Callable[[], float | Missing] = lambda: 1.0
    close: Callable[[], None] = lambda: None
