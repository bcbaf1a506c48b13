"""The names of ARM cores, by the numbers that /proc/cpuinfo gives: "CPU implementer" and "CPU part".

Numbers as in the kernel's cputype.h and in ARM's technical reference manuals. Names as QEMU spells them.
"""

from __future__ import annotations

_ARM = 0x41
_QUALCOMM = 0x51
_APPLE = 0x61

_NAMES: dict[tuple[int, int], str] = {
    (_ARM, 0xD03): "cortex-a53",
    (_ARM, 0xD04): "cortex-a35",
    (_ARM, 0xD05): "cortex-a55",
    (_ARM, 0xD07): "cortex-a57",
    (_ARM, 0xD08): "cortex-a72",
    (_ARM, 0xD09): "cortex-a73",
    (_ARM, 0xD0A): "cortex-a75",
    (_ARM, 0xD0B): "cortex-a76",
    (_ARM, 0xD0C): "neoverse-n1",
    (_ARM, 0xD0D): "cortex-a77",
    (_ARM, 0xD0E): "cortex-a76ae",
    (_ARM, 0xD40): "neoverse-v1",
    (_ARM, 0xD41): "cortex-a78",
    (_ARM, 0xD42): "cortex-a78ae",
    (_ARM, 0xD44): "cortex-x1",
    (_ARM, 0xD46): "cortex-a510",
    (_ARM, 0xD47): "cortex-a710",
    (_ARM, 0xD48): "cortex-x2",
    (_ARM, 0xD49): "neoverse-n2",
    (_ARM, 0xD4B): "cortex-a78c",
    (_ARM, 0xD4C): "cortex-x1c",
    (_ARM, 0xD4D): "cortex-a715",
    (_ARM, 0xD4E): "cortex-x3",
    (_ARM, 0xD4F): "neoverse-v2",
    (_ARM, 0xD80): "cortex-a520",
    (_ARM, 0xD81): "cortex-a720",
    (_ARM, 0xD82): "cortex-x4",
    (_ARM, 0xD85): "cortex-x925",
    (_ARM, 0xD87): "cortex-a725",
    (0x48, 0xD40): "cortex-a76",  # HiSilicon's own numbers for cores that it takes from ARM
    (0x48, 0xD41): "cortex-a77",
    (0x4E, 0x004): "carmel",
    (_QUALCOMM, 0x001): "oryon",
    (_QUALCOMM, 0x800): "cortex-a73",  # Kryo 2xx to 4xx are ARM's cores with small changes
    (_QUALCOMM, 0x801): "cortex-a53",
    (_QUALCOMM, 0x802): "cortex-a75",
    (_QUALCOMM, 0x803): "cortex-a55",
    (_QUALCOMM, 0x804): "cortex-a76",
    (_QUALCOMM, 0x805): "cortex-a55",
    (_APPLE, 0x022): "apple-m1-efficiency",
    (_APPLE, 0x023): "apple-m1",
    (_APPLE, 0x024): "apple-m1-efficiency",
    (_APPLE, 0x025): "apple-m1",
    (_APPLE, 0x032): "apple-m2-efficiency",
    (_APPLE, 0x033): "apple-m2",
    (0xC0, 0xAC3): "ampere-1",
}

# In-order cores (and Apple's efficient ones): beside bigger ones they only hold those up.
LITTLE = frozenset(
    {
        "cortex-a35",
        "cortex-a53",
        "cortex-a55",
        "cortex-a510",
        "cortex-a520",
        "apple-m1-efficiency",
        "apple-m2-efficiency",
    }
)


def core_name(implementer: int, part: int) -> str | None:
    """The core's name, or None for one that is not in the table."""
    return _NAMES.get((implementer, part))
