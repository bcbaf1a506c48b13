"""Limits a user states for an export: it fails, and leaves nothing behind, where one is missed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from edgelm.bundle.json_table import shown as told
from edgelm.errors import ExportError, OptionError, expect_type
from edgelm.exporter.sizing.preflight import Sizes

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|KiB|MiB|GiB)?", re.IGNORECASE)
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Budget:
    """What a bundle may be at most.

    Attributes:
        size: bytes of the whole bundle, or None.
        kld: mean KL divergence from the model in fp32, nats, or None.
    """

    size: int | None = None
    kld: float | None = None

    @classmethod
    def of(cls, size: int | str | None, kld: float | None) -> Budget:
        """From the options; a size is bytes, or a number with a unit such as ``350MB`` (10^6) or ``1GiB`` (2^30).

        Raises:
            OptionError: a limit that no bundle can keep, or that is no number.
        """
        if kld is not None:
            expect_type("max_kld", kld, Real, "a number")
            if isinstance(kld, bool) or not 0 < kld < math.inf:
                raise OptionError(f"--max-kld must be a number above 0, not {kld:g}")
        return cls(None if size is None else _bytes(str(size)), kld)

    def check_size(self, sizes: Sizes, quant: str, context: int) -> None:
        """Before any work: nothing is refused here that could keep the limit.

        Raises:
            ExportError: the recipe takes more; it says what the smallest one takes.
        """
        if self.size is None or (least := sizes.least(quant, context)) <= self.size:
            return
        known = {quant: least} | {other: sizes.least(other, context) for other in sizes.quants if other != quant}
        best = min(known, key=lambda name: known[name])
        fitting = max((name for name in known if known[name] <= self.size), key=lambda name: known[name], default=None)
        hint = (
            f"--quant {fitting} takes {shown(known[fitting])}"
            if fitting is not None
            else f"the smallest recipe of {sizes.target.name}, {best}, takes {shown(known[best])}"
        )
        hint += "; or --quant auto, which chooses a format for each matrix"
        raise ExportError(f"{quant} takes {shown(least)}, more than --max-size {shown(self.size)}", hint=hint)

    def check_bundle(self, quant: str, size: int) -> None:
        """Once the bundle is written, of so many bytes.

        Raises:
            ExportError: it takes more.
        """
        if self.size is not None and size > self.size:
            raise ExportError(
                f"{quant} takes {shown(size)}, more than --max-size {shown(self.size)}; nothing was written",
                hint="choose anew what keeps it: --quant auto",
            )

    def check_quality(self, card: Mapping[str, Any]) -> None:
        """Once the bundle is measured.

        Raises:
            ExportError: it lost more.
        """
        found = float(card["kld"]["mean"])
        if self.kld is None or found <= self.kld:
            return
        calibrated = "calibration" in card
        raise ExportError(
            f"KLD {found:.4g} of {card['quant']} on {card['text']['name']} is more than --max-kld {self.kld:g}; "
            "nothing was written",
            hint="choose more bits (--quant), or --quant auto, which chooses a format for each matrix"
            + ("" if calibrated else ", or calibrate: --calibrate TEXT"),
        )


def _bytes(size: str) -> int:
    found = _SIZE.fullmatch(size.strip())
    count = float(found[1]) * _UNITS[(found[2] or "B").lower()] if found is not None else 0
    if not 1 <= count < math.inf:
        raise OptionError(f"--max-size must be a size such as 350MB, not {told(size)}")
    return int(count)


def shown(size: int) -> str:
    """A size in MB, of small ones with more digits."""
    return f"{size / 1e6:,.{1 if size >= 10e6 else 3 if size < 1e6 else 2}f} MB"
