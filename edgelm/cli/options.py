"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgelm.cli.sections import section
from edgelm.errors import OptionError
from edgelm.files import read_text
from edgelm.json_text import json_value

_LONGEST_FILE = 16 << 20  # bytes

F = TypeVar("F", bound=Callable[..., Any])


# A str, not a Path, which would take the ./ from a path: ./NAME is no name.
bundle_argument = click.argument("bundle")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
file_option = click.option("--file", metavar="NAME.gguf", help="The GGUF file of a model from the hub.")


def is_gguf_name(model: str) -> bool:
    """Whether an argument names a GGUF file by its ending, there or not."""
    return model.lower().endswith(".gguf")


threads_option = click.option(
    "-t", "--threads", type=int, metavar="N", help="CPU threads.  [default: what suits this machine]"
)
prefill_threads_option = click.option(
    "--prefill-threads",
    type=int,
    metavar="N",
    help="CPU threads for prefill.  [default: -t, or what suits this machine]",
)
weight_cache_option = click.option(
    "--weight-cache/--no-weight-cache",
    default=True,
    help="Cache prepacked weights, and map them.  [default: yes; see: edgelm cache]",
)
profile_option = click.option(
    "--profile/--no-profile",
    default=True,
    help="Run as tuned for this machine.  [default: yes, where it was; see: edgelm tune]",
)
memory_option = click.option(
    "--max-memory",
    "max_memory_mb",
    type=float,
    metavar="MB",
    help="What the process may take: the context shrinks to what fits.  [default: no ceiling]",
)
prompt_cache_option = click.option(
    "--prompt-cache",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Keep the prompt's KV cache in FILE: what a later prompt has in common with it, from its start, costs nothing.",
)
adapter_option = click.option(
    "--adapter",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A LoRA adapter made for this bundle: see edgelm export --adapter-only.",
)
draft_option = click.option(
    "--draft",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="A smaller bundle with the same tokens, for speculative decoding while that pays.",
)

_LOADING = (memory_option, threads_option, prefill_threads_option, weight_cache_option, profile_option)
_SAMPLING = (
    click.option(
        "-n", "--max-tokens", type=int, metavar="N", help="Tokens to generate at most.  [default: the model's, or 256]"
    ),
    click.option(
        "--temperature",
        "--temp",
        type=float,
        metavar="T",
        help="0 takes the most likely token; 1 samples as trained.",
    ),
    click.option("--top-k", type=int, metavar="K", help="Sample from the K most likely tokens; 0 is off."),
    click.option(
        "--top-p", type=float, metavar="P", help="Sample from the most likely tokens that sum to P; 1 is off."
    ),
    click.option("--min-p", type=float, metavar="P", help="Drop tokens below P times the most likely; 0 is off."),
    click.option("--repetition-penalty", type=float, metavar="R", help="Above 1 makes repetition less likely."),
    click.option("--frequency-penalty", type=float, metavar="F", help="Lower a token by F for every time it came."),
    click.option("--presence-penalty", type=float, metavar="P", help="Lower a token by P once it came."),
    click.option(
        "--logit-bias",
        multiple=True,
        metavar="ID=BIAS",
        callback=lambda ctx, option, values: _biases(values),
        help="Add BIAS to the logit of token ID, -inf to ban it; may be given several times.",
    ),
    click.option("--seed", type=int, metavar="S", help="The same seed gives the same text."),
    click.option(
        "--speculate",
        type=click.Choice(["auto", "on", "off"]),
        help="Draft tokens from the text so far and verify several at once, while that pays. auto: where the text stays "
        "the same.  [default: auto]",
    ),
    click.option("--stop", multiple=True, metavar="STR", help="End the text before STR; may be given several times."),
)
_TEMPLATE = (
    click.option(
        "--template-arg",
        multiple=True,
        metavar="NAME=VALUE",
        callback=lambda ctx, option, values: _template_args(values),
        help="A variable of the chat template, such as enable_thinking=false; JSON or text; may be given several times.",
    ),
    click.option(
        "--tools",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Tell the chat template of the functions in FILE, a JSON list of schemas; a call is text of the answer.",
    ),
    click.option(
        "--parse-special",
        is_flag=True,
        help="Take names of special tokens in messages as those tokens; without it text is text.",
    ),
)
answer_grammar_option = click.option(
    "--answer-grammar/--no-answer-grammar",
    default=None,
    help="Hold answers to the grammar that the model names for them.  [default: yes, where llguidance is installed]",
)
_FORM = (
    click.option(
        "--json-schema",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Keep the text to the JSON schema in FILE.",
    ),
    click.option("--regex", metavar="REGEX", help="Keep the text to a regular expression, which is all of it."),
    click.option(
        "--choice", multiple=True, metavar="STR", help="Let the text be STR; given several times, one of them."
    ),
    answer_grammar_option,
)


form_options = section("Constrained decoding", *_FORM)
template_options = section("Chat template", *_TEMPLATE)
loading_options = section("Memory and speed", *_LOADING)
sampling_options = section("Sampling", *_SAMPLING)


def form(json_schema: Path | None, regex: str | None, choice: tuple[str, ...]) -> dict[str, Any]:
    """These options as `LM.stream` takes them."""
    schema = None if json_schema is None else read_file(json_schema)
    return {"json_schema": schema, "regex": regex, "choice": choice or None}


def _biases(values: Iterable[str]) -> dict[int, float] | None:
    """``ID=BIAS`` given several times; None where it is not given."""
    biases = {}
    for value in values:
        token, _, bias = value.partition("=")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise click.BadParameter(f"{value!r} is not ID=BIAS, such as 42=-5 or 42=-inf") from None
    return biases or None


def _template_args(values: Iterable[str]) -> dict[str, Any] | None:
    """``NAME=VALUE`` given several times, a value being JSON where it can be; None where it is not given."""
    found: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{value!r} is not NAME=VALUE, such as enable_thinking=false")
        try:
            found[name] = json_value(text)
        except ValueError:
            found[name] = text
    return found or None


def read_tools(path: Path | None) -> list[Any] | None:
    """The schemas in a file of ``--tools``; None without one.

    Raises:
        OptionError: it cannot be read, or is no list of JSON objects.
    """
    if path is None:
        return None
    text = read_file(path)
    try:
        found = json_value(text)
    except ValueError as error:
        raise OptionError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
        raise OptionError(f"{path} is no list of JSON objects", hint='such as [{"type": "function", "function": {…}}]')
    return found


def read_file(path: Path) -> str:
    """A text file that an option names.

    Raises:
        OptionError: it cannot be read.
    """
    try:
        return read_text(path, _LONGEST_FILE)
    except UnicodeDecodeError:
        raise OptionError(f"{path} is not valid UTF-8") from None
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}") from None
