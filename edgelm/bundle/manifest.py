"""manifest.json, typed: what a bundle is, where it comes from, and what it needs.

Fields have the names and the order of the JSON keys. Keys that are not known here are kept in `extra` and written back:
a bundle of a newer edgelm with the same format number loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgelm.bundle.embedding import Embedding
from edgelm.bundle.format_spec import Recipe
from edgelm.bundle.json_table import (
    COUNT,
    FLAT,
    LEFT_OUT,
    SIZE,
    TOKEN,
    JsonTable,
    is_file_name,
    names,
    parse_json,
    plain,
    read_data,
)
from edgelm.bundle.origins import Calibration, CompiledPromptFacts, KVCalibration, Mixed, Model, Vocabulary
from edgelm.bundle.seal import expect_whole
from edgelm.errors import BundleError
from edgelm.version import __version__

FORMAT = 1  # raised when an older edgelm could misread a bundle
MANIFEST = "manifest.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
MOST_FILES = 10_000


@dataclass(frozen=True)
class Threads:
    """How many the target has for decode and for prefill; None leaves it to the machine."""

    decode: int | None = None
    prefill: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> Threads:
        """From JSON."""
        decode, prefill = (table.integer(key, 1, 1024) if table.has(key) else None for key in ("decode", "prefill"))
        return cls(decode, prefill, table.others(names(cls)))


ADDITIONAL = "additional_special_tokens"  # by which transformers, and its templates, know special tokens without a name


@dataclass(frozen=True)
class SpecialTokens:
    """Ids; a text may end with any of `eos`."""

    bos: int | None
    eos: tuple[int, ...]
    pad: int | None
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> SpecialTokens:
        """From JSON."""
        bos, pad = (table.integer(key, *TOKEN) if table.has(key) else None for key in ("bos", "pad"))
        return cls(bos, table.integers("eos", *TOKEN), pad, table.others(names(cls)))


@dataclass(frozen=True)
class TokenizerFacts:
    """Whether a BOS is added where tokenizer.json does not say; the texts of special tokens by name (``bos_token``)."""

    add_bos: bool | None
    names: Mapping[str, str] = field(default_factory=dict, metadata=FLAT)
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @property
    def in_templates(self) -> dict[str, Any]:
        """What a chat template knows: the names, and the list of special tokens without one."""
        return {key: self.extra[key] for key in (ADDITIONAL,) if key in self.extra} | dict(self.names)

    @classmethod
    def read(cls, table: JsonTable) -> TokenizerFacts:
        """From JSON."""
        named = {key: value for key, value in table.others({"add_bos"}).items() if isinstance(value, str)}
        return cls(table.flag("add_bos") if table.has("add_bos") else None, named, table.others({"add_bos", *named}))


@dataclass(frozen=True)
class WindowFacts:
    """A layer that keeps a window of tokens alone: how long it is, what there is room for, and bytes of a token."""

    window: int
    capacity: int
    bytes_per_token: int
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> WindowFacts:
        """From JSON."""
        window = table.integer("window", *SIZE)
        capacity = table.integer("capacity", window, SIZE[1])
        return cls(window, capacity, table.integer("bytes_per_token", *COUNT), table.others(names(cls)))


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What the Engine must know of the graph.

    Attributes:
        cache: ``shared``, one buffer for past and present, or ``growing``.
        layers, kv_heads, head_dim, hidden, vocab: of its shape.
        activations: ``float32`` or ``float16``.
        tied: whether head and embedding are the same bytes.
        heads: of the queries; None where that is not known.
        lora_places: matrices beside which an adapter has a place.
        windows: of the layers that keep a window alone, by their number.
    """

    cache: str
    layers: int
    heads: int | None = field(default=None, metadata=LEFT_OUT)
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    activations: str
    tied: bool
    lora_places: int | None = field(default=None, metadata=LEFT_OUT)
    windows: Mapping[int, WindowFacts] | None = field(default=None, metadata=LEFT_OUT)
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> Graph:
        """From JSON."""
        windows = None
        if table.has("windows"):
            layers = table.each("windows")
            for number, layer in layers.items():
                if not (number.isdecimal() and len(number) < 10):
                    layer.fail("", "must be the number of a layer")
            windows = {int(number): WindowFacts.read(layer) for number, layer in layers.items()}
        return cls(
            cache=table.text("cache", ("shared", "growing")),
            layers=table.integer("layers", *SIZE),
            kv_heads=table.integer("kv_heads", *SIZE),
            head_dim=table.integer("head_dim", *SIZE),
            hidden=table.integer("hidden", *SIZE),
            vocab=table.integer("vocab", *SIZE),
            activations=table.text("activations", ("float32", "float16")),
            tied=table.flag("tied"),
            heads=table.integer("heads", *SIZE) if table.has("heads") else None,
            lora_places=table.integer("lora_places", *SIZE) if table.has("lora_places") else None,
            windows=windows,
            extra=table.others(names(cls)),
        )


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a device needs with the context full, in bytes.

    Attributes:
        weights_bytes: weights read for every token, as the file holds them.
        packed_bytes: the same as onnxruntime lays them out; the file's bytes are released.
        table_bytes: the embedding's own table, mapped from the file and looked up. One that is tied to the head is
            not counted: of the head's bytes in the file nothing stays but the rows in use, though the resident set
            shows all until memory is short.
        prefill_bytes: of the prefill graph's matrices, mapped from the file; 0 where it is decode's.
        passing_bytes: of these, what is resident at once, about (`edgelm.runtime.ort.pages`).
        kv_bytes_per_token, kv_bytes: keys and values of layers that keep the whole context.
        window_bytes: of layers that keep a window alone, and the copies of it that are kept to go back to.
        state_bytes: what layers without keys and values keep, read from one buffer and written to another.
        activations_bytes: between the layers, for the longest piece of a prompt that is read at once.
        logits_bytes: of one position.
        runtime_bytes: Python, onnxruntime, the tokenizer.
        total_bytes: all that is resident.
    """

    weights_bytes: int
    packed_bytes: int
    table_bytes: int = 0
    prefill_bytes: int = 0
    passing_bytes: int = 0
    kv_bytes_per_token: int
    kv_bytes: int
    window_bytes: int = 0
    state_bytes: int = 0
    activations_bytes: int = 0
    logits_bytes: int = 0
    runtime_bytes: int = 0
    total_bytes: int
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> Memory:
        """From JSON; where the first bundles do not tell, prepacked weights are taken to be as large as the file's."""
        keys = names(cls) - {"extra"}
        found = {key: table.integer(key, *COUNT) for key in keys if table.has(key) or key in _ALWAYS_TOLD}
        return cls(**{"packed_bytes": found["weights_bytes"], **found}, extra=table.others(keys))

    def to_dict(self) -> dict[str, int]:
        """As in JSON."""
        found: dict[str, int] = plain(self)
        return found


