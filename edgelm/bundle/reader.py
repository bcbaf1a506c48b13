"""A bundle: the folder that an export makes and a device runs.

    manifest.json            what is inside, for which target, and the size and SHA-256 of every other file
    model.onnx               the graph
    model.onnx.data          its weights, memory-mapped at load
    prefill.onnx, prefill.onnx.data   the prefill graph, in bundles with one
    tokenizer.json           as `tokenizers` reads it
    chat_template.jinja      where the model has one
    chat_templates.json      its other templates by name (tool_use, …), where it has several
    tokenizer_config.json    its settings, for other programs
    generation_config.json   the model's sampling defaults
    genai_config.json        the same model told to onnxruntime-genai (native exports)
    quality.json             what quantisation costs it, where that was measured
    answer_grammar.json      what answers may be, where the checkpoint says so
    lora.json                which matrices take a LoRA adapter at run time, in bundles exported so

The same input gives the same bytes: no timestamps, no random names. A bundle is written in a hidden
sibling folder and renamed when it is whole, so a half-written one is never visible.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgelm.bundle import answer_grammar
from edgelm.bundle.answer_grammar import AnswerGrammar
from edgelm.bundle.beside import expect_lora, expect_quality
from edgelm.bundle.embedding import Embedding
from edgelm.bundle.json_table import JsonTable, read_json
from edgelm.bundle.manifest import FORMAT as FORMAT
from edgelm.bundle.manifest import MANIFEST as MANIFEST
from edgelm.bundle.manifest import MODEL as MODEL
from edgelm.bundle.manifest import TOKENIZER as TOKENIZER
from edgelm.bundle.manifest import FileEntry, Manifest
from edgelm.errors import BundleError, TaskError, expect_flags, suggest
from edgelm.files import open_regular, path_argument, read_text, recover

DATA = "model.onnx.data"
PREFILL = "prefill.onnx"
PREFILL_DATA = "prefill.onnx.data"
TEMPLATE = "chat_template.jinja"
TEMPLATES = "chat_templates.json"
GENERATION = "generation_config.json"
QUALITY = "quality.json"
LORA = "lora.json"
ANSWERS = answer_grammar.FILE
PROMPT = "prompt.cache"  # the beginning of prompts, read already (edgelm.runtime.kv.compiled_prompt)
GRAPH_FILES = frozenset({MODEL, DATA, PREFILL, PREFILL_DATA})
HIDDEN = "last_hidden_state"  # the graph's output, in place of logits, in a bundle that embeds texts

# Files up to this size are hashed whenever a bundle is opened; larger ones only by size, until `verify`.
_HASH_AT_OPEN = 4 << 20
_LONGEST_TEMPLATE = 16 << 20  # bytes


def sha256(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, in hex; `on_bytes` is called with every piece read (for progress)."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
            if on_bytes:
                on_bytes(len(piece))
    return digest.hexdigest()


def lora_inputs(name: str) -> tuple[str, str]:
    """Names of the graph's inputs for an adapter's factors A [inputs, rank] and B [rank, outputs] of a matrix."""
    return f"{name}.lora_A", f"{name}.lora_B"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, opened and checked.

    Attributes:
        path: the folder.
        manifest: manifest.json.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, check: bool = True) -> Bundle:
        """Open the bundle in the folder `path`.

        Checks that every file of the manifest is there with its size, and the hash of those up to 4 MiB; without
        `check` the manifest alone.

        Raises:
            BundleError: no bundle there, made for a newer edgelm, or a file missing, truncated or edited.
        """
        folder = path_argument("path", path)
        expect_flags(check=check)
        try:
            bundle = cls(folder, _read_manifest(folder))
        except OSError as error:  # a name that is too long, a folder that is not for everyone
            raise BundleError(f"bundle {folder} cannot be opened: {error.strerror or error}") from None
        for name in bundle.files if check else ():
            bundle.check_file(name, whole=False)
        return bundle

    @property
    def files(self) -> Mapping[str, FileEntry]:
        """Every file but the manifest, by name."""
        return self.manifest.files

    @property
    def size(self) -> int:
        """Bytes on disk, without the manifest."""
        return sum(entry.bytes for entry in self.files.values())

    @property
    def digest(self) -> str:
        """SHA-256 over the hashes of all files, in hex: the same for the same bundle, wherever it lies. Caches go by it."""
        hashes = {name: entry.sha256 for name, entry in self.files.items()}
        if self.manifest.sha256 is not None:
            hashes[MANIFEST] = self.manifest.sha256
        return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()

    @property
    def graph_digest(self) -> str:
        """SHA-256 over the hashes of the graphs and their weights alone, in hex: what they compute is tied to it."""
        hashes = {name: entry.sha256 for name, entry in self.files.items() if name in GRAPH_FILES}
        return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()

    @property
    def context(self) -> int:
        """The longest prompt plus answer, in tokens."""
        return self.manifest.context

    def expect_generator(self) -> None:
        """TaskError for a bundle that embeds texts, where one is wanted that generates them."""
        if self.manifest.embedding is not None:
            raise TaskError(
                f"{self.path.name} was exported for embeddings: it generates no text",
                hint="edgelm embed, lm.embed and /v1/embeddings use it; to generate, export without --task embedding",
            )

    def expect_embedding(self) -> Embedding:
        """How it embeds texts; TaskError for a bundle that generates them."""
        if self.manifest.embedding is None:
            raise TaskError(
                f"{self.path.name} generates text: it makes no embeddings", hint="edgelm export MODEL --task embedding"
            )
        return self.manifest.embedding

    @property
    def model_path(self) -> Path:
        """The graph."""
        return self.path / MODEL

    @property
    def prefill_path(self) -> Path | None:
        """The prefill graph, in a bundle with one."""
        return self.path / PREFILL if PREFILL in self.files else None

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer."""
        return self.path / TOKENIZER

    @cached_property
    def chat_template(self) -> str | None:
        """The chat template's source, or None for a model without one."""
        return _read_text(self.path / TEMPLATE) if TEMPLATE in self.files else None

    @cached_property
    def chat_templates(self) -> dict[str, str]:
        """Sources of the model's other chat templates, such as ``tool_use``, by name."""
        found = read_json(self.path / TEMPLATES) if TEMPLATES in self.files else {}
        if not all(isinstance(text, str) for text in found.values()):
            raise BundleError(f"{self.path / TEMPLATES} is not a table of templates", hint="export the model again")
        return found

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """The model's own sampling defaults, as in Hugging Face's generation_config.json."""
        return read_json(self.path / GENERATION) if GENERATION in self.files else {}

    @cached_property
    def answer_grammar(self) -> AnswerGrammar | None:
        """What the model's answers may be, as its checkpoint said; None where it said nothing."""
        return AnswerGrammar.read(self.path / ANSWERS) if ANSWERS in self.files else None

    @cached_property
    def quality(self) -> dict[str, Any] | None:
        """The quality card, or None where nothing was measured."""
        return self._checked(QUALITY, expect_quality) if QUALITY in self.files else None

    @cached_property
    def lora(self) -> dict[str, Any] | None:
        """Where a LoRA adapter goes, and what it must be made for; None for a bundle that takes none at run time."""
        return self._checked(LORA, expect_lora) if LORA in self.files else None

    def _checked(self, name: str, expect: Callable[[JsonTable], None]) -> dict[str, Any]:
        found = read_json(self.path / name)
        expect(JsonTable(self.path / name, found))
        return found

    def verify(self, on_bytes: Callable[[int], None] | None = None) -> list[str]:
        """Read every file whole and compare it with the manifest.

        Returns:
            one line for each file that differs, with what was expected; empty when all is well.
        """
        if on_bytes is not None and not callable(on_bytes):
            raise TypeError(f"on_bytes must be a function of a number of bytes, not {type(on_bytes).__name__}")
        problems = []
        for name in sorted(self.files):
            try:
                self.check_file(name, whole=True, on_bytes=on_bytes)
            except BundleError as error:
                problems.append(str(error))
        return problems

    def check_file(self, name: str, *, whole: bool, on_bytes: Callable[[int], None] | None = None) -> None:
        """Compare a file's size, and its hash where it is small or `whole` is set, with the manifest.

        Raises:
            BundleError: it differs, or cannot be read.
        """
        path, entry = self.path / name, self.files[name]
        expected = entry.bytes
        hint = "copy the bundle again, or export it again"
        try:
            actual = path.stat().st_size
            if actual != expected:
                kind = "truncated" if actual < expected else "longer than it was"
                raise BundleError(f"{path} is {kind}: {actual:,} bytes, expected {expected:,}", hint=hint)
            if whole or expected <= _HASH_AT_OPEN:
                digest = sha256(path, on_bytes)
                if digest != entry.sha256:
                    raise BundleError(
                        f"{path} was changed: SHA-256 {digest[:12]}…, expected {entry.sha256[:12]}…", hint=hint
                    )
        except FileNotFoundError:
            raise BundleError(f"{path} is missing: expected {expected:,} bytes", hint=hint) from None
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}") from None


def _read_text(path: Path) -> str:
    try:
        return read_text(path, _LONGEST_TEMPLATE)
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not valid UTF-8: byte {error.start}", hint="export the bundle again") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if folder.suffix.lower() == ".gguf":
        raise BundleError(
            f"{folder} is a GGUF file, not a bundle",
            hint=f"make one of it with: {suggest('export', folder, '--target', 'auto')}",
        )
    if folder.is_file() and (folder.parent / MANIFEST).is_file():
        raise BundleError(f"{folder} is a file in a bundle", hint=f"give the folder: {folder.parent}")
    if not folder.is_dir() and not recover(folder):
        what = "is not a folder" if folder.exists() else "does not exist"
        raise BundleError(f"bundle {folder} {what}", hint="make one with: edgelm export --target auto")
    if not path.exists():
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST}",
            hint=f"make a bundle of this checkpoint with: {suggest('export', folder, '--target', 'auto')}"
            if (folder / "config.json").exists()
            else "give a bundle's own folder; edgelm list shows those that are here",
        )
    return Manifest.read(path)
