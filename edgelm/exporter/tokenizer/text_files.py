"""Tokenizer, chat template, special tokens and sampling defaults: from a checkpoint's files to a bundle's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from edgelm import demo, files
from edgelm.bundle.answer_grammar import AnswerGrammar
from edgelm.bundle.json_table import plain
from edgelm.bundle.manifest import ADDITIONAL, SpecialTokens, TokenizerFacts
from edgelm.bundle.reader import ANSWERS, GENERATION, TEMPLATE, TEMPLATES, TOKENIZER
from edgelm.bundle.writer import BundleWriter, json_text
from edgelm.errors import BundleError, CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.checkpoint.gguf.header import is_gguf
from edgelm.exporter.checkpoint.gguf.model import read_metadata
from edgelm.exporter.tokenizer import bytelevel, sentencepiece
from edgelm.exporter.tokenizer.added_tokens import AddedTokens, optional_json
from edgelm.exporter.tokenizer.answers import read_answers
from edgelm.exporter.tokenizer.gguf import read_gguf_text
from edgelm.exporter.tokenizer.special_tokens import special_tokens, vocabulary_size
from edgelm.exporter.tokenizer.templates import read_templates
from edgelm.exporter.tokenizer.tokenizer_class import Style, TokenizerClass, tokenizer_class
from edgelm.runtime.sample.config import settled
from edgelm.runtime.text import tokenizer_file

_ANOTHER = "take the tokenizer.json of the model that it was trained with"
_LONGEST = 16 << 20  # bytes of a template or a model card
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class TextFiles:
    """What a bundle holds about text, and what its manifest says of it.

    Attributes:
        files: name → content.
        special_tokens: their ids.
        tokenizer: whether BOS is added, and the text of each named special token.
        generation: the bundle's generation_config.json.
    """

    files: dict[str, str]
    special_tokens: SpecialTokens
    tokenizer: TokenizerFacts
    generation: dict[str, Any]

    @property
    def nbytes(self) -> int:
        """Of the files."""
        return sum(len(content.encode("utf-8")) for content in self.files.values())

    def write(self, writer: BundleWriter) -> None:
        """Write the files."""
        for name, content in self.files.items():
            writer.write_text(name, content)


@dataclass(frozen=True)
class Text:
    """What a checkpoint's files say about text.

    Attributes:
        tokenizer: with all its added tokens.
        names: text of the named special tokens (``bos_token`` …).
        settings: its tokenizer_config.json.
        generation: its generation_config.json.
        special: see `TextFiles`.
        template: the chat template's source, or None.
        templates: sources of others by name.
        remarks: what an export should tell its user about the files.
        additional: text of special tokens without a name, where a template wants them.
        answers: the grammar of the model's answers, or None.
    """

    tokenizer: Tokenizer
    names: dict[str, str]
    settings: dict[str, Any]
    generation: dict[str, Any]
    special: SpecialTokens
    template: str | None
    remarks: tuple[str, ...] = ()
    templates: Mapping[str, str] = field(default_factory=dict)
    additional: tuple[str, ...] = ()
    answers: AnswerGrammar | None = None


def read_text(source: Path, config: Config) -> Text:
    """Read the tokenizer and what belongs to it from a checkpoint's folder, or from a GGUF file.

    Raises:
        CheckpointError: no tokenizer, a file that cannot be read, a generation_config.json that no load would take, or an
            answer_grammar.json that says nothing of use.
    """
    if is_gguf(source):
        return _from_gguf(source)
    settings = optional_json(source / "tokenizer_config.json")
    generation, remarks = _generation(source, config)
    kind = tokenizer_class(settings, config)
    added = AddedTokens.read(source, settings, kind)
    tokenizer = _load_tokenizer(source, config, settings, kind, added)
    special, told = special_tokens(config, generation, added.names, tokenizer)
    remarks += told
    templates = read_templates(source, settings)
    remarks += templates.remarks
    wanted = any(ADDITIONAL in source for source in (templates.default or "", *templates.others.values()))
    return Text(
        tokenizer,
        added.names,
        settings,
        generation,
        special,
        templates.default,
        tuple(remarks),
        templates.others,
        added.additional if wanted else (),
        read_answers(source, tokenizer, special),
    )


def _generation(source: Path, config: Config) -> tuple[dict[str, Any], list[str]]:
    """generation_config.json without nulls, and remarks on it."""
    path = source / GENERATION
    try:
        found, remarks = settled(optional_json(path), vocabulary_size(config))
    except BundleError as error:
        what = str(error).removeprefix(f"{GENERATION}: ")
        raise CheckpointError(f"{path}: {what}", hint="correct the file") from None
    length, text = found.get("max_length"), config.text_part.values
    limits = [text.get(key) for key in ("max_position_embeddings", "n_positions")]
    if isinstance(length, int) and "max_new_tokens" not in found and any(_below(length, limit) for limit in limits):
        remarks.append(f"{GENERATION}: max_length {length} is passed over: --max-tokens says how long an answer may be")
    return found, remarks


def _below(length: int, limit: object) -> bool:
    return isinstance(limit, int) and length < limit


def _from_gguf(source: Path) -> Text:
    found = read_gguf_text(read_metadata(source))
    _add_ends(found.tokenizer, found.settings, found.names, add_bos=found.settings["add_bos_token"])
    return Text(found.tokenizer, found.names, found.settings, {}, found.special, found.template)


def text_files(text: Text) -> TextFiles:
    """tokenizer.json, chat_template.jinja and generation_config.json of a bundle."""
    # Not read by edgelm: onnxruntime-genai's and transformers' tokenizers want tokenizer_config.json.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **text.names, **text.settings}
    files = {TOKENIZER: text.tokenizer.to_str(pretty=False), "tokenizer_config.json": json_text(settings)}
    if text.template is not None:
        files[TEMPLATE] = text.template
    if text.answers is not None:
        files[ANSWERS] = json_text(text.answers.facts())
    if text.templates:
        files[TEMPLATES] = json_text(dict(text.templates))
    told = (*_IDS, "transformers_version", "_from_model_config")  # told anew below, or nothing about sampling
    generation = {key: value for key, value in text.generation.items() if key not in told}
    generation |= {f"{kind}_token_id": value for kind, value in plain(text.special).items() if value not in (None, [])}
    files[GENERATION] = json_text(generation)
    add_bos = text.settings.get("add_bos_token")
    extra = {ADDITIONAL: list(text.additional)} if text.additional else {}
    facts = TokenizerFacts(None if add_bos is None else bool(add_bos), text.names, extra)
    return TextFiles(files, text.special, facts, generation)


def write_text_files(source: Path, config: Config, writer: BundleWriter) -> TextFiles:
    """Write the `text_files` of what `read_text` finds."""
    files = text_files(read_text(source, config))
    files.write(writer)
    return files


def _load_tokenizer(
    source: Path, config: Config, settings: dict[str, Any], kind: TokenizerClass, added: AddedTokens
) -> Tokenizer:
    """tokenizer.json, or what older files say; with the tokens and the BOS that the settings add to it."""
    path = source / "tokenizer.json"
    converted = not path.exists()
    tokenizer = _convert(source, settings, kind, added) if converted else read_tokenizer(path)
    if not converted and "llama" not in kind.styles:
        _set_prefix_space(tokenizer, settings)
    added.complete(tokenizer, vocabulary_size(config), converted=converted)
    bos = kind.add_bos
    if bos is None and converted and settings.get("add_bos_token"):
        bos = True  # GPT-2's class, which elsewhere leaves it to tokenizer.json
    if bos is not None:
        _add_ends(tokenizer, settings, added.names, add_bos=bos)
    try:
        tokenizer_file.probe(tokenizer)
    except ValueError as error:
        raise CheckpointError(f"{source}: the tokenizer cannot encode every text: {error}", hint=_ANOTHER) from None
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json.

    Raises:
        CheckpointError: it cannot be read, or not be used safely.
    """
    try:
        tokenizer = tokenizer_file.read(path)
        tokenizer_file.expect_ids(tokenizer)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read: {error}", hint="download the checkpoint again") from None
    return tokenizer


