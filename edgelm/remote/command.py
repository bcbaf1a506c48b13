"""A command of edgelm on a board: what it reads is sent, it runs there, and what it has written comes home."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgelm.bundle.reader import MANIFEST, Bundle
from edgelm.errors import EdgeLMError, RemoteError
from edgelm.files import replacing
from edgelm.remote import environment
from edgelm.remote.place import open_place, parse
from edgelm.remote.session import OnBytes, Session


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        args: with the paths of this machine.
        inputs: what it reads, bundles and files: as it stands in `args`, and where it lies here.
        outputs: those that it writes.
        wheels: a folder of wheels, or None.
        keep: whether bundles stay on the board.
    """

    args: Sequence[str]
    inputs: Mapping[Path, Path] = field(default_factory=dict)
    outputs: Sequence[Path] = ()
    wheels: Path | None = None
    keep: bool = False


@dataclass(frozen=True)
class Hooks:
    """What is told meanwhile: `say` a line, `start` a stage of so many bytes, `on_bytes` those done."""

    say: Callable[[str], None] = lambda text: None
    start: Callable[[str, int], None] = lambda what, total: None
    on_bytes: OnBytes = field(default=lambda count: None)


def run_on(name: str, command: Command, hooks: Hooks = Hooks()) -> int:
    """Run it.

    Args:
        name: of the board, as --on takes it.
        command: what.
        hooks: what is told.

    Returns:
        its exit code.

    Raises:
        RemoteError: the board cannot be reached or used, or the connection was lost; the next call goes on.
        DeviceError: edgelm cannot run there.
        BundleError: a bundle is not whole.
    """
    bundles = {path: Bundle.open(local) for path, local in command.inputs.items() if (local / MANIFEST).exists()}
    with open_place(name) as place:
        session = Session.open(place)
        environment.check(session.facts, name)
        made = environment.prepare(session, command.wheels, hooks.say, lambda count: None)
        folder = f"{session.base}/run-{uuid.uuid4().hex[:12]}"
        paths = _send(session, command, bundles, folder, hooks)
        temporary = [folder, *([] if command.keep else [paths[path] for path in bundles])]
        taken = {there.rpartition("/")[2] for there in paths.values()}
        outputs = {path: f"{folder}/{_free(path.name, taken)}" for path in command.outputs}
        args = _translated(command.args, paths | outputs)
        # Prepacked weights are of use for as long as the bundle is there.
        cache = f"{session.base if command.keep else folder}/cache"
        variables = {**made.variables, "XDG_CACHE_HOME": cache}
        if parse(name)[0] != "ssh":  # a user of the board's has a home, where a profile is for all that runs there
            variables["EDGELM_PROFILES"] = f"{session.base}/profiles"
        try:
            code = session.run([made.python, "-m", "edgelm", *args], variables, folder)
            for path, there in outputs.items() if code == 0 else ():
                _fetch(session, there, path)
        except RemoteError:
            raise  # the board is gone: the next call tidies up
        except BaseException:
            _tidy(session, temporary)
            raise
        _tidy(session, temporary)
        return code


def _send(
    session: Session, command: Command, bundles: Mapping[Path, Bundle], folder: str, hooks: Hooks
) -> dict[Path, str]:
    """Send what the command reads: bundles by their digest, of which only what is missing; the path there of each."""
    paths, files, hashes, taken = dict[Path, str](), dict[Path, str](), dict[Path, str](), set[str]()
    for path, local in command.inputs.items():
        if path in bundles:
            bundle = bundles[path]
            there = f"{session.base}/bundles/{bundle.digest}"
            for file in (MANIFEST, *bundle.files):
                files[local / file] = f"{there}/{file}"
            hashes |= {local / file: entry.sha256 for file, entry in bundle.files.items()}
        else:
            if not local.is_file():
                raise EdgeLMError(f"{path} is no file that could be sent", hint="bundles and single files can")
            there = f"{folder}/{_free(path.name, taken)}"
            files[local] = there
        paths[path] = there
    total = sum(file.stat().st_size for file in files)
    missing = session.have(files.values()) if files else {}
    lacking = sum(file.stat().st_size for file, there in files.items() if missing[there][0] < 0)
    if lacking + (64 << 20) > session.facts["free"]:
        raise RemoteError(
            f"{session.place.name} is full: {session.facts['free'] / 1e6:,.0f} MB free, {lacking / 1e6:,.0f} MB to send",
            hint="make room there, then run it again",
        )
    if files:
        hooks.start(f"sending to {session.place.name}", total)
        session.put(files, hooks.on_bytes, hashes)
    return paths


def _free(name: str, taken: set[str]) -> str:
    """A file's name there: its own, unless another folder has one of that name; `taken` has it from now on."""
    found = next(
        f"{prefix}{name}" for prefix in ("", *(f"{n}-" for n in range(2, 1000))) if f"{prefix}{name}" not in taken
    )
    taken.add(found)
    return found


def _translated(args: Sequence[str], paths: Mapping[Path, str]) -> list[str]:
    """The arguments with the board's paths."""
    there = {str(path): remote for path, remote in paths.items()}
    found = []
    for arg in args:
        option, equals, value = arg.partition("=")
        if arg.rstrip("/") in there or arg in there:
            found.append(there.get(arg) or there[arg.rstrip("/")])
        elif equals and option.startswith("--") and value.rstrip("/") in there:
            found.append(f"{option}={there[value.rstrip('/')]}")
        elif arg[:1] == "-" != arg[1:2] and arg[2:] in there:  # -fFILE
            found.append(arg[:2] + there[arg[2:]])
        else:
            found.append(arg)
    return found


def _fetch(session: Session, there: str, path: Path) -> None:
    """Bring a file home, whole or not at all."""
    data = session.get(there)
    with replacing(path.absolute(), 0o644) as file:
        file.write(data)


def _tidy(session: Session, paths: Sequence[str]) -> None:
    """Leave nothing behind; where that fails the next call does it."""
    try:
        session.call("remove", paths=list(paths))
    except RemoteError:
        return
