"""Cutting tokenizers: what is kept encodes as before, everything still encodes, and comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgelm.errors import UnsupportedModelError
from edgelm.exporter.tokenizer import languages
from edgelm.exporter.tokenizer.subword import Subwords

WORDS = (
    "the theory of other weather gathers feathers together; a whole wheel, whether wet or weathered, then thaws\n"
    "über Bäume und Büsche, öfter für größere Häuser: naïve café Straße\n"
    "def f(x):\n        return [x + 1, x * 22, 'x']  # 3 + 4 == 7\n\n\n"
    "привет, мир! это мой город, а это твой город\n"
    "今日は世界。世界は今日も丸い。 🙂🙂🚀\n"
) * 3


def byte_level(**options: Any) -> Tokenizer:
    """GPT-2's way."""
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([WORDS], trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    return with_added(tokenizer)


def llama3() -> Tokenizer:
    """Byte-level with words looked up whole first, and a vocabulary that has words no merge makes."""
    tokenizer = byte_level()
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    tokenizer = Tokenizer(
        models.BPE(
            {**model["vocab"], "Ġgathering": len(model["vocab"])},
            [tuple(pair) for pair in model["merges"]],
            ignore_merges=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\s+|[^\p{L}\s]+"), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return with_added(tokenizer)


def llama2() -> Tokenizer:
    """SentencePiece's BPE with byte fallback: every pair whose join is a token merges."""
    trained = byte_level()
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}}
    pieces = sorted({c for c in WORDS.replace(" ", "▁") if c.isascii() or c in "▁üöäпривет"} - {"\n"})
    pieces += [
        w.replace("Ġ", "▁") for w in json.loads(trained.to_str())["model"]["vocab"] if len(w) > 1 and w.isascii()
    ]
    pieces += ["▁t", "▁th", "the", "▁the", "th", "he", "er", "her", "eat", "ea", "at", "▁▁", "▁▁▁▁"]
    vocab |= {text: 257 + i for i, text in enumerate(dict.fromkeys(pieces))}
    merges = [
        (t[:i], t[i:]) for t in vocab for i in range(1, len(t)) if t[:i] in vocab and t[i:] in vocab and t[0] != "<"
    ]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    blank_for_space(tokenizer)
    return with_added(tokenizer)


def unigram() -> Tokenizer:
    """SentencePiece's Unigram, trained, with byte fallback."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(WORDS.split("\n"), trainer)
    vocab = [tuple(entry) for entry in json.loads(tokenizer.to_str())["model"]["vocab"]]
    vocab += [(f"<0x{byte:02X}>", 0.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(vocab, 0, byte_fallback=True))
    blank_for_space(tokenizer)
    return with_added(tokenizer)


def characters() -> Tokenizer:
    """BPE of characters: what it has no token for is unknown."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator([WORDS], trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"]))
    return with_added(tokenizer)


def blank_for_space(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1)]
    )


def with_added(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("{device}", normalized=False)])
    begin = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing("<s> $A", special_tokens=[begin])]
    )
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    f.__name__: cache(f) for f in (byte_level, llama3, llama2, unigram, characters)
}
LOSSLESS = ["byte_level", "llama3", "llama2", "unigram"]


def cut_to(tokenizer: Tokenizer, text: str) -> tuple[Tokenizer, dict[int, int]]:
    words = Subwords.of(tokenizer)
    return words.cut(words.with_parts({*words.required, *tokenizer.encode(text).ids}))


text = st.text(st.sampled_from([*sorted(set(WORDS)), "ß", "é", "\x00"]), max_size=60)
domain = st.lists(st.sampled_from(WORDS.split(" ")), max_size=12).map(" ".join) | text


@pytest.mark.parametrize("kind", KINDS)
@given(domain=domain, other=domain)
@settings(max_examples=30, deadline=None)
def test_what_is_kept_encodes_as_before(kind: str, domain: str, other: str) -> None:
    full = KINDS[kind]()
    small, new = cut_to(full, domain)
    assert small.encode(domain).ids == [new[i] for i in full.encode(domain).ids]
    before = full.encode(other).ids
    if all(i in new for i in before):
        assert small.encode(other).ids == [new[i] for i in before]


@pytest.mark.parametrize("kind", LOSSLESS)
@given(domain=domain, other=text)
@settings(max_examples=30, deadline=None)
def test_everything_still_encodes_and_comes_back(kind: str, domain: str, other: str) -> None:
    full = KINDS[kind]()
    small, _ = cut_to(full, domain)
    assert small.decode(small.encode(other).ids) == full.decode(full.encode(other).ids)


@given(domain=domain, other=text)
@settings(max_examples=30, deadline=None)
def test_without_byte_fallback_no_character_becomes_unknown(domain: str, other: str) -> None:
    full = KINDS["characters"]()
    small, _ = cut_to(full, domain)
    unknown = full.token_to_id("<unk>"), small.token_to_id("<unk>")
    assert (unknown[0] in full.encode(other).ids) == (unknown[1] in small.encode(other).ids)