def _convert(source: Path, settings: dict[str, Any], kind: TokenizerClass, added: AddedTokens) -> Tokenizer:
    """A tokenizer from the files that were there before tokenizer.json."""
    model, vocab, merges = (source / name for name in ("tokenizer.model", "vocab.json", "merges.txt"))
    found = ["llama", "gemma"] if model.exists() else []
    found += ["gpt2", "qwen2"] if vocab.exists() and merges.exists() else []
    style = next((style for style in kind.styles if style in found), None)
    if style in ("llama", "gemma"):
        legacy = settings.get("legacy") is not False
        told = "add_prefix_space" in settings or not legacy  # else the file does
        prefix = bool(settings.get("add_prefix_space", True)) if told else None
        return sentencepiece.convert(model, style, _first_ids(style, added), prefix_space=prefix, legacy=legacy)
    if style is not None:
        return bytelevel.convert(vocab, merges, style, prefix_space=bool(settings.get("add_prefix_space")))
    if found:
        raise UnsupportedModelError(
            f"{source} has no tokenizer.json, and edgelm cannot make one for a {kind.name}",
            hint="in a place with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        )
    raise CheckpointError(
        f"{source / 'tokenizer.json'} is missing",
        hint="a checkpoint folder needs config.json, *.safetensors and tokenizer.json",
    )


def _first_ids(style: Style, added: AddedTokens) -> dict[int, str]:
    """What a SentencePiece tokenizer calls its first three ids, whatever its file says."""
    if style == "gemma":
        names = (added.names.get(f"{name}_token") for name in ("pad", "eos", "bos"))
        return {index: name for index, name in enumerate(names) if name is not None}
    return {index: token.content for index, token in added.listed.items() if index < 3}


def _set_prefix_space(tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    """Let the settings decide whether a text begins with a space: transformers overrules tokenizer.json with them."""
    state = json.loads(tokenizer.pre_tokenizer.__getstate__()) if tokenizer.pre_tokenizer is not None else {}
    wanted = settings.get("add_prefix_space", False)
    if state.get("type") == "ByteLevel" and isinstance(wanted, bool) and state.get("add_prefix_space") != wanted:
        tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=wanted, use_regex=state.get("use_regex", True))


def _add_ends(tokenizer: Tokenizer, settings: dict[str, Any], names: dict[str, str], *, add_bos: bool) -> None:
    """Make the tokenizer put BOS and EOS around a text as its settings say; `add_bos` is what they may leave out."""

    def wanted(kind: str, default: bool) -> list[tuple[str, int]]:
        token = names.get(f"{kind}_token", "")
        index = tokenizer.token_to_id(token)
        return [(token, index)] if settings.get(f"add_{kind}_token", default) and index is not None else []

    bos, eos = wanted("bos", add_bos), wanted("eos", False)
    single = [*(token for token, _ in bos), "$A", *(token for token, _ in eos)]
    tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=bos + eos)


def licence(checkpoint: Checkpoint) -> str | None:
    """The licence that a model card (README.md with YAML front matter) or a GGUF file names."""
    if checkpoint.gguf is not None:
        named = checkpoint.gguf.metadata.get("general.license")
        return named if isinstance(named, str) else None
    path = checkpoint.path / "README.md"
    if checkpoint.path == demo.path():
        path = demo.card()
    if not path.exists():
        return None
    try:
        lines = files.read_bytes(path, _LONGEST).decode("utf-8", errors="replace").splitlines()
    except OSError:  # a model card that cannot be read says nothing
        return None
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:200]:
        if line.strip() == "---":
            break
        key, _, value = line.partition(":")
        if key == "license" and value.strip():
            return value.strip().strip("\"'")
    return None
