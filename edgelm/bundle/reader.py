"""A bundle: the folder that an export makes and a device runs.

    manifest.json            what is inside, for which target, and the size and SHA-256 of every other file
    model.onnx               the graph
    model.onnx.data          its weights, memory-mapped at load
    prefill.onnx, prefill.onnx.data   the prefill graph, in bundles with one
    tokenizer.json           as `tokenizers` reads it
    chat_template.jinja      where the model has one
    tokenizer_config.json    its settings, for other programs
    generation_config.json   the model's sampling defaults
    genai_config.json        the same model told to onnxruntime-genai (native exports)
    quality.json             what quantisation costs it, where that was measured
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

from edgelm.errors import BundleError
from edgelm.version import __version__

FORMAT = 1  # of the manifest; raised when an older edgelm could misread a bundle
MANIFEST = "manifest.json"
MODEL = "model.onnx"
DATA = "model.onnx.data"
PREFILL = "prefill.onnx"
PREFILL_DATA = "prefill.onnx.data"
TOKENIZER = "tokenizer.json"
TEMPLATE = "chat_template.jinja"
GENERATION = "generation_config.json"
QUALITY = "quality.json"
LORA = "lora.json"

# Files up to this size are hashed whenever a bundle is opened; larger ones only by size, until `verify`.
_HASH_AT_OPEN = 4 << 20
_REQUIRED_KEYS = ("model", "target", "quant", "recipe", "context", "special_tokens", "tokenizer", "graph", "files")


def sha256(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, in hex; `on_bytes` is called with every piece read (for progress)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
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
        manifest: the parsed manifest.json.
    """

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, check: bool = True) -> Bundle:
        """Open the bundle in the folder `path`.

        Checks that every file of the manifest is there with its size, and the hash of those up to 4 MiB; without
        `check` the manifest alone.

        Raises:
            BundleError: no bundle there, made for a newer edgelm, or a file missing, truncated or edited.
        """
        folder = Path(path)
        bundle = cls(folder, _read_manifest(folder))
        for name in bundle.files if check else ():
            bundle.check_file(name, whole=False)
        return bundle

    @property
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """Every file but the manifest: name → {"bytes", "sha256"}."""
        files: Mapping[str, Mapping[str, Any]] = self.manifest["files"]
        return files

    @property
    def size(self) -> int:
        """Bytes on disk, without the manifest."""
        return sum(int(entry["bytes"]) for entry in self.files.values())

    @property
    def digest(self) -> str:
        """SHA-256 over the hashes of all files, in hex: the same for the same bundle, wherever it lies."""
        hashes = {name: entry["sha256"] for name, entry in self.files.items()}
        return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()

    @property
    def context(self) -> int:
        """The longest prompt plus answer, in tokens."""
        return int(self.manifest["context"])

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
        return (self.path / TEMPLATE).read_text(encoding="utf-8") if TEMPLATE in self.files else None

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """The model's own sampling defaults, as in Hugging Face's generation_config.json."""
        return _read_json(self.path / GENERATION) if GENERATION in self.files else {}

    @cached_property
    def quality(self) -> dict[str, Any] | None:
        """The quality card, or None where nothing was measured."""
        return _read_json(self.path / QUALITY) if QUALITY in self.files else None

    @cached_property
    def lora(self) -> dict[str, Any] | None:
        """Where a LoRA adapter goes, and what it must be made for; None for a bundle that takes none at run time."""
        return _read_json(self.path / LORA) if LORA in self.files else None

    def verify(self, on_bytes: Callable[[int], None] | None = None) -> list[str]:
        """Read every file whole and compare it with the manifest.

        Returns:
            one line for each file that differs, with what was expected; empty when all is well.
        """
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
        expected = int(entry["bytes"])
        hint = "copy the bundle again, or export it again"
        try:
            actual = path.stat().st_size
            if actual != expected:
                kind = "truncated" if actual < expected else "longer than it was"
                raise BundleError(f"{path} is {kind}: {actual:,} bytes, expected {expected:,}", hint=hint)
            if whole or expected <= _HASH_AT_OPEN:
                digest = sha256(path, on_bytes)
                if digest != entry["sha256"]:
                    raise BundleError(
                        f"{path} was changed: SHA-256 {digest[:12]}…, expected {entry['sha256'][:12]}…", hint=hint
                    )
        except FileNotFoundError:
            raise BundleError(f"{path} is missing: expected {expected:,} bytes", hint=hint) from None
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{path} is not valid JSON: {error}", hint="copy the bundle again, or export it again"
        ) from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(value, dict):
        raise BundleError(f"{path} holds {type(value).__name__}, expected a JSON object")
    return value


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise BundleError(f"bundle {folder} {what}", hint="make one with: edgelm export --target rpi5")
    if not path.exists():
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST}",
            hint=f"make a bundle from a checkpoint with: edgelm export {folder} --target rpi5",
        )
    manifest = _read_json(path)
    version = manifest.get("format")
    if not isinstance(version, int) or isinstance(version, bool):
        raise BundleError(f"{path}: key 'format' is missing or not a number", hint="export the bundle again")
    if version > FORMAT:
        need = manifest.get("minimum_runtime", {})
        need = need.get("edgelm", "a newer version") if isinstance(need, dict) else "a newer version"
        raise BundleError(
            f"{folder} has bundle format {version}, this edgelm {__version__} reads up to {FORMAT} (it needs edgelm {need})",
            hint="pip install --upgrade edgelm",
        )
    missing = [key for key in _REQUIRED_KEYS if key not in manifest]
    if missing:
        raise BundleError(f"{path}: key '{missing[0]}' is missing", hint="export the bundle again")
    _check_file_table(path, manifest["files"])
    return manifest


def _check_file_table(path: Path, files: Any) -> None:
    if not isinstance(files, dict) or MODEL not in files or TOKENIZER not in files:
        raise BundleError(f"{path}: 'files' does not list {MODEL} and {TOKENIZER}", hint="export the bundle again")
    for name, entry in files.items():
        # A name from a manifest is joined to the folder: it may not lead out of it.
        if name != os.path.basename(name) or name in ("", ".", "..", MANIFEST):
            raise BundleError(f"{path}: 'files' names {name!r}, which is not a file of the bundle")
        if not (
            isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)
        ):
            raise BundleError(f"{path}: 'files.{name}' needs 'bytes' and 'sha256'", hint="export the bundle again")