@pytest.mark.parametrize("kind", KINDS)
@given(domain=domain)
@settings(max_examples=10, deadline=None)
def test_ids_keep_their_order_without_gaps(kind: str, domain: str) -> None:
    full = KINDS[kind]()
    small, new = cut_to(full, domain)
    assert sorted(new.values()) == list(range(small.get_vocab_size()))
    assert all(new[a] < new[b] for a, b in pairwise(sorted(new)))
    assert {i: small.id_to_token(n) for i, n in new.items()} == {i: full.id_to_token(i) for i in new}


@pytest.mark.parametrize("kind", KINDS)
def test_added_tokens_stay_what_they_are(kind: str) -> None:
    full = KINDS[kind]()
    small, _ = cut_to(full, "the")
    assert small.get_vocab_size() < full.get_vocab_size()
    before, after = ({str(t): repr(t) for t in x.get_added_tokens_decoder().values()} for x in (full, small))
    assert before == after
    assert len(after) >= 3
    found = small.encode("the {device}</s>").tokens
    assert (found[0], found[-1]) == ("<s>", "</s>")
    assert "{device}" in found


@pytest.mark.parametrize("kind", ["byte_level", "llama2"])
def test_every_kept_token_can_still_be_made(kind: str) -> None:
    full = KINDS[kind]()
    small, new = cut_to(full, "weathered together 22")
    alone = [full.model, small.model]
    added = full.get_added_tokens_decoder()
    for old, index in ((old, index) for old, index in new.items() if old not in added):
        name = full.id_to_token(old)
        before, after = ([token.value for token in model.tokenize(name)] for model in alone)
        assert before == after, name
        assert small.id_to_token(index) == name


def test_single_bytes_always_stay() -> None:
    small, _ = cut_to(KINDS["byte_level"](), "")
    assert all(small.token_to_id(character) is not None for character in pre_tokenizers.ByteLevel.alphabet())
    small, _ = cut_to(KINDS["llama2"](), "")
    assert all(small.token_to_id(f"<0x{byte:02X}>") is not None for byte in range(256))


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_always_stay(kind: str) -> None:
    full = KINDS[kind]()
    numbers = [token for token in full.get_vocab() if token.lstrip("Ġ▁").isdecimal()]
    small, _ = cut_to(full, "")
    assert numbers
    assert all(small.token_to_id(number) is not None for number in numbers)
    assert small.encode("222 and 407").tokens[1] == full.encode("222 and 407").tokens[1]


def test_merges_of_what_is_gone_are_gone() -> None:
    small, _ = cut_to(KINDS["byte_level"](), "the weather")
    model = json.loads(small.to_str())["model"]
    assert model["merges"]
    assert all({a, b, a + b} <= model["vocab"].keys() for a, b in model["merges"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", ["en", "de", "ru", "ja"])
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_text_of_a_language_encodes_as_before(kind: str, code: str, data: st.DataObject) -> None:
    full = KINDS[kind]()
    small, new, letters = cut_to_language(kind, code)
    text = data.draw(st.text(st.sampled_from(letters), max_size=40))
    assert small.encode(text).ids == [new[i] for i in full.encode(text).ids]


@cache
def cut_to_language(kind: str, code: str) -> tuple[Tokenizer, dict[int, int], list[str]]:
    """With some of the language's characters."""
    full = KINDS[kind]()
    words, letters = Subwords.of(full), languages.language(code).characters
    small, new = words.cut(words.with_parts({*words.required, *words.made_of(letters, full)}))
    return small, new, sorted(letters & set(WORDS)) + sorted(letters)[:400]


def test_english_drops_what_is_not_english() -> None:
    full = KINDS["byte_level"]()
    words = Subwords.of(full)
    kept = words.made_of(languages.language("en").characters, full)
    assert full.token_to_id("Ġthe") in kept
    assert full.token_to_id("Ð¾Ð") not in kept  # half of Cyrillic letters
    gone = {full.decode([i]) for i in words.pieces if i not in kept}
    assert any("город" in text for text in gone)
    assert not any(text.isascii() for text in gone)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"), "type WordPiece"),
        (models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"), "type WordLevel"),
        (models.BPE({"a": 0}, [], dropout=0.5), "at random"),
        (models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>"), "suffix"),
    ],
)
def test_other_tokenizers_are_refused(model: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        Subwords.of(Tokenizer(model))


def test_ends_of_bert_and_roberta_get_new_ids() -> None:
    full = KINDS["byte_level"]()
    full = Tokenizer.from_str(full.to_str())
    ends = [(name, full.token_to_id(name)) for name in ("</s>", "<s>")]
    full.post_processor = processors.RobertaProcessing(*ends)
    small, new = cut_to(full, "the")
    assert small.encode("the").ids == [new[i] for i in full.encode("the").ids]
    assert small.encode("the").tokens[0] == "<s>"
