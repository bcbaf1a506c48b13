"""``edgelm run``: generate text from a prompt."""

from __future__ import annotations

import json
import os
import select
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.cli.cached import CachedSession
from edgelm.cli.failures import say
from edgelm.cli.loading import loaded
from edgelm.cli.on import BoardCommand
from edgelm.cli.options import (
    adapter_option,
    bundle_argument,
    draft_option,
    form,
    form_options,
    json_option,
    loading_options,
    prompt_cache_option,
    read_file,
    read_tools,
    sampling_options,
    template_options,
)
from edgelm.cli.sections import section
from edgelm.errors import BundleError, PromptError, suggest

if TYPE_CHECKING:
    from edgelm.runtime.lm import LM
    from edgelm.runtime.loop.results import Chunk, Completion, Timings
    from edgelm.runtime.text.prompt import Prompt


_PATIENCE = 1.0  # seconds without text on standard input after which it is said that it is waited for
_CACHING = (prompt_cache_option, adapter_option, draft_option)


@click.command(
    "run",
    cls=BoardCommand,
    reads=("bundle", "adapter", "draft", "json_schema", "prompt_file", "tools"),
    refuses=("prompt_cache",),
)
@bundle_argument
@click.argument(  # words without quotes are a prompt, too
    "text", nargs=-1, metavar="[PROMPT]", callback=lambda ctx, option, words: " ".join(words) if words else None
)
@section(
    "Prompt",
    click.option("-p", "--prompt", metavar="TEXT", help="The prompt; - takes standard input.  [default: that]"),
    click.option(
        "-f",
        "--prompt-file",
        multiple=True,
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="A text that is the prompt, or stands behind it; may be given several times.",
    ),
    click.option("--system", metavar="TEXT", help="A system message before the prompt."),
    click.option("--raw", is_flag=True, help="Give the prompt to the model as it is, without the chat template."),
    click.option("--echo", is_flag=True, help="Print the prompt first, as the model is given it."),
    click.option(
        "--token-healing", is_flag=True, help="Let the end of a raw prompt be the beginning of a longer token."
    ),
)
@sampling_options
@section(
    "Sampling",
    click.option("--n", type=int, metavar="N", help="Generate N texts, separated by lines of ---."),
    click.option("--deadline", type=float, metavar="SECONDS", help="Stop after this long with what is there."),
)
@form_options
@template_options
@section("Memory and speed", *_CACHING)
@loading_options
@section(
    "Output",
    click.option(
        "--logprobs",
        "top_logprobs",
        type=int,
        metavar="K",
        help="With --json: how likely each token was, and the K most likely at its place.",
    ),
    click.option("--stats", is_flag=True, help="Print speed to standard error."),
    json_option,
)
def command(
    bundle: str,
    text: str | None,
    prompt: str | None,
    prompt_file: tuple[Path, ...],
    system: str | None,
    stop: tuple[str, ...],
    json_schema: Path | None,
    regex: str | None,
    choice: tuple[str, ...],
    template_arg: dict[str, Any] | None,
    tools: Path | None,
    raw: bool,
    n: int | None,
    prompt_cache: Path | None,
    stats: bool,
    as_json: bool,
    adapter: Path | None,
    draft: Path | None,
    max_memory_mb: float | None,
    threads: int | None,
    prefill_threads: int | None,
    weight_cache: bool,
    profile: bool,
    **options: Any,
) -> None:
    """Generate text from a prompt, printed as it comes.

    BUNDLE is a folder or a name: a model that has one (edgelm models) is exported for this machine first. A model with a
    chat template takes the prompt as the user's message, others continue it. What comes from a pipe stands behind PROMPT;
    with -p it is left alone, unless the text is -.

    \b
    Examples:
      edgelm run smollm2-135m "Why is the sky blue?"
      edgelm run edgelm-home -p "Turn on the lamp in the kitchen" --stats
      edgelm run my-bundle "Once upon a time" -n 64 --temp 0.8 --seed 1
      cat letter.txt | edgelm run my-bundle "Summarise this letter:"
      edgelm run my-bundle -f question.txt --json
      edgelm run my-bundle "When was Faust written?" --json-schema year.json
      edgelm run my-bundle "Is the sky blue?" --choice yes --choice no
      edgelm run my-bundle --system "$(cat rules.txt)" --prompt-cache rules.cache
    """
    if system is not None and raw:
        raise click.UsageError("--system and --raw exclude each other: a raw prompt has no messages")
    options |= {"stop": stop or None, "raw": raw, "adapter": adapter, **form(json_schema, regex, choice)}
    options |= {"template_args": template_arg, "tools": read_tools(tools)}
    _expect_order(bundle, text)
    asked = read_prompt(text, prompt, prompt_file)
    given = asked if system is None else [{"role": "system", "content": system}, {"role": "user", "content": asked}]
    loading = {"threads": threads, "prefill_threads": prefill_threads, "max_memory_mb": max_memory_mb, "draft": draft}
    started = time.perf_counter()
    with loaded(bundle, weight_cache=weight_cache, profile=profile, **loading) as lm:
        load_seconds = time.perf_counter() - started
        if system is not None and lm.template is None:
            raise PromptError("this model has no chat template, so it takes no --system", hint="leave --system out")
        done = _generate(lm, given, n, CachedSession.of(lm, prompt_cache, adapter), options, silent=as_json)
        facts = {"model": lm.bundle.manifest.model.id, "load_seconds": load_seconds}
        if (chosen := lm.open_adapter(adapter)) is not None:
            facts["adapter"] = chosen.id
    if as_json:
        answers = [_answer(completion) for completion in done]
        click.echo(json.dumps(facts | (answers[0] if n is None else {"completions": answers}), ensure_ascii=False))
    if (json_schema or regex) and any(completion.finish_reason == "length" for completion in done):
        more = ', or "additionalProperties": false where the schema leaves objects open' if json_schema else ""
        say("note", f"the answer was cut off before its form was whole: give more tokens (-n){more}")
    for completion in done if stats else ():
        said = f"load {load_seconds:.2f} s, {speed(completion.timings)}, ended by {completion.finish_reason}"
        click.echo(said, err=True)


