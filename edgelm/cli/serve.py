"""``edgelm serve``: bundles behind OpenAI's, Ollama's and Anthropic's interfaces, with a chat page."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from edgelm.cli.bundles import find_bundle
from edgelm.cli.failures import say
from edgelm.cli.options import (
    prefill_threads_option,
    profile_option,
    threads_option,
    weight_cache_option,
)
from edgelm.cli.sections import Sectioned, section
from edgelm.errors import DependencyError, OptionError

_LISTENING = (
    click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Where to listen.  [default: 127.0.0.1]"),
    click.option("--port", type=click.IntRange(0, 65535), default=8080, metavar="N", help="[default: 8080; 0: any]"),
    click.option(
        "--socket",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="PATH",
        help="Listen on a Unix socket, for this user and group, in place of --host and --port.",
    ),
)
_ACCESS = (
    click.option(
        "--api-key",
        multiple=True,
        envvar="EDGELM_API_KEY",
        metavar="KEY",
        help="A key that clients must show; may be given several times. Others see it in the list of processes: better "
        "in the environment as EDGELM_API_KEY, or in a file.",
    ),
    click.option(
        "--api-key-file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Keys, one a line, in a file that only you may read.",
    ),
    click.option("--insecure", is_flag=True, help="Listen beyond this machine without a key."),
    click.option(
        "--allow-host", multiple=True, metavar="NAME", help="A name, beside its own, by which clients may call it."
    ),
    click.option(
        "--cors", multiple=True, metavar="ORIGIN", help="An origin whose pages may call it from a browser; * is any."
    ),
)
_MODELS = (
    click.option(
        "--alias", multiple=True, metavar="NAME", help="What clients call a bundle; several in the bundles' order."
    ),
    click.option(
        "--parallel", type=click.IntRange(1, 64), default=4, metavar="N", help="Texts computed at once.  [default: 4]"
    ),
    click.option(
        "--max-memory",
        "max_memory_mb",
        type=float,
        metavar="MB",
        help="What the process may take; models make room for each other.  [default: what the machine has]",
    ),
    click.option(
        "--idle-unload",
        type=click.FloatRange(1),
        metavar="SECONDS",
        help="Unload a model that nobody asked for that long.  [default: never]",
    ),
    click.option(
        "--prompt-cache",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Where beginnings that conversations share survive a restart.  [default: the user's cache]",
    ),
    click.option("--no-prompt-cache", is_flag=True, help="Keep them in memory alone."),
    click.option(
        "--parse-special",
        is_flag=True,
        help="Take names of special tokens in messages as those tokens; without it text is text.",
    ),
    click.option(
        "--no-answer-grammar", is_flag=True, help="Leave answers free where a model names a grammar for them."
    ),
)
_LOADING = (threads_option, prefill_threads_option, weight_cache_option, profile_option)
_BOUNDS = (
    click.option(
        "--timeout",
        type=click.FloatRange(1),
        default=600.0,
        metavar="SECONDS",
        help="From a request to the end of its text.  [default: 600]",
    ),
    click.option(
        "--max-queue",
        type=click.IntRange(0, 4096),
        default=64,
        metavar="N",
        help="Requests that may wait; others are told to come again.  [default: 64]",
    ),
    click.option(
        "--max-body",
        type=click.FloatRange(0.001, 1024),
        default=8.0,
        metavar="MIB",
        help="Longest request.  [default: 8]",
    ),
)


@click.command("serve", cls=Sectioned)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@section("Where to listen", *_LISTENING)
@section("Who may ask", *_ACCESS)
@section("Models", *_MODELS)
@section("Bounds", *_BOUNDS)
@section("Memory and speed", *_LOADING)
@click.option("--install-unit", is_flag=True, help="Print a systemd unit that serves so, and end.")
def command(**given: Any) -> None:
    """Serve bundles to apps that speak OpenAI's, Ollama's or Anthropic's interface, and a chat page to browsers.

    BUNDLE is a folder or a name; a model that has one (edgelm models) is exported for this machine first. Listens on
    this machine alone unless it is told otherwise. Needs edgelm[serve]; constrained answers need edgelm[structured], too.

    \b
    Examples:
      edgelm serve smollm2-135m
      edgelm serve one-bundle another --alias small --alias large
      edgelm serve my-bundle --host 0.0.0.0 --api-key-file keys.txt
      edgelm serve my-bundle --install-unit > edgelm.service
    """
    given["bundles"] = tuple(map(find_bundle, given["bundles"]))
    install = given.pop("install_unit")
    if install:
        click.echo(_unit(given), nl=False)
        return
    if missing := _missing():
        raise DependencyError(f"serve needs more packages: {missing}", hint="pip install 'edgelm[serve]'")
    from edgelm.serve.app import build
    from edgelm.serve.server import serve

    settings = _settings(given)
    _log()
    application = build(settings)

    def ready(address: str) -> None:
        names = ", ".join(application.backend.pool.models)
        say("note", f"serving {names} on {address}" + ("" if settings.keys else ", without a key"))

    serve(application, ready)


def _missing() -> str | None:
    """What says that packages are wanting; None where all are there."""
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        return str(error)
    del starlette, uvicorn
    return None


def _settings(given: dict[str, Any]) -> Any:
    from edgelm.device.sensors import temperature
    from edgelm.serve.settings import Limits, Settings, read_keys

    key_file = given["api_key_file"]
    keys = (*given["api_key"], *(() if key_file is None else read_keys(key_file)))
    same = ("host", "port", "socket", "insecure", "parallel", "max_memory_mb", "threads", "prefill_threads")
    return Settings(
        bundles=given["bundles"],
        aliases=given["alias"],
        keys=keys,
        origins=given["cors"],
        hosts=given["allow_host"],
        idle_seconds=given["idle_unload"],
        weight_cache=given["weight_cache"],
        profile=given["profile"],
        parse_special=given["parse_special"],
        answer_grammar=not given["no_answer_grammar"],
        prompt_cache=None if given["no_prompt_cache"] else given["prompt_cache"] or _prompts(),
        temperature=temperature,
        limits=Limits(
            body_bytes=int(given["max_body"] * (1 << 20)), queue=given["max_queue"], seconds=given["timeout"]
        ),
        **{name: given[name] for name in same},
    )


def _prompts() -> Path | None:
    """The folder of beginnings, beside that of weights; None for a user without one."""
    from edgelm.runtime.ort.weightcache import user_folder

    weights = user_folder()
    return None if weights is None else weights.parent / "prompts"


def _log() -> None:
    """What happens, on stderr; systemd puts the time before each line by itself."""
    form = "%(message)s" if "JOURNAL_STREAM" in os.environ else "%(asctime)s %(message)s"
    logging.basicConfig(format=form, datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("edgelm.serve").setLevel(logging.INFO)


def _unit(given: dict[str, Any]) -> str:
    """The unit for the options of this command line."""
    from edgelm.serve.settings import expect_loopback
    from edgelm.serve.unit import unit

    if given["api_key"]:
        raise OptionError("a unit is no place for a key: others may read it", hint="--api-key-file FILE")
    if given["socket"] is None and given["api_key_file"] is None and not given["insecure"]:
        expect_loopback(given["host"])
    if missing := _missing():
        say("warning", f"the service cannot start before this: pip install 'edgelm[serve]' ({missing})")
    names = {"idle_unload": "--idle-unload", "threads": "--threads", "prefill_threads": "--prefill-threads"}
    names |= {"parallel": "--parallel", "timeout": "--timeout", "max_queue": "--max-queue", "max_body": "--max-body"}
    names |= {"prompt_cache": "--prompt-cache", "alias": "--alias", "allow_host": "--allow-host", "cors": "--cors"}
    if given["socket"] is None:
        names |= {"host": "--host", "port": "--port"}
    on = ("insecure", "parse_special", "no_prompt_cache", "no_answer_grammar")
    flags = [f"--{name.replace('_', '-')}" for name in on if given[name]]
    words = [word for name, option in names.items() for value in _listed(given[name]) for word in (option, value)]
    program = shutil.which(sys.argv[0]) or shutil.which("edgelm")
    start = [os.path.abspath(program), "serve"] if program else [sys.executable, "-m", "edgelm", "serve"]
    return unit(
        start,
        [
            *words,
            *flags,
            *(f"--no-{name.replace('_', '-')}" for name in ("weight_cache", "profile") if not given[name]),
        ],
        given["bundles"],
        key_file=given["api_key_file"],
        socket=given["socket"],
        max_memory_mb=given["max_memory_mb"],
    )


def _listed(value: Any) -> list[str]:
    values = value if isinstance(value, tuple) else () if value is None else (value,)
    return [f"{item:g}" if isinstance(item, float) else str(item) for item in values]
