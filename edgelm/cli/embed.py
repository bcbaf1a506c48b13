"""``edgelm embed``: vectors of texts, one JSON object a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from edgelm.cli.loading import loaded_to_embed
from edgelm.cli.options import bundle_argument, loading_options
from edgelm.errors import PromptError


@click.command("embed")
@bundle_argument
@click.argument("texts", nargs=-1, metavar="[TEXT]…")
@click.option("--prompt", metavar="NAME", help='The model\'s prompt before each text; "" for none.  [default: its own]')
@loading_options
def command(bundle: str, texts: tuple[str, ...], prompt: str | None, **loading: Any) -> None:
    """Turn texts into vectors, one JSON object a line: text, tokens, embedding.

    BUNDLE was exported with --task embedding. Without a TEXT each line of standard input is one.

    \b
    Examples:
      edgelm embed my-bundle "a lamp" "a light"
      edgelm embed my-bundle --prompt query "Which lamp is on?"
      edgelm embed my-bundle < lines.txt > vectors.jsonl
    """
    with loaded_to_embed(bundle, **loading) as lm:
        for text in texts or _lines():
            (ids,) = lm.encode_texts([text], prompt=prompt)
            vector = lm.embed_ids([ids])[0]
            record = {"text": text, "tokens": len(ids), "embedding": [float(f"{value:.9g}") for value in vector]}
            click.echo(json.dumps(record, ensure_ascii=False))


def _lines() -> Iterator[str]:
    """The lines of standard input that are not empty."""
    if sys.stdin is None or sys.stdin.isatty():
        raise PromptError("no text", hint="give one as an argument, or one a line on standard input")
    lines: Iterable[bytes] = sys.stdin.buffer
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise PromptError(
                f"line {number} of standard input is not valid UTF-8",
                hint="convert it, for example with: iconv -f latin1 -t utf-8",
            ) from None
        if text:
            yield text