def _generate(
    lm: LM,
    prompt: Prompt,
    n: int | None,
    cached: CachedSession | None,
    options: dict[str, Any],
    *,
    silent: bool,
) -> list[Completion]:
    """The completions, printed as they come unless `silent`."""
    from edgelm.runtime.loop.completions import variants

    done: list[Completion] = []
    source = lm if cached is None else cached.session
    for own in variants(lm.config, 1 if n is None else n, options):
        if done and not silent:
            click.echo("---")
        chunks = source.stream(prompt, **own)
        done.append(_collect(chunks) if silent else _print(chunks))
    if cached is not None:
        cached.save_prompt(done[0].timings)
    return done


def _answer(completion: Completion) -> dict[str, Any]:
    """A completion for JSON."""
    answer = {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.usage.prompt_tokens,
        "completion_tokens": completion.usage.completion_tokens,
        "usage": completion.usage.to_dict(),
        "timings": completion.timings.to_dict(),
    }
    if completion.logprobs is not None:
        answer["logprobs"] = [record.to_dict() for record in completion.logprobs]
    return answer


def speed(timings: Timings) -> str:
    """A generation's figures in one line."""
    parts = [f"prompt {timings.prompt_tokens} tokens"]
    if timings.cached_tokens:
        parts[0] += f" ({timings.cached_tokens} cached)"
    if timings.prefill_tokens_per_second is not None:
        parts[0] += f" at {timings.prefill_tokens_per_second:.2f} tok/s"
    if timings.ttft_seconds is not None:
        parts.append(f"first token after {timings.ttft_seconds:.3f} s")
    parts.append(f"{timings.completion_tokens} tokens")
    if timings.decode_tokens_per_second is not None:
        parts[-1] += f" at {timings.decode_tokens_per_second:.2f} tok/s"
    if timings.drafted_tokens:
        parts.append(f"{timings.accepted_tokens} of {timings.drafted_tokens} draft tokens accepted")
    return ", ".join(parts)


