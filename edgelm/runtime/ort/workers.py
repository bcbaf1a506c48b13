"""The threads of a session."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Workers:
    """The threads of a session.

    Attributes:
        threads: how many.
        cpus: on which they run; None for any.
        spinning: whether they wait actively for a piece of work while the session computes, and for a moment after it.
    """

    threads: int
    cpus: tuple[int, ...] | None = None
    spinning: bool = True

    @classmethod
    def of(cls, threads: int | Workers) -> Workers:
        """So many threads, on any CPU."""
        return threads if isinstance(threads, Workers) else cls(threads)

    @property
    def entries(self) -> dict[str, str]:
        """Onnxruntime's settings for them, beside their number."""
        return {} if self.spinning else {"session.intra_op.allow_spinning": "0"}
