"""``edgelm run``: generate text from a prompt."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.cli.cached import CachedSession
from edgelm.cli.loading import loaded
from edgelm.cli.options import (
    adapter_option,
    bundle_argument,
    draft_option,
    form,
    form_options,
    json_option,
    loading_options,
    prompt_cache_option,
    sampling_options,
)
from edgelm.errors import PromptError

if TYPE_CHECKING:
    from edgelm.runtime.loop.results import Chunk, Completion, Timings


@click.command("run")
@bundle_argument
@click.option("-p", "--prompt", help="The prompt.  [default: standard input]")
@click.option("--system", metavar="TEXT", help="A system message before the prompt.")
@sampling_options
@form_options
@click.option("--raw", is_flag=True, help="Give the prompt to the model as it is, without the chat template.")
@click.option("--deadline", type=float, metavar="SECONDS", help="Stop after this long with what is there.")
@click.option("--n", type=int, metavar="N", help="Generate N texts, separated by lines of ---.")
@click.option("--token-healing", is_flag=True, help="Let the end of a raw prompt be the beginning of a longer token.")
@click.option("--echo", is_flag=True, help="Print the prompt first, as the model is given it.")
@click.option(
    "--logprobs",
    "top_logprobs",
    type=int,
    metavar="K",
    help="With --json: how likely each token was, and the K most likely at its place.",
)
@prompt_cache_option
@click.option("--stats", is_flag=True, help="Print speed to standard error.")
@json_option
@adapter_option
@draft_option
@loading_options
def command(
    bundle: str,
    prompt: str | None,
    system: str | None,
    stop: tuple[str, ...],
    json_schema: Path | None,
    regex: str | None,
    choice: tuple[str, ...],
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
    **options: Any,
) -> None:
    """Generate text from a prompt, printed as it comes.

    A model with a chat template takes the prompt as the user's message, others continue it.

    \b
    Examples:
      edgelm run bundles/edgelm-home-rpi5-int4 -p "Turn on the lamp in the kitchen"
      edgelm run my-bundle -p "Once upon a time" --max-tokens 64 --temperature 0.8 --seed 1 --stats
      cat question.txt | edgelm run my-bundle --json
      edgelm run my-bundle -p "Who wrote Faust, and when?" --json-schema answer.schema.json
      edgelm run my-bundle -p "Is the sky blue?" --choice yes --choice no
      edgelm run my-bundle --system "$(cat rules.txt)" -p "Hello" --prompt-cache rules.cache
    """
    if system is not None and raw:
        raise click.UsageError("--system and --raw exclude each other: a raw prompt has no messages")
    options |= {"stop": stop or None, "raw": raw, "adapter": adapter, **form(json_schema, regex, choice)}
    text = _stdin() if prompt is None else prompt
    messages = None if system is None else [{"role": "system", "content": system}, {"role": "user", "content": text}]

    from edgelm.runtime.loop.completions import variants

    done: list[Completion] = []
    started = time.perf_counter()
    loading = {"threads": threads, "prefill_threads": prefill_threads, "max_memory_mb": max_memory_mb, "draft": draft}
    with loaded(bundle, weight_cache=weight_cache, **loading) as lm:
        load_seconds = time.perf_counter() - started
        if messages is not None and lm.template is None:
            raise PromptError("this model has no chat template, so it takes no --system", hint="leave --system out")
        cached = None if prompt_cache is None else CachedSession(lm, prompt_cache, adapter)
        source = lm if cached is None else cached.session
        for own in variants(lm.config, 1 if n is None else n, options):
            if done and not as_json:
                click.echo("---")
            chunks = source.stream(text if messages is None else messages, **own)
            done.append(_collect(chunks) if as_json else _print(chunks))
        if cached is not None:
            cached.save_prompt(done[0].timings)
        facts = {"model": lm.bundle.manifest.model.id, "load_seconds": load_seconds}
        if (chosen := lm.open_adapter(adapter)) is not None:
            facts["adapter"] = chosen.id
    if as_json:
        answers = [_answer(completion) for completion in done]
        click.echo(json.dumps(facts | (answers[0] if n is None else {"completions": answers}), ensure_ascii=False))
    for completion in done if stats else ():
        said = f"load {load_seconds:.2f} s, {speed(completion.timings)}, ended by {completion.finish_reason}"
        click.echo(said, err=True)


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


def _stdin() -> str:
    """The prompt on standard input, without the newline that ends it."""
    if sys.stdin is None or sys.stdin.isatty():
        raise PromptError("no prompt", hint='give one with -p "…", or on standard input; to talk: edgelm chat')
    data = sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"standard input is not valid UTF-8: byte {error.start} is 0x{data[error.start]:02x}",
            hint="convert it, for example with: iconv -f latin1 -t utf-8",
        ) from None
    if not text:
        raise PromptError("no prompt: standard input is empty", hint='give one with -p "…"')
    return text.removesuffix("\n").removesuffix("\r")
