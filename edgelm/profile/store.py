"""The folder of profiles: ``$XDG_CONFIG_HOME/edgelm/profiles``, by default under ``~/.config``; a file each.

Those in ``/etc/edgelm/profiles`` are for all users, and for services, who have none of their own. EDGELM_PROFILES names
another folder in place of both, or is ``off``. A file that is damaged, or of another machine, is passed over with a
warning: without a profile a model runs as well.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgelm.bundle.json_table import read_json
from edgelm.bundle.manifest import Manifest
from edgelm.errors import EdgeLMWarning, ProfileError
from edgelm.files import replacing
from edgelm.machine.host import CpuInfo, read_cpu
from edgelm.profile.profile import HINT, Profile, machine_key, shape_key

SWITCH = "EDGELM_PROFILES"
SYSTEM = Path("/etc/edgelm/profiles")
_OFF = ("off", "0", "no", "false")
_NAME = r"[0-9a-f]{12}-[0-9a-f]{12}\.json"


def default_folder() -> Path | None:
    """The user's folder, or None where profiles are switched off, or there is no home."""
    named = os.environ.get(SWITCH, "").strip()
    if named.lower() in _OFF:
        return None
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or ""
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "edgelm" / "profiles"
    except RuntimeError:
        return None


def folders() -> list[Path]:
    """Where profiles are looked for, one after the other."""
    own = default_folder()
    if os.environ.get(SWITCH, "").strip():
        return [] if own is None else [own]
    return [folder for folder in (own, SYSTEM) if folder is not None]


@dataclass(frozen=True)
class Profiles:
    """A folder of profiles; made when the first one is saved."""

    folder: Path

    @classmethod
    def default(cls) -> Profiles:
        """The user's.

        Raises:
            ProfileError: they are switched off.
        """
        if (folder := default_folder()) is None:
            raise ProfileError("no profiles are kept", hint=f"unset {SWITCH}, or let it name a folder")
        return cls(folder)

    def path(self, machine: str, shape: str) -> Path:
        """Where the profile of a machine and a shape lies."""
        return self.folder / f"{machine}-{shape}.json"

    def find(self, manifest: Manifest, cpu: CpuInfo) -> Profile | None:
        """The profile of a bundle on a machine; None where there is none.

        Raises:
            ProfileError: it is damaged, or of another machine or model.
        """
        machine, shape = machine_key(cpu), shape_key(manifest)
        path = self.path(machine, shape)
        if not os.path.lexists(path):
            return None
        profile = _read(path)
        if (profile.machine, profile.shape) != (machine, shape):
            raise ProfileError(f"{path} is the profile of another machine or model", hint=HINT)
        for cpus in (profile.settings.cpus, profile.settings.prefill_cpus):
            if cpus is not None and not cpu.allowed.issuperset(cpus):
                raise ProfileError(f"{path} wants CPUs that this process may not use", hint=HINT)
        return profile

    def make(self) -> None:
        """Make the folder, so that what is measured for minutes can be written in the end.

        Raises:
            ProfileError: it cannot be made, or not be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error.strerror) from None
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise self._unwritable("it is not yours to write")

    def save(self, profile: Profile) -> Path:
        """Write a profile, in place of an earlier one of that machine and shape.

        Raises:
            ProfileError: it cannot be written.
        """
        self.make()
        path = self.path(profile.machine, profile.shape)
        try:
            with replacing(path, 0o644) as file:
                file.write((json.dumps(profile.to_dict(), indent=2) + "\n").encode())
        except OSError as error:
            raise self._unwritable(error.strerror) from None
        return path

    def _unwritable(self, why: str | None) -> ProfileError:
        hint = f"let {SWITCH} name a folder that can be written"
        return ProfileError(f"profiles cannot be written to {self.folder}: {why or 'it fails'}", hint=hint)

    def forget(self, manifest: Manifest, cpu: CpuInfo) -> Path | None:
        """Remove the profile of a bundle on a machine, a damaged one, too; its path, or None where there was none.

        Raises:
            ProfileError: it cannot be removed.
        """
        path = self.path(machine_key(cpu), shape_key(manifest))
        try:
            path.unlink()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ProfileError(f"{path} cannot be removed: {error.strerror or error}") from None
        return path

    def all(self) -> Iterator[tuple[Path, Profile | ProfileError]]:
        """Every file of the folder, and the profile in it, or what is wrong with it."""
        try:
            names = sorted(entry.name for entry in os.scandir(self.folder) if re.fullmatch(_NAME, entry.name))
        except OSError:
            return
        for name in names:
            path = self.folder / name
            try:
                yield path, _read(path)
            except ProfileError as error:
                yield path, error


def profile_for(manifest: Manifest, cpu: CpuInfo | None = None) -> Profile | None:
    """The profile to run a bundle by: None where there is none, and with a warning where there is none of use."""
    for folder in folders():
        try:
            found = Profiles(folder).find(manifest, cpu or read_cpu()) if folder.is_dir() else None
        except ProfileError as error:
            warnings.warn(f"{error}; it is passed over ({error.hint})", EdgeLMWarning, stacklevel=2)
            continue
        if found is not None:
            return found
    return None


def _read(path: Path) -> Profile:
    return Profile.read(read_json(path, error=ProfileError, hint=HINT), path)
