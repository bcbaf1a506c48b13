"""``--compile-prompt FILE``: the beginning of prompts, read by the finished graph while the bundle is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from edgelm.bundle.json_table import JsonTable
from edgelm.bundle.manifest import FileEntry, Manifest
from edgelm.bundle.origins import CompiledPromptFacts, Text
from edgelm.bundle.reader import GRAPH_FILES, PROMPT, sha256
from edgelm.bundle.writer import BundleWriter
from edgelm.errors import ExportError, OptionError
from edgelm.exporter.progress import Progress
from edgelm.files import read_text
from edgelm.json_text import json_value
from edgelm.runtime.engine import Engine
from edgelm.runtime.kv.compiled_prompt import tie
from edgelm.runtime.kv.prefill import common
from edgelm.runtime.kv.prompt_cache import write
from edgelm.runtime.text.prompt import PromptEncoder, Rendering, text_tools

_LONGEST = 16 << 20  # bytes
_KEYS = {"system", "tools", "messages", "raw"}
# What may follow the beginning: the tokens that all of these leave alone are those of any prompt that begins so.
_NEXT = ("a", "Zürich 1", "\n", " 7", "{")


@dataclass(frozen=True)
class Beginning:
    """What prompts begin with: `raw` text, or messages of a conversation and the tools that it has.

    Attributes:
        text: the file's name and SHA-256.
        plain: a text file's content: the system message of a model that chats, the raw beginning for others.
    """

    text: Text
    plain: str | None = None
    raw: str | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    tools: Sequence[Mapping[str, Any]] | None = None


def read_beginning(path: Path) -> Beginning:
    """The beginning in a file: a text, or a JSON object (``.json``) with system, tools, messages, or raw.

    Raises:
        OptionError: it cannot be read, or is of another form.
    """
    try:
        content = read_text(path, _LONGEST)
    except UnicodeDecodeError:
        raise OptionError(f"{path} is not valid UTF-8") from None
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror or error}") from None
    text = Text(path.name, hashlib.sha256(content.encode()).hexdigest())
    if path.suffix.lower() != ".json":
        if not content.strip():
            raise OptionError(f"{path} is empty: it has no prompt to compile")
        return Beginning(text, plain=content.removesuffix("\n"))
    try:
        data = json_value(content)
    except ValueError as error:
        raise OptionError(f"{path} is not valid JSON: {error}") from None
    hint = "an object with system, tools and messages, or with raw"
    if not isinstance(data, dict) or not data or not set(data) <= _KEYS or ("raw" in data and len(data) > 1):
        raise OptionError(f"{path} is no beginning of a prompt", hint=hint)
    table = JsonTable(path, data, error=OptionError, hint=hint)
    if table.has("raw"):
        return Beginning(text, raw=table.text("raw"))
    system = [{"role": "system", "content": table.text("system")}] if table.has("system") else []
    messages = [dict(each.data) for each in table.tables("messages")] if table.has("messages") else []
    tools = [dict(each.data) for each in table.tables("tools")] if table.has("tools") else None
    return Beginning(text, messages=(*system, *messages), tools=tools)


def write_prompt(beginning: Beginning, facts: Manifest, writer: BundleWriter, progress: Progress) -> Manifest:
    """Read the beginning with the bundle as it has been written, and put what that leaves into it; the manifest with it.

    Raises:
        ExportError: no token is sure to stand at the beginning, or there are more than the context.
        EdgeLMError: the graph cannot be run here, or its chat template refuses the messages.
    """
    draft = writer.draft(replace(facts, provider="cpu"))  # this is not the target
    files = {
        name: FileEntry(entry.bytes, sha256(draft.path / name))
        for name, entry in draft.files.items()
        if name in GRAPH_FILES
    }
    ids = beginning_ids(beginning, PromptEncoder(*text_tools(draft), draft.context, facts.graph.vocab))
    if not 0 < len(ids) < draft.context:
        what = (
            f"has {len(ids):,} tokens, the context is {draft.context:,}"
            if ids
            else "has no token that is sure to be the first"
        )
        raise ExportError(
            f"{beginning.text.name}: the prompt to compile {what}", hint="compile another, or give a larger --context"
        )
    progress.start("compiling the prompt", len(ids))
    with closing(Engine.load(draft, weight_cache=False)) as engine:
        done = 0
        for _ in engine.prefill_passes(ids):
            progress.advance(engine.position - done)
            done = engine.position
        tokens, snapshot = engine.save(engine.position)
        write(
            writer.path(PROMPT),
            tie(replace(draft, manifest=replace(draft.manifest, files=files))),
            tokens,
            snapshot,
            engine.context,
        )
    progress.finish()
    return replace(facts, compiled_prompt=CompiledPromptFacts(tokens=len(tokens), text=beginning.text))


def beginning_ids(beginning: Beginning, encoder: PromptEncoder) -> list[int]:
    """The ids with which every prompt that begins so begins, whatever follows."""
    raw, messages = beginning.raw, list(beginning.messages)
    if beginning.plain is not None:
        if encoder.chats:
            messages = [{"role": "system", "content": beginning.plain}]
        else:
            raw = beginning.plain
    how = Rendering(tools=beginning.tools)
    found = [
        encoder.ids([*messages, {"role": "user", "content": text}], how=how)
        if raw is None
        else encoder.ids(raw + text, raw=True)
        for text in _NEXT
    ]
    return reduce(lambda one, other: one[: common(one, other)], found)