def print_chunk(chunk: Chunk) -> None:
    """Print a piece of text now."""
    if chunk.text:
        click.echo(chunk.text, nl=False)  # flushes


def _print(chunks: Iterator[Chunk]) -> Completion:
    text, kept = "", []
    try:
        for chunk in chunks:
            text += chunk.text  # first, lest Ctrl-C in between leaves the line open
            kept.append(chunk)
            print_chunk(chunk)
    finally:  # after Ctrl-C too, the shell's prompt begins on a line of its own
        if text and not text.endswith("\n"):
            click.echo()
    return _collect(kept)


def _collect(chunks: Iterable[Chunk]) -> Completion:
    from edgelm.runtime.loop.results import Completion

    return Completion.join(chunks)


def _expect_order(bundle: str, text: str | None) -> None:
    """BundleError where prompt and bundle were given the other way round."""
    if text is None or os.path.lexists(bundle):
        return

    from edgelm.bundle.manifest import MANIFEST

    if (Path(text) / MANIFEST).is_file():
        raise BundleError(
            f"bundle {bundle} does not exist", hint=f"the bundle comes first: {suggest('run', text, bundle)}"
        )


def read_prompt(text: str | None, prompt: str | None, files: Sequence[Path]) -> str:
    """The prompt: what is typed, then the files, then standard input where it is asked for or piped behind `text`.

    Args:
        text: typed as an argument.
        prompt: typed as an option; ``-`` is standard input.
        files: texts that stand behind it.

    Raises:
        UsageError: a prompt twice.
        PromptError: there is none, or standard input is not UTF-8.
        OptionError: a file cannot be read.
    """
    if text is not None and prompt is not None:
        raise click.UsageError("the prompt is given twice: as PROMPT and with -p")
    typed = text if prompt is None else prompt
    parts = [] if typed in (None, "-") else [typed]
    parts += [read_file(file).removesuffix("\n") for file in files]
    if typed == "-" or not (parts or typed is not None):
        parts.append(_stdin())
    elif text is not None and _piped():
        _tell_of_waiting()
        parts += filter(None, [_read_stdin()])
    return "\n\n".join(parts)


def _piped() -> bool:
    """Whether standard input is a pipe or a file, of which all may be read."""
    if sys.stdin is None or sys.stdin.isatty():
        return False
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # one that a program put in place
        return True
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _tell_of_waiting() -> None:
    """Say what it waits for, where a program left its own standard input open and writes nothing to it."""
    try:
        ready, _, _ = select.select([sys.stdin], [], [], _PATIENCE)
    except (OSError, ValueError):  # nothing that can be asked
        return
    if not ready:
        say("note", "the text on standard input belongs to the prompt: waiting for its end (with -p none is read)")


def _stdin() -> str:
    """The prompt on standard input, without the newline that ends it."""
    if sys.stdin is None or sys.stdin.isatty():
        raise PromptError(
            "no prompt", hint='give one: edgelm run BUNDLE "…", or on standard input; to talk: edgelm chat BUNDLE'
        )
    text = _read_stdin()
    if not text:
        raise PromptError("no prompt: standard input is empty", hint='give one: edgelm run BUNDLE "…"')
    return text


def _read_stdin() -> str:
    data = sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"standard input is not valid UTF-8: byte {error.start} is 0x{data[error.start]:02x}",
            hint="convert it, for example with: iconv -f latin1 -t utf-8",
        ) from None
    return text.removesuffix("\n").removesuffix("\r")
