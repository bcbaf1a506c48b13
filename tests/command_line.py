"""What a command line ended with."""

from typing import NamedTuple


class Ended(NamedTuple):
    code: int
    out: str
    err: str
