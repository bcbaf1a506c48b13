"""vocab.json and merges.txt, the byte-level BPE of GPT-2 and Qwen2, as a `tokenizers.Tokenizer`."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edgelm.errors import CheckpointError
from edgelm.exporter.checkpoint.config import read_json
from edgelm.exporter.tokenizer.tokenizer_class import Style
from edgelm.files import open_regular
from edgelm.runtime.text import tokenizer_file

_MOST_IDS = 1 << 22

# Qwen2's own way to cut a text into words, as in transformers' Qwen2Converter.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def convert(vocab: Path, merges: Path, style: Style, *, prefix_space: bool = False) -> Tokenizer:
    """The tokenizer of the two files, without BOS and EOS around a text.

    Args:
        vocab: token → id, as JSON.
        merges: a pair a line, best first.
        style: ``gpt2`` or ``qwen2``, the way a text is cut into words.
        prefix_space: whether a text begins as if a space stood before it.

    Raises:
        CheckpointError: the files cannot be read.
    """
    try:
        _expect_ids(vocab)
        with open_regular(merges), tokenizer_file.guarded():
            model = models.BPE.from_file(str(vocab), str(merges))
    except OSError as error:
        raise CheckpointError(f"{merges} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(
            f"{vocab.parent}: vocab.json and merges.txt cannot be read: {error}", hint="download the checkpoint again"
        ) from None
    tokenizer = Tokenizer(model)
    if style == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated", invert=False),
                pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False),
            ]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _expect_ids(vocab: Path) -> None:
    """ValueError where the ids are not those of a vocabulary: the library allocates by the highest one."""
    ids = read_json(vocab).values()
    if not all(isinstance(index, int) and 0 <= index < _MOST_IDS for index in ids):
        raise ValueError(f"ids must be whole numbers below {_MOST_IDS:,}")
