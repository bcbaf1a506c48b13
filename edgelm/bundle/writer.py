"""Writing a bundle: aside in a hidden folder, to disk, then renamed, so that a half-written one is never visible."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgelm.bundle.json_table import parse_json
from edgelm.bundle.manifest import FileEntry, Manifest
from edgelm.bundle.reader import MANIFEST, QUALITY, Bundle, sha256
from edgelm.bundle.seal import sealed
from edgelm.errors import ExportError
from edgelm.files import aside, behind_link, put, recover, sweep, to_disk, umask


def json_text(value: Mapping[str, Any]) -> str:
    """JSON as a bundle's files hold it, the keys in the order given."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


class BundleWriter:
    """The unfinished bundle: a hidden sibling folder that becomes the bundle when `commit` is called."""

    def __init__(self, folder: Path, output: Path) -> None:
        self.folder = folder
        self.output = output

    def path(self, name: str) -> Path:
        """Where to write the file `name`."""
        return self.folder / name

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        self.path(name).write_bytes(text.encode("utf-8"))

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file, the keys in the order given."""
        self.write_text(name, json_text(value))

    def draft(self, manifest: Manifest) -> Bundle:
        """The unfinished bundle as one that can be run, for measuring it before anybody else sees it."""
        files = {entry.name: FileEntry(entry.stat().st_size, "") for entry in self.folder.iterdir()}
        return Bundle(self.folder, replace(manifest, files=files))

    def commit(self, manifest: Manifest, *, overwrite: bool = False) -> Bundle:
        """Write the manifest with every file's size and hash, force all to disk, and make the bundle visible."""
        names = sorted(entry.name for entry in self.folder.iterdir())
        files = {n: FileEntry(self.path(n).stat().st_size, sha256(self.path(n))) for n in names}
        text = sealed(json_text(replace(manifest, files=files, sha256=None).to_dict()))
        full = Manifest.from_dict(parse_json(text.encode("utf-8"), MANIFEST), Path(MANIFEST))  # as devices will read it
        self.write_text(MANIFEST, text)
        for name in [*names, MANIFEST]:
            to_disk(self.path(name))
        to_disk(self.folder)
        os.chmod(self.folder, 0o777 & ~umask())  # mkdtemp made it private
        self._put(overwrite)
        to_disk(self.output.parent)
        return Bundle(self.output, full)

    def _put(self, overwrite: bool) -> None:
        try:
            put(self.folder, self.output, overwrite=overwrite)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise output_exists(self.output) from None
            raise


@contextlib.contextmanager
def writing(output: Path, *, overwrite: bool = False) -> Iterator[BundleWriter]:
    """A `BundleWriter` for the folder `output`, or the one that it links to; nothing half-written stays, whatever goes wrong.

    Raises:
        ExportError: `output` exists (and is not to be overwritten), cannot be written, or the disk is full.
    """
    output = behind_link(output)
    check_output(output, overwrite=overwrite)
    made: list[Path] = []
    try:
        made = _make_parents(output.parent)
        sweep(output)
        with aside(output) as folder:
            yield BundleWriter(folder, output)
    except OSError as error:
        raise _write_error(output, error) from error
    finally:
        for parent in reversed(made):  # only those made here, and only while they are empty
            with contextlib.suppress(OSError):
                parent.rmdir()


def save_quality(bundle: Bundle, card: Mapping[str, Any]) -> Bundle:
    """A bundle with another quality card, in the same folder.

    It is written anew, its other files by hard link where the disk knows such, and takes the old one's place as a whole:
    it is never seen with a card that its manifest does not know.

    Raises:
        BundleError: a file differs from the manifest; a new one must not bless it.
        ExportError: the folder cannot be written.
    """
    with writing(bundle.path, overwrite=True) as writer:
        for name in bundle.files:
            bundle.check_file(name, whole=True)
            if name != QUALITY:
                _link(bundle.path / name, writer.path(name))
        writer.write_json(QUALITY, card)
        return writer.commit(bundle.manifest, overwrite=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # FAT, as on a boot partition, knows no hard links
        shutil.copyfile(source, target)


def check_output(output: Path, *, overwrite: bool = False) -> None:
    """Raise ExportError where `output`, or what it links to, cannot become a bundle, before any work is done."""
    output = behind_link(output)
    recover(output)
    if os.path.lexists(output):
        if not overwrite:
            raise output_exists(output)
        if not (output / MANIFEST).is_file():
            raise ExportError(f"{output} is not a bundle and is left alone", hint="choose another folder with -o")
    parent = next(p for p in [output.parent.absolute(), *output.absolute().parents] if p.exists())
    if not parent.is_dir():
        raise ExportError(f"cannot write {output}: {parent} is not a folder", hint="choose another folder with -o")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ExportError(f"cannot write {output}: no permission in {parent}", hint="choose another folder with -o")


def output_exists(output: Path) -> ExportError:
    """The error for an output folder that is there already."""
    return ExportError(f"output {output} exists already", hint="choose another folder with -o, or pass --overwrite")


def _write_error(output: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(next(p for p in output.absolute().parents if p.exists())).free
        return ExportError(
            f"disk full while writing {output} ({free / 1e6:,.0f} MB free); nothing was left behind",
            hint="free some space, or choose another disk with -o",
        )
    where = error.filename or output
    return ExportError(f"cannot write {where}: {error.strerror or error}", hint="choose another folder with -o")


def _make_parents(folder: Path) -> list[Path]:
    missing = [p for p in [folder, *folder.parents] if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return list(reversed(missing))
