"""Tokenizer, chat template, special tokens and sampling defaults: from a checkpoint's files to a bundle's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgelm.bundle import GENERATION, TEMPLATE, TOKENIZER, BundleWriter
from edgelm.errors import CheckpointError
from edgelm.exporter.config import Config, read_json

# Classes of transformers whose settings, not tokenizer.json, say whether BOS and EOS are added; BOS is by default.
_SETTINGS_DECIDE = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class TextFiles:
    """What the manifest says about text.

    Attributes:
        special_tokens: {"bos": id or None, "eos": [ids], "pad": id or None}.
        tokenizer: {"add_bos": bool or None, and each named special token's text}.
        generation: the bundle's generation_config.json.
    """

    special_tokens: dict[str, Any]
    tokenizer: dict[str, Any]
    generation: dict[str, Any]


def write_text_files(source: Path, config: Config, writer: BundleWriter) -> TextFiles:
    """Write tokenizer.json, chat_template.jinja and generation_config.json; what the manifest needs of them.

    Raises:
        CheckpointError: no tokenizer, or a file that cannot be read.
    """
    settings = _optional(source / "tokenizer_config.json")
    generation = _optional(source / GENERATION)
    tokenizer, names = _load_tokenizer(source), _token_names(source, settings)
    if str(settings.get("tokenizer_class", "")).removesuffix("Fast") in _SETTINGS_DECIDE:
        _add_ends(tokenizer, settings, names)
    writer.write_text(TOKENIZER, tokenizer.to_str(pretty=False))
    # Not read by edgelm: onnxruntime-genai's and transformers' tokenizers want it beside tokenizer.json.
    writer.write_json("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names, **settings})
    if (template := _chat_template(source, settings)) is not None:
        writer.write_text(TEMPLATE, template)
    special = _special_tokens(config, generation, names, tokenizer)
    for key in (*_IDS, "transformers_version", "_from_model_config"):  # told anew below, or nothing about sampling
        generation.pop(key, None)
    ids = {f"{kind}_token_id": value for kind, value in special.items() if value not in (None, [])}
    generation |= ids
    writer.write_json(GENERATION, generation)
    return TextFiles(special, {"add_bos": settings.get("add_bos_token"), **names}, generation)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _load_tokenizer(source: Path) -> Tokenizer:
    path = source / "tokenizer.json"
    if path.exists():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{path} cannot be read: {error}", hint="download the checkpoint again") from None
        # A length limit or padding in the file would silently cut prompts.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    if (source / "vocab.json").exists() and (source / "merges.txt").exists():
        return _byte_level_bpe(source)
    if (source / "tokenizer.model").exists():
        raise CheckpointError(
            f"{source} has a SentencePiece tokenizer.model but no tokenizer.json",
            hint="make one with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        )
    raise CheckpointError(
        f"{path} is missing", hint="a checkpoint folder needs config.json, *.safetensors and tokenizer.json"
    )


def _add_ends(tokenizer: Tokenizer, settings: dict[str, Any], names: dict[str, str]) -> None:
    """Make the tokenizer put BOS and EOS around a text as its settings say."""
    from tokenizers.processors import TemplateProcessing

    def wanted(kind: str, default: bool) -> list[tuple[str, int]]:
        token = names.get(f"{kind}_token", "")
        index = tokenizer.token_to_id(token)
        return [(token, index)] if settings.get(f"add_{kind}_token", default) and index is not None else []

    bos, eos = wanted("bos", True), wanted("eos", False)
    single = [*(token for token, _ in bos), "$A", *(token for token, _ in eos)]
    tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=bos + eos)


def _byte_level_bpe(source: Path) -> Tokenizer:
    """GPT-2's two files, from before tokenizer.json."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

    try:
        model = models.BPE.from_file(str(source / "vocab.json"), str(source / "merges.txt"))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{source}: vocab.json and merges.txt cannot be read: {error}") from None
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    end = "<|endoftext|>"
    if tokenizer.token_to_id(end) is not None:
        tokenizer.add_special_tokens([AddedToken(end, special=True, normalized=False)])
    return tokenizer


def _chat_template(source: Path, settings: dict[str, Any]) -> str | None:
    """The chat template from its own file, or from tokenizer_config.json; a list of them has one named default."""
    if (path := source / "chat_template.jinja").exists():
        return path.read_text(encoding="utf-8")
    found = settings.get("chat_template") or _optional(source / "chat_template.json").get("chat_template")
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise CheckpointError(
            f"{source / 'tokenizer_config.json'}: key 'chat_template' is not a string or a list of named templates"
        )
    return found


def _token_names(source: Path, settings: dict[str, Any]) -> dict[str, str]:
    """The text of the named special tokens, which chat templates use."""
    special = {**_optional(source / "special_tokens_map.json"), **{k: v for k, v in settings.items() if v is not None}}
    names = {}
    for key in _TOKEN_NAMES:
        value = special.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            names[key] = text
    return names


def _special_tokens(
    config: Config, generation: dict[str, Any], names: dict[str, str], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Ids by generation_config.json, else config.json, else the tokenizer's own names; its EOS always ends a text."""

    def ids(key: str) -> list[int]:
        value = generation.get(key, config.get(key))
        values = value if isinstance(value, list) else [value]
        return [v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0]

    def named(key: str) -> list[int]:
        found = tokenizer.token_to_id(names[key]) if key in names else None
        return [found] if found is not None else []

    def first(key: str) -> int | None:
        return next(iter([*ids(f"{key}_token_id"), *named(f"{key}_token")]), None)

    eos = list(dict.fromkeys([*ids("eos_token_id"), *named("eos_token")]))
    return {"bos": first("bos"), "eos": eos, "pad": first("pad")}


def licence(source: Path) -> str | None:
    """The licence that a model card (README.md with YAML front matter) names."""
    path = source / "README.md"
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:200]:
        if line.strip() == "---":
            break
        key, _, value = line.partition(":")
        if key == "license" and value.strip():
            return value.strip().strip("\"'")
    return None
