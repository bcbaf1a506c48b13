"""What the tokenizer classes of transformers take for granted, and a tokenizer_config.json therefore leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgelm.exporter.checkpoint.config import Config

Style = Literal["llama", "gemma", "gpt2", "qwen2"]


@dataclass(frozen=True)
class TokenizerClass:
    """A class's defaults.

    Attributes:
        name: without ``Fast`` at its end; None where no class is named and the model type tells nothing.
        styles: the conversions to tokenizer.json it has, from tokenizer.model or from vocab.json and merges.txt.
        tokens: named special tokens unless the settings say otherwise.
        extra: more tokens that are special.
        add_bos: whether BOS is put in front by default; None where tokenizer.json alone decides on BOS and EOS.
    """

    name: str | None
    styles: tuple[Style, ...] = ()
    tokens: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    add_bos: bool | None = None


def _named(**tokens: str) -> dict[str, str]:
    return {f"{name}_token": token for name, token in tokens.items()}


_SENTENCEPIECE = _named(unk="<unk>", bos="<s>", eos="</s>")
_END_OF_TEXT = _named(unk="<|endoftext|>", bos="<|endoftext|>", eos="<|endoftext|>")
# Any class may come with a tokenizer.json; without one, these two conversions are the most likely.
_UNNAMED = TokenizerClass(None, ("llama", "gpt2"))
_CLASSES = {
    known.name: known
    for known in (
        TokenizerClass("LlamaTokenizer", ("llama",), _SENTENCEPIECE, add_bos=True),
        TokenizerClass(
            "CodeLlamaTokenizer", ("llama",), _SENTENCEPIECE, ("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"), add_bos=True
        ),
        TokenizerClass(
            "GemmaTokenizer",
            ("gemma",),
            _named(unk="<unk>", bos="<bos>", eos="<eos>", pad="<pad>"),
            add_bos=True,
        ),
        TokenizerClass("GPT2Tokenizer", ("gpt2",), _END_OF_TEXT),
        TokenizerClass("CodeGenTokenizer", ("gpt2",), _END_OF_TEXT),
        TokenizerClass(
            "Qwen2Tokenizer", ("qwen2",), _named(unk="<|endoftext|>", eos="<|endoftext|>", pad="<|endoftext|>")
        ),
        TokenizerClass("GPTNeoXTokenizer", (), _END_OF_TEXT, add_bos=False),
        TokenizerClass(
            "CohereTokenizer",
            (),
            _named(unk="<UNK>", bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>"),
            add_bos=True,
        ),
    )
}
# The class of a model type whose files name none (transformers' TOKENIZER_MAPPING_NAMES).
_OF_MODEL = {
    "LlamaTokenizer": ("llama", "mistral", "mixtral", "phi3", "phimoe"),
    "GemmaTokenizer": ("gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "recurrent_gemma"),
    "GPT2Tokenizer": (
        *("gpt2", "gpt_bigcode", "gpt_neo", "gptj", "opt", "starcoder2", "olmo3"),
        *("granite", "granitemoe", "granitemoehybrid", "granitemoeshared"),
    ),
    "CodeGenTokenizer": ("codegen", "phi"),
    "Qwen2Tokenizer": ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next"),
    "GPTNeoXTokenizer": ("gpt_neox", "olmo", "olmo2", "olmoe", "stablelm", "falcon_mamba"),
    "CohereTokenizer": ("cohere", "cohere2"),
}
_BY_MODEL = {model: name for name, models in _OF_MODEL.items() for model in models}


def tokenizer_class(settings: Mapping[str, Any], config: Config) -> TokenizerClass:
    """The class that tokenizer_config.json names, or config.json does, or the model type stands for."""
    name = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if not isinstance(name, str):
        return _CLASSES.get(_BY_MODEL.get(str(config.get("model_type"))), _UNNAMED)
    if name in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        return _UNNAMED
    name = name.removesuffix("Fast")
    return _CLASSES.get(name, TokenizerClass(name))
