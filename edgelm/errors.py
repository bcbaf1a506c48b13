"""Every error a user can meet.

Each says in one line what happened and to which file, key or value; `hint` says what to do about it.
The command line prints them as ``error: …`` and ``hint: …`` and exits with 1; a program catches
`EdgeLMError`, or one of its kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_LONGEST = 4000  # characters of an error's text


def one_line(text: str) -> str:
    """A text as one line that a terminal shows: names of files and keys, which others chose, may hold anything."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c in "\t\n\v\f\r" else _escaped(c) for c in text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


class EdgeLMError(Exception):
    """Base of all errors raised on purpose by edgelm.

    Attributes:
        hint: what the user can do about it, or None.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(one_line(message))
        self.hint = hint if hint is None else one_line(hint)
        if hint is not None:
            self.add_note(f"hint: {self.hint}")  # a traceback shows it, too


class EdgeLMWarning(RuntimeWarning):
    """It goes on, but not as well as it could; the text says what to do. The command line prints ``warning: …``."""


class TargetError(EdgeLMError):
    """An unknown target, or a target file that cannot be used."""


class CheckpointError(EdgeLMError):
    """A checkpoint is missing, damaged or incomplete."""


class UnsupportedModelError(EdgeLMError):
    """A sound checkpoint of a kind that cannot be exported."""


class ExportError(EdgeLMError):
    """The conversion cannot be done or written (disk full, output exists, …)."""


class BundleError(EdgeLMError):
    """A bundle is missing, damaged, or made for a newer edgelm."""


class TaskError(EdgeLMError):
    """A bundle is asked for what it was not exported for: text of one that embeds, or the other way round."""


class AdapterError(EdgeLMError):
    """An exported adapter is missing, damaged, or made for another bundle."""


class PromptCacheError(EdgeLMError):
    """A saved prompt cache is missing, damaged, or of another bundle.

    Attributes:
        stale: whether it is a prompt cache that can only be made anew.
    """

    def __init__(self, message: str, *, hint: str | None = None, stale: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.stale = stale


class PromptError(EdgeLMError):
    """A prompt or conversation cannot be given to this model (too long, empty, no template, …)."""


class TemplateError(PromptError):
    """A chat template is invalid, refuses the messages, or does what a template must not do."""


class OptionError(EdgeLMError):
    """An option or argument has a value outside its range."""


class BusyError(EdgeLMError):
    """As many requests as there may be are waiting already; nothing is wrong with this one, which may be made again."""


class DependencyError(EdgeLMError):
    """An optional package is needed; the hint names the pip command."""


class DeviceError(EdgeLMError):
    """This machine lacks what is needed to run (memory, instructions, provider)."""


class RemoteError(EdgeLMError):
    """A board cannot be reached, or cannot be used, or the connection to it was lost."""


class FleetError(EdgeLMError):
    """The plan of a fleet is wrong, or jobs of it are still to be done."""


class ClusterError(EdgeLMError):
    """A cluster cannot be reached, or its workers cannot do what they are asked for."""


class ResultsError(EdgeLMError):
    """The file of results is damaged or cannot be written, or has not what was asked for."""


class ProfileError(EdgeLMError):
    """A device profile is damaged or of another machine, or cannot be written, or there is none to be had."""


def suggest(*words: object) -> str:
    """A command line of edgelm's to suggest: words with blanks or signs of the shell are quoted, ``…`` is left to be seen."""
    import shlex  # here: errors are imported by everything, and suggestions are made by few

    return " ".join(["edgelm", *(str(w) if str(w) == '"…"' else shlex.quote(str(w)) for w in words)])


def near(name: str, known: Iterable[str], *, listing: str = "known") -> str:
    """A hint for a mistyped `name`: the near ones of `known`, or all of them where none is near."""
    from difflib import get_close_matches  # here, too

    known = sorted(known)
    close = get_close_matches(name, known, n=3, cutoff=0.5) or [k for k in known if name and (name in k or k in name)]
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"{listing}: {', '.join(known)}" if known else f"{listing}: none"


def unexpected_keyword(name: str, known: Iterable[str], *, function: str | None = None) -> TypeError:
    """Python's error for a keyword that a function does not take, with the near one of those that are `known`."""
    where = "" if function is None else f"{function}() got an "
    hint = near(name, known)
    return TypeError(
        f"{where}unexpected keyword argument {name!r}" + (f": {hint}" if hint.startswith("did you") else "")
    )


def expect_type(name: str, value: object, kinds: type | tuple[type, ...], expected: str) -> None:
    """TypeError that names an argument where it is of none of the `kinds`: of what is `expected`, and what it is."""
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {expected}, not {type(value).__name__}")


def expect_flags(**values: object) -> None:
    """TypeError for the first argument that is neither True nor False: anything else would count as one of them unseen."""
    for name, value in values.items():
        expect_type(name, value, bool, "True or False")


def names_keywords(function: F) -> F:
    """Makes a function name the near keyword where it is called with one that it does not take."""
    code = function.__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        for name in options:
            if name not in known:
                raise unexpected_keyword(name, known, function=function.__name__)
        return function(*args, **options)

    return call  # type: ignore[return-value]