_ALWAYS_TOLD = ("weights_bytes", "kv_bytes_per_token", "kv_bytes", "total_bytes")


@dataclass(frozen=True)
class FileEntry:
    """Size and SHA-256, in hex, of a file; the hash is "" while the bundle is being made."""

    bytes: int
    sha256: str
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> FileEntry:
        """From JSON."""
        size, digest = table.integer("bytes", *COUNT), table.text("sha256")
        return cls(size, digest, table.others(names(cls)))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of manifest.json; `context` is in tokens, `threads` and `provider` are the target's, `sha256` is its own.

    A bundle with `embedding` makes vectors of texts, and no text.
    """

    format: int = FORMAT
    minimum_runtime: Mapping[str, str] = field(default_factory=dict)
    model: Model
    target: str
    threads: Threads = field(default_factory=Threads)
    provider: str = "cpu"
    quant: str
    recipe: Recipe
    calibration: Calibration | None = field(default=None, metadata=LEFT_OUT)
    kv_calibration: KVCalibration | None = field(default=None, metadata=LEFT_OUT)
    context: int
    special_tokens: SpecialTokens
    tokenizer: TokenizerFacts
    graph: Graph
    memory: Memory
    mixed: Mixed | None = field(default=None, metadata=LEFT_OUT)
    vocabulary: Vocabulary | None = field(default=None, metadata=LEFT_OUT)
    embedding: Embedding | None = field(default=None, metadata=LEFT_OUT)
    compiled_prompt: CompiledPromptFacts | None = field(default=None, metadata=LEFT_OUT)
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    sha256: str | None = field(default=None, metadata=LEFT_OUT)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """From the file `path`.

        Raises:
            BundleError: it cannot be read, was changed or is of a newer format; a key is missing, or its value not as
                expected.
        """
        data = read_data(path)
        parsed = parse_json(data, path)
        _expect_format(JsonTable(path, parsed))
        expect_whole(data, parsed, path)
        return cls.from_dict(parsed, path)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], path: Path) -> Manifest:
        """From parsed JSON; raises as `read` does, naming the file `path`."""
        table = JsonTable(path, data)
        _expect_format(table)
        return cls(
            format=table.integer("format", *COUNT),
            minimum_runtime=table.texts("minimum_runtime") if table.has("minimum_runtime") else {},
            model=Model.read(table.table("model")),
            target=table.text("target"),
            threads=Threads.read(table.table("threads")) if table.has("threads") else Threads(),
            provider=table.text("provider") if table.has("provider") else "cpu",
            quant=table.text("quant"),
            recipe=Recipe.read(table.table("recipe")),
            calibration=Calibration.read(table.table("calibration")) if table.has("calibration") else None,
            kv_calibration=KVCalibration.read(table.table("kv_calibration")) if table.has("kv_calibration") else None,
            context=table.integer("context", *SIZE),
            special_tokens=SpecialTokens.read(table.table("special_tokens")),
            tokenizer=TokenizerFacts.read(table.table("tokenizer")),
            graph=Graph.read(table.table("graph")),
            memory=Memory.read(table.table("memory")),
            mixed=Mixed.read(table.table("mixed")) if table.has("mixed") else None,
            vocabulary=Vocabulary.read(table.table("vocabulary")) if table.has("vocabulary") else None,
            embedding=Embedding.read(table.table("embedding")) if table.has("embedding") else None,
            compiled_prompt=CompiledPromptFacts.read(table.table("compiled_prompt"))
            if table.has("compiled_prompt")
            else None,
            extra=table.others(names(cls)),
            files=_files(table),
            sha256=table.text("sha256") if table.has("sha256") else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """As in JSON, keys in their order."""
        found: dict[str, Any] = plain(self)
        return found


def _expect_format(table: JsonTable) -> None:
    version = table.data.get("format")
    if not isinstance(version, int) or isinstance(version, bool):
        table.fail("format", "is missing or not a number")
    if version > FORMAT:
        need = table.data.get("minimum_runtime")
        need = need.get("edgelm") if isinstance(need, dict) else None
        raise BundleError(
            f"{Path(table.file).parent} has bundle format {version}, this edgelm {__version__} reads up to {FORMAT} "
            f"(it needs edgelm {need if isinstance(need, str) else 'a newer version'})",
            hint="pip install --upgrade edgelm",
        )


def _files(table: JsonTable) -> dict[str, FileEntry]:
    entries = table.table("files").data
    if MODEL not in entries or TOKENIZER not in entries:
        table.fail("files", f"does not list {MODEL} and {TOKENIZER}")
    if len(entries) > MOST_FILES:
        table.fail("files", f"lists {len(entries):,} files: a bundle has at most {MOST_FILES:,}")
    for name in entries:
        if name == MANIFEST or not is_file_name(name):
            table.fail("files", f"names {name!r}, which is not a file of the bundle")
    return {name: FileEntry.read(part) for name, part in table.each("files").items()}
