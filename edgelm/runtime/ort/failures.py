"""What onnxruntime raises while it computes, as errors of edgelm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from edgelm.errors import DeviceError, EdgeLMError


@contextlib.contextmanager
def failures(total: int, position: int) -> Iterator[None]:
    """DeviceError where a pass fails that reads tokens from `position` on, `total` with those before."""
    try:
        yield
    except MemoryError:
        raise DeviceError(f"not enough memory for {total:,} tokens", hint="export with a smaller --context") from None
    except (KeyboardInterrupt, EdgeLMError):
        raise
    except Exception as error:  # onnxruntime's exceptions have no public base class
        raise DeviceError(
            f"onnxruntime failed at token {position}: {str(error).strip().splitlines()[0]}",
            hint="see: edgelm verify BUNDLE, edgelm doctor",
        ) from None
