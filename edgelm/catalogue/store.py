"""The user's own bundles: what `edgelm run NAME` and `edgelm pull NAME` exported for this machine, each a folder.

They lie in ``$XDG_CACHE_HOME/edgelm/models`` (or ``$EDGELM_MODELS``), named ``MODEL-TARGET-QUANT`` as an export names its
output. Whatever is there can be made again.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgelm.bundle.reader import MANIFEST, Bundle
from edgelm.catalogue.models import find
from edgelm.errors import DeviceError, EdgeLMError, ExportError
from edgelm.files import expanded, swept_folder

FOLDER = "EDGELM_MODELS"
MIRROR = "EDGELM_MIRROR"
_REMOVED = ".removed-"  # never a name by which an export puts back what it took away


@dataclass(frozen=True)
class Stored:
    """A bundle of the store: its name, which is its folder's, and the bundle."""

    name: str
    bundle: Bundle


@dataclass(frozen=True)
class Store:
    """The folder that bundles by name are in; it need not be there yet."""

    folder: Path

    @classmethod
    def of_user(cls) -> Store:
        """This user's.

        Raises:
            DeviceError: a user without a home folder has none.
        """
        if own := os.environ.get(FOLDER):
            return cls(expanded(own))
        base = os.environ.get("XDG_CACHE_HOME") or ""
        try:
            return cls((Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "edgelm" / "models")
        except RuntimeError:
            raise DeviceError(
                "this user has no home folder, and so no place for models", hint=f"set {FOLDER} to a folder"
            ) from None

    def bundles(self) -> Iterator[Stored]:
        """What is there, by name; what cannot be read is passed over."""
        for manifest in sorted(self.folder.glob(f"[!.]*/{MANIFEST}")):
            with contextlib.suppress(EdgeLMError):
                yield Stored(manifest.parent.name, Bundle.open(manifest.parent, check=False))

    def find(self, name: str, target: str | None = None, quant: str | None = None) -> Stored | None:
        """The bundle of that name, or one of the model of that name; None where there is none.

        Args:
            name: of a folder, or of a model.
            target: whose bundles of a model are looked at; None looks at none but that of a folder's name.
            quant: the recipe that is preferred among a model's.
        """
        found = list(self.bundles())
        if (exact := next((stored for stored in found if stored.name == name), None)) is not None or target is None:
            return exact
        of_model = [stored for stored in found if stored.name.startswith(f"{stem(name)}-{target}-")]
        preferred = [stored for stored in of_model if stored.bundle.manifest.quant == quant]
        return next(iter([*preferred, *of_model]), None)

    def path(self, name: str, target: str, quant: str) -> Path:
        """Where a model's bundle for a target belongs."""
        return self.folder / f"{stem(name)}-{target}-{quant}"

    def remove(self, name: str) -> int:
        """Remove a bundle, at once: it steps aside first; what a killed process left of others goes as well.

        Returns:
            how many bytes it took.

        Raises:
            ExportError: it cannot be removed.
        """
        folder = self.folder / name
        try:
            size = sum(entry.lstat().st_size for entry in folder.iterdir())
            with swept_folder(self.folder, _REMOVED) as aside:
                folder.rename(aside / name)
        except OSError as error:
            raise ExportError(f"{folder} cannot be removed: {error.strerror}") from None
        return size


def stem(name: str) -> str:
    """What a model is called in the names of its bundles: its name where it has one, else its id as ``owner--name``."""
    model = find(name)
    short = name.replace("/", "--") if model is None else model.name
    return re.sub(r"[^A-Za-z0-9.-]+", "-", short).strip("-.") or "model"


def mirrored(id: str, folder: Path | None = None) -> Path | None:
    """A copy on this machine of a model on the hub: a checkpoint's folder or a GGUF file; None where there is none.

    Args:
        id: of the model.
        folder: where to look; None is ``$EDGELM_MIRROR``. It holds ``owner/name/``, ``name/``, or GGUF files whose name
            begins with that of the model, of which the largest is taken.
    """
    if folder is None:
        if not (own := os.environ.get(MIRROR)):
            return None
        folder = expanded(own)
    name = id.rsplit("/", 1)[-1]
    for place in (folder / id, folder / name):
        if (place / "config.json").is_file():
            return place
    wanted = name.lower()
    with contextlib.suppress(OSError):
        files = [file for file in folder.iterdir() if file.suffix.lower() == ".gguf" and file.is_file()]
        own_files = [file for file in files if _begins(file.name.lower(), wanted)]
        return max(own_files, key=lambda file: file.stat().st_size, default=None)
    return None


def _begins(file: str, name: str) -> bool:
    """Whether a file's name is a model's, followed by how it is stored: ``name.Q4_1.gguf``, ``name-q8_0.gguf``."""
    return file.startswith(name) and file[len(name) : len(name) + 1] in (".", "-", "_")
