"""The tokenizer in a GGUF file's metadata: byte-level BPE with its way of cutting words, or SentencePiece's BPE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edgelm.bundle.manifest import SpecialTokens
from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.gguf.metadata import Metadata
from edgelm.exporter.tokenizer import sentencepiece
from edgelm.exporter.tokenizer.sentencepiece import CONTROL, UNKNOWN, USER_DEFINED, Piece, SentencePiece
from edgelm.runtime.text import tokenizer_file

_ADDED = (CONTROL, USER_DEFINED, UNKNOWN)
_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# What llama.cpp calls two of them in full.
_KEYS = {"unk": "unknown", "sep": "seperator", "pad": "padding"}
# Texts of tokens at which llama.cpp ends an answer, beside the file's eos, eot and eom (src/llama-vocab.cpp).
_ENDS = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "</s>"),
        *("<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>"),
        "<｜end▁of▁sentence｜>",
    )
)

# How a text is cut into words before merges, by `tokenizer.ggml.pre`; the patterns are those of the models' own
# tokenizer.json, which llama.cpp's table (src/llama-vocab.cpp) is made from.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGIT = r"\p{N}"
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")


@dataclass(frozen=True)
class _Pre:
    """Patterns by which a text is cut, one after the other, and what else goes with them.

    Attributes:
        whole: whether a word that is a token is taken without merges.
        add_bos: whether BOS is put in front where the file does not say.
        normal: whether a text is brought into Unicode's form C first.
    """

    patterns: tuple[str, ...]
    whole: bool = False
    add_bos: bool = False
    normal: bool = False


_TABLE = (
    (_Pre((_LLAMA3,), whole=True, add_bos=True), ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2")),
    (_Pre((_LLAMA3,)), ("dbrx", "smaug-bpe", "chatglm-bpe", "glm4")),
    (_Pre((_QWEN2,), normal=True), ("qwen2", "deepseek-r1-qwen", "megrez", "hunyuan")),
    (_Pre((_QWEN2,)), ("stablelm2",)),
    (_Pre((_GPT2,)), ("gpt-2", "gpt2", "phi-2", "mpt", "exaone4", "trillion")),
    (_Pre((_GPT2,), normal=True), ("olmo",)),
    (_Pre((_DIGIT, _GPT2)), ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")),
    (_Pre(_FALCON), ("falcon",)),
    (_Pre((_TEKKEN,), whole=True, add_bos=True), ("tekken",)),
    (_Pre((_GPT4O,)), ("gpt-4o", "llama4", "kanana2")),
    (_Pre(_DEFAULT), ("default",)),
)
_PRE = {name: pre for pre, names in _TABLE for name in names}


@dataclass(frozen=True)
class GGUFText:
    """What a file says about text.

    Attributes:
        tokenizer: without BOS and EOS around a text.
        names: text of the named special tokens (``bos_token`` …).
        settings: what a tokenizer_config.json would say.
        special: the ids of special tokens.
        template: the chat template's source, or None.
    """

    tokenizer: Tokenizer
    names: dict[str, str]
    settings: dict[str, Any]
    special: SpecialTokens
    template: str | None


def read_gguf_text(data: Metadata) -> GGUFText:
    """The tokenizer and what belongs to it.

    Raises:
        CheckpointError: the file has no tokenizer, or a damaged one.
        UnsupportedModelError: a tokenizer, or a way of cutting words, that is not known.
    """
    if data.get("tokenizer.ggml.tokens") is None:
        raise CheckpointError(
            f"{data.path} has no tokenizer", hint="take a file with one: convert_hf_to_gguf.py writes it"
        )
    pieces = _pieces(data)
    model = data.text("tokenizer.ggml.model")
    match model:
        case "gpt2":
            tokenizer, add_bos = _byte_level(data, pieces)
        case "llama":
            tokenizer, add_bos = _sentencepiece(data, pieces), True
        case _:
            raise UnsupportedModelError(
                f"{data.path}: a tokenizer of kind {model!r} cannot be converted",
                hint="export the Hugging Face checkpoint; edgelm converts gpt2 and llama",
            )
    ids = {kind: data.token(_KEYS.get(kind, kind), len(pieces)) for kind in _KINDS}
    ends = [ids["eos"], *(data.token(kind, len(pieces)) for kind in ("eot", "eom"))]
    ends += [index for index, piece in enumerate(pieces) if piece.kind == CONTROL and piece.text in _ENDS]
    settings = {
        "add_bos_token": data.flag("tokenizer.ggml.add_bos_token", add_bos),
        "add_eos_token": data.flag("tokenizer.ggml.add_eos_token", False),
    }
    template = data.text("tokenizer.chat_template", "") or None
    return GGUFText(
        tokenizer,
        {f"{kind}_token": pieces[index].text for kind, index in ids.items() if index is not None},
        settings,
        SpecialTokens(ids["bos"], tuple(dict.fromkeys(i for i in ends if i is not None)), ids["pad"]),
        template,
    )


def _pieces(data: Metadata) -> tuple[Piece, ...]:
    tokens = data.strings("tokenizer.ggml.tokens")
    count = len(tokens)
    zeros = [0.0] * count
    scores = data.get("tokenizer.ggml.scores")
    kinds = data.get("tokenizer.ggml.token_type")
    scores = zeros if scores is None else data.numbers("tokenizer.ggml.scores", count).tolist()
    kinds = [1] * count if kinds is None else data.numbers("tokenizer.ggml.token_type", count).tolist()
    return tuple(Piece(text, score, kind) for text, score, kind in zip(tokens, scores, kinds, strict=True))


def _byte_level(data: Metadata, pieces: tuple[Piece, ...]) -> tuple[Tokenizer, bool]:
    """The tokenizer, and whether its kind puts BOS in front where the file does not say."""
    name = data.text("tokenizer.ggml.pre", "default")
    if name not in _PRE:
        raise UnsupportedModelError(
            f"{data.path}: its tokenizer cuts words by {name!r}, which edgelm does not know",
            hint=f"export the Hugging Face checkpoint; known: {', '.join(sorted(_PRE))}",
        )
    pre, merges = _PRE[name], [_pair(data, merge) for merge in data.strings("tokenizer.ggml.merges")]
    vocabulary = {piece.text: index for index, piece in enumerate(pieces)}
    try:
        with tokenizer_file.guarded():
            tokenizer_file.expect_lengths(vocabulary, (piece.text for piece in pieces if piece.kind in _ADDED))
            tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre.whole))
    except ValueError as error:
        raise CheckpointError(f"{data.path}: its tokenizer cannot be converted: {error}") from None
    if pre.normal:
        tokenizer.normalizer = normalizers.NFC()
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    _add_special(tokenizer, pieces)
    return tokenizer, pre.add_bos


def _pair(data: Metadata, merge: str) -> tuple[str, str]:
    """The two tokens of a merge; the first may begin with a space itself."""
    rest, space, right = merge[1:].partition(" ")
    if not space or not right:
        raise CheckpointError(f"{data.path}: {merge!r} in 'tokenizer.ggml.merges' is no pair of tokens")
    return merge[:1] + rest, right


def _sentencepiece(data: Metadata, pieces: tuple[Piece, ...]) -> Tokenizer:
    gemma = data.architecture.startswith("gemma")
    unk = data.token("unknown", len(pieces))
    source = SentencePiece(pieces, sentencepiece.BPE, pieces[unk].text if unk is not None else "<unk>")
    prefix = data.flag("tokenizer.ggml.add_space_prefix", True)
    tokenizer = sentencepiece.build(source, "gemma" if gemma else "llama", {}, data.path, prefix_space=prefix)
    _add_special(tokenizer, pieces)
    return tokenizer


def _add_special(tokenizer: Tokenizer, pieces: tuple[Piece, ...]) -> None:
    """Tokens that are found in a text as they stand; control tokens are not part of what a decoder shows."""
    tokenizer.add_tokens(
        [
            AddedToken(piece.text, normalized=False, special=piece.kind != USER_DEFINED)
            for piece in pieces
            if piece.kind in _ADDED and piece.text
        ]
    )
