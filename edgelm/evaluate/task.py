"""Tasks: files of items, and what a model makes of them.

A file's content tells what it is (docs/reference/tasks.md): JSON Lines of exact match, multiple choice or minimal pairs
(`edgelm.evaluate.jsonl`), the CSV of CrowS-Pairs (`crows_pairs`), the CSV or mc_task.json of TruthfulQA (`truthfulqa`).
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgelm.errors import EdgeLMError, OptionError, PromptError
from edgelm.evaluate import crows_pairs, truthfulqa
from edgelm.evaluate.items import Item
from edgelm.evaluate.jsonl import read_jsonl
from edgelm.evaluate.outcome import TaskResult
from edgelm.files import read_bytes
from edgelm.json_text import json_value
from edgelm.runtime.lm import LM

OnItem = Callable[[int, int], None]
"""Called with (items done, items in all) before each item."""

_TABLES: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, str], int], Item]], ...] = (
    (crows_pairs.COLUMNS, crows_pairs.read_row),
    (truthfulqa.COLUMNS, truthfulqa.read_row),
)
_KNOWN = "a task is JSON Lines, or the CSV of CrowS-Pairs or TruthfulQA; see docs/reference/tasks.md"


def read_task(path: Path, limit: int | None = None, seed: int | None = None) -> list[Item]:
    """The items of a file.

    Args:
        path: of the file.
        limit: how many of them to take: evenly spread over the file, or with a `seed` drawn at random, in their order.
        seed: of the draw.

    Raises:
        EdgeLMError: the file cannot be read, holds nothing, or a line is malformed; it names the line.
        OptionError: limit below 1.
    """
    if limit is not None and limit < 1:
        raise OptionError(f"limit must be at least 1, not {limit}")
    try:
        data = read_bytes(path)
    except OSError as error:
        raise EdgeLMError(f"{path} cannot be read: {error.strerror}") from None
    items = _items(path, data)
    if not items:
        raise EdgeLMError(f"{path} holds no examples")
    if limit is None or limit >= len(items):
        return items
    if seed is not None:
        return [items[place] for place in sorted(random.Random(seed).sample(range(len(items)), limit))]
    return [items[index * len(items) // limit] for index in range(limit)]


def run_task(
    lm: LM, items: Sequence[Item], *, on_example: OnItem = lambda done, total: None, **options: Any
) -> TaskResult:
    """Let the model answer every item.

    Args:
        lm: the model; its engine is used alone meanwhile.
        items: of one task.
        on_example: is called with every item.
        options: of every answer that is generated (`LM.generate`), such as ``answer_grammar``.

    Raises:
        PromptError: an item is too long for the model's context, or its template refuses it, or it has none; it names
            the line.
    """
    if lm.template is None and any(item.chats for item in items):
        hint = 'give tasks of "prompt" instead of "messages", or measure --text'
        raise PromptError("this model has no chat template, so it cannot do a task of messages", hint=hint)
    outcomes = []
    for index, item in enumerate(items):
        on_example(index, len(items))
        try:
            outcomes.append(item.answer(lm, **options))
        except PromptError as error:
            raise PromptError(f"line {item.line} of the task: {error}", hint=error.hint) from None
    first = items[0]
    return TaskResult(first.format, first.metrics, tuple(outcomes), first.note)


def _items(path: Path, data: bytes) -> list[Item]:
    """By what the file begins with."""
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if path.suffix.lower() == ".csv":
        return list(_table(path, data))
    if start == b"[" and path.suffix.lower() == ".json":
        return list(_array(path, data))
    return read_jsonl(path, data)


def _table(path: Path, data: bytes) -> Iterator[Item]:
    """The items of a CSV, whose header tells which it is; a line's number is that of its row's end."""
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        header = reader.fieldnames or ()
    except UnicodeDecodeError as error:
        raise EdgeLMError(f"{path} is not valid UTF-8: byte {error.start}", hint="convert it: iconv -t utf-8") from None
    except csv.Error as error:
        raise EdgeLMError(f"{path}:1: not valid CSV: {error}", hint=_KNOWN) from None
    read = next((read for columns, read in _TABLES if set(columns) <= set(header)), None)
    if read is None:
        raise EdgeLMError(f"{path}: the columns {', '.join(header) or '(none)'} are of no task known", hint=_KNOWN)
    line = 1
    try:
        for row in reader:
            line = reader.line_num
            if None in row or None in row.values():
                raise ValueError(f"has another number of fields than the header's {len(header)}")
            yield read(row, line)
    except csv.Error as error:  # in the row after the last that could be read
        raise EdgeLMError(f"{path}:{line + 1}: not valid CSV: {error}", hint="is the file whole?") from None
    except ValueError as error:
        raise EdgeLMError(f"{path}:{line}: {error}", hint="is the file whole?") from None


def _array(path: Path, data: bytes) -> Iterator[Item]:
    """The items of a JSON array: TruthfulQA's mc_task.json; a line's number is that of the entry, from 1."""
    try:
        entries: Any = json_value(data, constants=True)
    except ValueError as error:
        raise EdgeLMError(f"{path}: not valid JSON: {error}", hint=_KNOWN) from None
    for number, entry in enumerate(entries, 1):
        try:
            yield truthfulqa.read_entry(entry, number)
        except ValueError as error:
            raise EdgeLMError(f"{path}: entry {number} {error}", hint="is it mc_task.json of TruthfulQA?") from None
