"""What a BUNDLE argument means (`edgelm.by_name`), with notes and a progress bar on stderr while a model is exported."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgelm import by_name
from edgelm.by_name import Order, model_named
from edgelm.cli.failures import say
from edgelm.errors import EdgeLMError

if TYPE_CHECKING:
    from edgelm.bundle.reader import Bundle

__all__ = ["Order", "find_bundle", "model_named", "pull", "stored_bundle"]


def find_bundle(name: str | os.PathLike[str], *, make: bool = True, quiet: bool = False) -> Path:
    """`by_name.find_bundle`; `quiet` shows no progress bar."""
    if os.path.lexists(Path(name)):  # nothing of a bar is imported
        return Path(name)
    from edgelm.cli.show import Bar

    with Bar(silent=quiet) as bar:
        return by_name.find_bundle(name, make=make, note=partial(say, "note"), progress=bar)


def stored_bundle(name: str) -> Path | None:
    """The folder of the bundle that a name means, without making one; None where there is none, or for a path."""
    if os.path.lexists(Path(name)):
        return None
    try:
        return find_bundle(name, make=False)
    except EdgeLMError:
        return None


def pull(model: str, order: Order, *, quiet: bool = False) -> Bundle:
    """`by_name.pull`; `quiet` shows no progress bar."""
    from edgelm.cli.show import Bar

    with Bar(silent=quiet) as bar:
        return by_name.pull(model, order, note=partial(say, "note"), progress=bar)
