"""How a command ends when it does not end well: one line that says what happened, one on what to do, an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import TextIO

import click

from edgelm.errors import EdgeLMError, one_line

INTERRUPTED = 130  # 128 + SIGINT, as shells count
BROKEN_PIPE = 141  # 128 + SIGPIPE


def guard(command: Callable[[], int]) -> int:
    """Call `command`; whatever it raises becomes a line on stderr.

    Returns:
        the exit code.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # what the terminal cannot show must not end the command
    warnings.showwarning = _show_warning
    try:
        code = command()
    except BaseException as error:  # the user gets a line and no traceback
        code = report(error)
    return flush(code)


def report(error: BaseException) -> int:
    """Tell the user of `error` on stderr, where there is something to tell.

    Returns:
        the exit code.
    """
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, click.Abort) or _interrupted(error):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    if os.environ.get("EDGELM_DEBUG", "") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        return _usage(error)
    message, hint = _explain(error)
    say("error", message)
    if hint:
        say("hint", hint)
    return 1


def say(kind: str, message: str) -> None:
    """One line on stderr, however many `message` has: ``error: …``, ``hint: …``, ``warning: …``, ``note: …``."""
    click.echo(f"{kind}: {' '.join(one_line(message).split())}", err=True)


def flush(code: int) -> int:
    """Write out what stdout still holds, so that the interpreter has nothing left to fail at.

    Returns:
        `code`, or that of the failure.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
    except (OSError, ValueError) as error:
        code = code or report(error)
    else:
        return code
    with open(os.devnull, "w") as nowhere:  # what cannot be written must not be tried again at exit
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return code


def _interrupted(error: BaseException | None) -> bool:
    """Ctrl-C, also where a C extension being imported made an ImportError of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__ if isinstance(error, ImportError | SystemError) else None
    return False


def _explain(error: BaseException) -> tuple[str, str | None]:
    if isinstance(error, EdgeLMError):
        return str(error), error.hint
    if isinstance(error, MemoryError):
        return (
            "not enough memory",
            "a smaller model, or one exported with fewer bits or for a shorter context, needs less",
        )
    if isinstance(error, OSError):
        from edgelm.remote.agent import explained  # which is sent to boards and can import nothing of edgelm

        misplaced = isinstance(
            error, NotADirectoryError | FileExistsError | IsADirectoryError
        )  # a cache's folder, mostly
        return explained(error), "move it away" if misplaced else None
    if isinstance(error, ImportError):
        return f"a library cannot be loaded: {error}", "see: edgelm doctor"
    return f"internal: {type(error).__name__}: {error}", "run again with EDGELM_DEBUG=1 and report what it prints"


def _usage(error: click.ClickException) -> int:
    hint = None
    if isinstance(error, click.NoSuchOption):
        from edgelm.cli.suggestions import nearest_option

        hint = nearest_option(error)
    message = (error.format_message() if hint is None else error.message).rstrip(".")
    say("error", message[:1].lower() + message[1:])
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    if ctx is not None:
        see = f"see: {ctx.command_path} --help"
        say("hint", see if hint is None else f"{hint}{'' if hint.endswith('?') else ';'} {see}")
    return error.exit_code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    say("warning", str(message))
