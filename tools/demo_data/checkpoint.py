"""The checkpoint folder: tokenizer, chat template, weights, as every Hugging Face loader expects them."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from .schema import grounding, pattern

SPECIAL = ["<|pad|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
PAD, BOS, SYSTEM, USER, ASSISTANT, END = range(6)
VOCAB = 2048
WORD_PIECES = 1000  # merges within words; the rest of the vocabulary are those pieces with a space before them
SPACE = "\u0120"  # how byte-level BPE writes a space
# The fixed pieces of an answer, one token each: an action costs about nine tokens instead of twenty.
PIECES = [
    '{"actions":[{"device":"',
    '"},{"device":"',
    '},{"device":"',
    '","room":"',
    '","set":"',
    '","change":"',
    '","value":',
    '"}]}',
    "}]}",
]
# The words with a capital that answers begin with, one token each; all else is in small letters.
STARTS = ["The", "No", "All", "I can only control"]
# No newlines and no header tokens: a turn costs two tokens besides its text. What is said to the model is read in small
# letters: "PLAY CORNER" is kept as "play corner", and who shouts is understood. It stands here and not in the tokenizer,
# whose normalizer not every runtime applies.
TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}"
    "{{- '<|assistant|>' + message['content'] | trim + '<|end|>' }}"
    "{%- else %}"
    "{{- '<|' + message['role'] + '|>' + message['content'] | trim | lower + '<|end|>' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


def train_tokenizer(conversations: Iterable[list[dict[str, str]]]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 2048 tokens; every byte has a token, every digit is one.

    A word is split the same with and without a space before it, " first" as "first": a place that is copied from a
    sentence into an answer, where no space comes before it, is then the same tokens but for the first one's space.
    """
    texts = [_without_pieces(m["content"]).lower() for c in conversations for m in c]
    words = _word_pieces(texts)
    merges = [tuple(pair) for pair in json.loads(words.to_str())["model"]["merges"]]
    vocab = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    spaced = _spaced(words, texts, VOCAB - len(PIECES) - len(STARTS) - len(vocab) - len(merges))
    merges += [(SPACE, piece) for piece in spaced]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    # Byte-level with single digits, the combination most runtimes already know by name.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(list(SPECIAL))
    bpe.add_tokens([AddedToken(p, normalized=False, special=False) for p in PIECES])
    bpe.add_tokens([AddedToken(s, normalized=False, special=False, single_word=True) for s in STARTS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _word_pieces(texts: list[str]) -> Tokenizer:
    """Byte pairs learned from words without the spaces between them."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + WORD_PIECES, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe


def _spaced(words: Tokenizer, texts: list[str], count: int) -> list[str]:
    """The `count` pieces that most often begin a word behind a space."""
    seen: Counter[str] = Counter()
    for word, times in Counter(w for t in texts for w in re.findall(r"(?<= )[^\s\d]+", t)).items():
        seen[words.encode(word).tokens[0]] += times
    return [piece for piece, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:count]]


def variants(tokenizer: PreTrainedTokenizerFast) -> dict[int, int]:
    """Tokens that are another one with a space before it: id → that one's id."""
    vocab: dict[str, int] = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    return {
        i: vocab[bare]
        for token, i in vocab.items()
        if (bare := token.removeprefix(SPACE)) and bare != token and bare in vocab
    }


def _without_pieces(text: str) -> str:
    """What is left for byte pairs to learn from."""
    for piece in sorted(PIECES, key=len, reverse=True):
        text = text.replace(piece, "\n")
    return text


@lru_cache(4096)
def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """A home's state is in all conversations about it, and answers come again and again."""
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and its targets, -100 wherever the assistant does not speak.

    The same ids as the chat template's, which a test holds it to; rendering jinja a million times would be slow.
    """
    ids, targets = [BOS], [-100]
    for message in messages:
        role = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}[message["role"]]
        own = message["role"] == "assistant"
        text = message["content"].strip()
        body = _ids(tokenizer.backend_tokenizer, text if own else text.lower())
        ids += [role, *body, END]
        targets += [-100, *(body if own else [-100] * len(body)), END if own else -100]
    return ids, targets


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write config, fp16 weights (the tied head once), tokenizer, generation defaults and the grammar of answers."""
    folder.mkdir(parents=True)
    tokenizer.save_pretrained(folder)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    _inline_template(folder)
    weights = {k: v.detach().half().contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(model.config)
    config.architectures = ["LlamaForCausalLM"]
    described = config.to_dict()
    for key in ("_name_or_path", "transformers_version", "dtype", "_attn_implementation_autoset"):
        described.pop(key, None)
    described["torch_dtype"] = "float16"
    _json(folder / "config.json", described)
    defaults: dict[str, Any] = {"bos_token_id": BOS, "eos_token_id": END, "pad_token_id": PAD, "do_sample": False}
    _json(folder / "generation_config.json", defaults)
    write_grammar(folder)


def write_grammar(folder: Path) -> None:
    """Write what answers may be, to which edgelm holds them."""
    _json(folder / "answer_grammar.json", {"regex": pattern(), "grounded": grounding()})


def _inline_template(folder: Path) -> None:
    """Keep the chat template in tokenizer_config.json, where older loaders look for it too."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    described = json.loads(path.read_text())
    described["chat_template"] = TEMPLATE
    _json(path, described)


def _json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model in fp32 and its tokenizer."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(folder)
