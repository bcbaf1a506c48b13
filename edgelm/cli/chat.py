"""``edgelm chat``: talk with a model."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.cli.cached import CachedSession
from edgelm.cli.chat_commands import LEAVING, QUOTES, WORDS, answer, obey
from edgelm.cli.conversation import Conversation
from edgelm.cli.failures import say
from edgelm.cli.loading import loaded
from edgelm.cli.options import (
    adapter_option,
    answer_grammar_option,
    bundle_argument,
    draft_option,
    loading_options,
    prompt_cache_option,
    read_tools,
    sampling_options,
    template_options,
)
from edgelm.cli.sections import Sectioned, section
from edgelm.errors import EdgeLMError, PromptError, suggest

if TYPE_CHECKING:
    pass


@click.command("chat", cls=Sectioned)
@bundle_argument
@section(
    "Conversation",
    click.option("--system", metavar="TEXT", help="A system message before the conversation."),
    click.option(
        "--load",
        "before",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Go on with a conversation that /save wrote.",
    ),
)
@sampling_options
@section("Constrained decoding", answer_grammar_option)
@template_options
@section("Memory and speed", prompt_cache_option, adapter_option, draft_option)
@loading_options
def command(
    bundle: str,
    system: str | None,
    before: Path | None,
    stop: tuple[str, ...],
    template_arg: dict[str, Any] | None,
    tools: Path | None,
    prompt_cache: Path | None,
    adapter: Path | None,
    draft: Path | None,
    max_memory_mb: float | None,
    threads: int | None,
    prefill_threads: int | None,
    weight_cache: bool,
    profile: bool,
    **options: Any,
) -> None:
    """Talk with a model; /help lists what can be typed beside messages.

    BUNDLE is a folder or a name; a model that has one (edgelm models) is exported for this machine first. Lines from a
    pipe are taken as one message each.

    \b
    Examples:
      edgelm chat smollm2-135m
      edgelm chat my-bundle --system "Answer in one sentence." --temp 0.7
      edgelm chat qwen3-0.6b --template-arg enable_thinking=false
    """
    functions = read_tools(tools)
    loading = {"threads": threads, "prefill_threads": prefill_threads, "max_memory_mb": max_memory_mb, "draft": draft}
    with loaded(bundle, weight_cache=weight_cache, profile=profile, **loading) as lm:
        if lm.template is None:
            raise PromptError(
                "this model has no chat template, so it cannot chat", hint="use: " + suggest("run", bundle, '"…"')
            )
        interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
        lm.open_adapter(adapter)  # a wrong one is told before anything is typed
        cached = CachedSession.of(lm, prompt_cache, adapter)
        source = lm if cached is None else cached.session
        options |= {"adapter": adapter, "stop": stop or None, "template_args": template_arg, "tools": functions}
        conversation = Conversation(lm, system, options, source)
        if before is not None:
            conversation.load(before)
        if interactive:
            name = lm.bundle.manifest.model.id
            click.echo(f"{name}, {lm.context:,} tokens of context; /help for help, /bye to leave", err=True)
        for line in _typed() if interactive else _piped():
            if line.strip() in LEAVING:
                break
            if not line.strip():
                continue
            if interactive and line.strip().lower() in WORDS:
                say("note", f"commands begin with a slash: {WORDS[line.strip().lower()]}")
                continue
            try:
                obey(conversation, line.strip()) if line.startswith("/") else answer(conversation, line)
            except EdgeLMError as error:
                if not interactive:
                    raise
                say("error", str(error))
                if error.hint:
                    say("hint", error.hint)
        if cached is not None:
            cached.save()


def _typed() -> Iterator[str]:
    """Messages typed at a terminal, with editing and history where Python has readline; ends at Ctrl-D, and at Ctrl-C twice.

    A line that ends in a backslash goes on in the next; three quotes begin several lines, and end them.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    stopped = False
    while True:
        try:
            line = input("> ")
            if line.startswith(QUOTES):
                line = _quoted(line.removeprefix(QUOTES))
            while line.endswith("\\"):
                line = line[:-1] + "\n" + input(". ")
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo()
            if stopped:
                return
            stopped = True
            click.echo("(Ctrl-C again, Ctrl-D or /bye to leave)", err=True)
            continue
        stopped = False
        yield line


def _quoted(first: str) -> str:
    """Lines up to the one that ends in three quotes."""
    lines = [first]
    while not lines[-1].endswith(QUOTES):
        lines.append(input(". "))
    lines[-1] = lines[-1].removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")


def _piped() -> Iterator[str]:
    """Lines of standard input."""
    for number, line in enumerate(() if sys.stdin is None else sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise PromptError(f"standard input is not valid UTF-8 in line {number}") from None
