"""The features of an ARM core as the kernel tells this process, in its auxiliary vector.

/proc/cpuinfo is another machine's under user-mode emulation and in some containers, and is hidden on some phones;
the auxiliary vector always belongs to the process. Bits as in the kernel's arch/arm64/include/uapi/asm/hwcap.h, names
as /proc/cpuinfo prints them.
"""

from __future__ import annotations

import struct
from pathlib import Path

_AT_HWCAP, _AT_HWCAP2 = 16, 26
_HWCAP = [
    "fp",
    "asimd",
    "evtstrm",
    "aes",
    "pmull",
    "sha1",
    "sha2",
    "crc32",
    "atomics",
    "fphp",
    "asimdhp",
    "cpuid",
    "asimdrdm",
    "jscvt",
    "fcma",
    "lrcpc",
    "dcpop",
    "sha3",
    "sm3",
    "sm4",
    "asimddp",
    "sha512",
    "sve",
    "asimdfhm",
    "dit",
    "uscat",
    "ilrcpc",
    "flagm",
    "ssbs",
    "sb",
    "paca",
    "pacg",
]
_HWCAP2 = [
    "dcpodp",
    "sve2",
    "sveaes",
    "svepmull",
    "svebitperm",
    "svesha3",
    "svesm4",
    "flagm2",
    "frint",
    "svei8mm",
    "svef32mm",
    "svef64mm",
    "svebf16",
    "i8mm",
    "bf16",
    "dgh",
    "rng",
    "bti",
    "mte",
    "ecv",
    "afp",
    "rpres",
    "mte3",
    "sme",
]


def arm_features(root: Path) -> frozenset[str] | None:
    """The flags of a 64-bit ARM process, from proc/self/auxv under `root`; None where that cannot be read."""
    try:
        data = (root / "proc/self/auxv").read_bytes()
    except OSError:
        return None
    pairs = dict(struct.iter_unpack("<QQ", data[: len(data) // 16 * 16]))
    if not pairs.get(_AT_HWCAP):
        return None
    found = ((_HWCAP, pairs[_AT_HWCAP]), (_HWCAP2, pairs.get(_AT_HWCAP2, 0)))
    return frozenset(name for names, bits in found for i, name in enumerate(names) if bits >> i & 1)
