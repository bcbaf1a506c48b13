"""Names of GGUF files: parts of one, and which of a repository's files is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from edgelm.errors import CheckpointError, near

SUFFIX = ".gguf"
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
# In the name of a file that is no text model.
_OTHER = re.compile(r"(^|[-._])(mmproj|imatrix|lora)([-._]|$)", re.IGNORECASE)


def stem(name: str) -> str:
    """A file's name without ``.gguf`` and without the number of its part; a name of another kind as it is."""
    found = _PART.fullmatch(name)
    return found[1] if found else name.removesuffix(SUFFIX)


def parts(path: Path) -> list[Path]:
    """The parts of a split file, of which `path` is one; else `path` alone.

    Raises:
        CheckpointError: a part is missing.
    """
    files = [path.with_name(name) for name in _parts(path.name)]
    for file in files:
        if not file.exists() and len(files) > 1:
            raise CheckpointError(
                f"{file} is missing: {path.name} is one of {len(files)} parts", hint="download it, too"
            )
    return files


def models(names: Iterable[str]) -> list[str]:
    """Those of a repository's files that are text models, of a split one its first part."""
    found = [n for n in names if n.lower().endswith(SUFFIX) and not _OTHER.search(PurePosixPath(n).name)]
    return sorted(name for name in found if _number(name) in (None, 1))


def choose(model: str, names: Iterable[str], *, kind: str | None = None, file: str | None = None) -> list[str]:
    """The parts, in order, of the file of a repository that is meant, by its type or by its name.

    Args:
        model: what the repository is called in errors.
        names: of its files, with their folders.
        kind: a type such as ``Q4_K_M``, as a part of the name; upper and lower case are the same.
        file: the whole name, with or without its folder.

    Raises:
        CheckpointError: none of that name, or several.
    """
    names = list(names)
    known = models(names)
    if file is not None:
        found = [name for name in known if file in (name, PurePosixPath(name).name)]
        if not found and file in names:
            found = [file]  # a later part, or what does not look like a model
    else:
        pattern = re.compile(rf"(^|[-._/]){re.escape(str(kind))}([-._/]|$)", re.IGNORECASE)
        found = [name for name in known if pattern.search(name.removesuffix(SUFFIX))]
    what = f"file {file!r}" if file is not None else f"GGUF file of type {kind!r}"
    if not known:
        raise CheckpointError(f"{model} on the hub has no GGUF file", hint="give its id alone: owner/name")
    if not found:
        raise CheckpointError(
            f"{model} on the hub has no {what}", hint=near(file or str(kind), known, listing="it has")
        )
    if len(found) > 1:
        raise CheckpointError(
            f"{model} on the hub has several files of type {kind!r}", hint=f"give --file with one of {', '.join(found)}"
        )
    first = PurePosixPath(found[0])
    wanted = [str(first.with_name(name)) for name in _parts(first.name)]
    if missing := next((name for name in wanted if name not in names), None):
        raise CheckpointError(
            f"{model} on the hub lacks {missing}, a part of {first.name}", hint="take another file of it"
        )
    return wanted


def _parts(name: str) -> list[str]:
    found = _PART.fullmatch(name)
    if not found:
        return [name]
    return [f"{found[1]}-{index:05d}-of-{found[3]}{SUFFIX}" for index in range(1, int(found[3]) + 1)]


def _number(name: str) -> int | None:
    found = _PART.fullmatch(PurePosixPath(name).name)
    return int(found[2]) if found else None
