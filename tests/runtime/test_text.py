"""Tokenizing, text that appears token by token, and stop strings."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from edgelm.errors import BundleError, PromptError
from edgelm.runtime.text.stop_strings import StoppedText, StopStrings
from edgelm.runtime.text.tokenizer import Detokenizer, Tokenizer

FAMILY = "👩‍👩‍👧‍👦"  # one emoji to the eye: 25 bytes, four characters joined by three more


def byte_level() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet, "Ġt", "he", "Ġthe", "Ã©", "ðŁ"])}
    inner = tokenizers.Tokenizer(models.BPE(vocab, [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ã", "©"), ("ð", "Ł")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>"])
    inner.add_tokens(["日本", "<tool>"])  # not special, one of them outside the byte alphabet
    return inner


def sentencepiece(*, strip: int = 1) -> tokenizers.Tokenizer:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *"▁abcdehot.é", "▁t", "he", "▁the", "▁▁"]
    inner = tokenizers.Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "▁")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, decoders.Strip(" ", strip, 0)] if strip else steps)
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return inner


def words(decoder: decoders.Decoder | None, *, mark: str = "") -> tokenizers.Tokenizer:
    names = ["[UNK]", "[CLS]", "the", "cat", f"{mark}s", f"{mark}ing", "'", ".", "n't", "▁dog", "▁", "end</w>", "|"]
    inner = tokenizers.Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if decoder is not None:
        inner.decoder = decoder
    inner.add_special_tokens(["[CLS]"])
    return inner


def fused_byte_level() -> tokenizers.Tokenizer:
    """Where the whole text is one token to the last step, which leaves it as it is for one character it does not know."""
    tokenizer = byte_level()
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.ByteLevel()])
    return tokenizer


BUILT: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte-level": byte_level,
    "sentencepiece": sentencepiece,
    "sentencepiece without strip": functools.partial(sentencepiece, strip=0),
    "sentencepiece strip 2": functools.partial(sentencepiece, strip=2),
    "no decoder": lambda: words(None),
    "wordpiece": lambda: words(decoders.WordPiece("##"), mark="##"),
    "metaspace": lambda: words(decoders.Metaspace()),
    "bpe suffix": lambda: words(decoders.BPEDecoder("</w>")),
    "ctc": lambda: words(decoders.CTC("|")),
    "fused byte-level": fused_byte_level,
}
REAL = ["tokenizers/smollm2", "tokenizers/gpt-neox-20b-pythia", "tokenizers/phi3", "stories260K"]

unicode_text = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(["👩", "‍", "🏽", "é", "e", "́", "中", " ", "\n", "\x00", "�", "t", "h", "▁", "ก", "ำ"]),
    ),
    max_size=30,
)


@pytest.fixture(scope="module")
def tokenizer_of(request: pytest.FixtureRequest) -> Callable[[str], Tokenizer]:
    @functools.cache
    def find(name: str) -> Tokenizer:
        if name in BUILT:
            return Tokenizer(BUILT[name]())
        data: Path = request.getfixturevalue("data_dir")
        return Tokenizer.open(data / name / "tokenizer.json")

    return find


def pieces(tokenizer: Tokenizer, ids: list[int], *, skip_special: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special=skip_special)
    return [*(detokenizer.push(i) for i in ids), detokenizer.flush()]


# -- the detokenizer


@pytest.mark.parametrize("name", [*BUILT, *REAL])
@given(data=st.data(), skip_special=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_pieces_of_any_ids_join_to_the_decoded_text(
    tokenizer_of: Callable[[str], Tokenizer], name: str, data: st.DataObject, skip_special: bool
) -> None:
    tokenizer = tokenizer_of(name)
    # Half of the ids from the start of the vocabulary, where the bytes are; a few beyond its end.
    one = st.one_of(st.integers(0, min(300, tokenizer.vocab_size)), st.integers(0, tokenizer.vocab_size + 5))
    ids = data.draw(st.lists(one, max_size=25))
    assert "".join(pieces(tokenizer, ids, skip_special=skip_special)) == tokenizer.decode(
        ids, skip_special=skip_special
    )


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece", *REAL])
@given(text=unicode_text)
@example(f"family {FAMILY} {FAMILY}!")
@example("  leading, trailing  ")
@example("नमस्ते ภาษาไทย 日本語 한국어 é")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_pieces_of_any_text_are_whole_characters(
    tokenizer_of: Callable[[str], Tokenizer], name: str, text: str
) -> None:
    tokenizer = tokenizer_of(name)
    ids = tokenizer.encode(text)
    parts, decoded = pieces(tokenizer, ids), tokenizer.decode(ids)
    assert "".join(parts) == decoded
    if "�" not in decoded:
        assert not any("�" in part for part in parts)
    for cut in range(0, len(ids), 3):  # a generation may end anywhere, also inside a character
        assert "".join(pieces(tokenizer, ids[:cut])) == tokenizer.decode(ids[:cut])


def test_a_character_comes_out_with_its_last_byte() -> None:
    tokenizer = Tokenizer(byte_level())
    parts = pieces(tokenizer, tokenizer.encode("a😀b"))
    assert [part for part in parts if part] == ["a", "😀", "b"]
    assert parts[-1] == ""  # nothing was held back


def test_half_a_character_at_the_end_is_shown_as_decode_shows_it() -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("a😀")[:-1]
    assert pieces(tokenizer, ids)[-1] == "�"
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids) == "a�"


def test_spaces_between_words_survive_and_the_first_does_not() -> None:
    tokenizer = Tokenizer(sentencepiece())
    assert pieces(tokenizer, tokenizer.encode("the the"))[1:3] == ["the", " the"]


def test_a_run_of_bytes_is_held_until_it_is_known_to_be_text() -> None:
    tokenizer = Tokenizer(sentencepiece())
    detokenizer = Detokenizer(tokenizer)
    emoji = [tokenizer.token_to_id(f"<0x{b:02X}>") or -1 for b in "😀".encode()]
    end, bad = tokenizer.token_to_id("a") or -1, tokenizer.token_to_id("<0xFF>") or -1
    assert [detokenizer.push(i) for i in [*emoji, end]] == ["", "", "", "", "😀a"]
    # Had the emoji been shown, it could not be taken back here: one bad byte spoils the run.
    assert [detokenizer.push(i) for i in [*emoji, bad, end]][-1] == "�����a" == tokenizer.decode([*emoji, bad, end])


@pytest.mark.parametrize(
    ("name", "streams"), [(name, name not in ("bpe suffix", "ctc", "fused byte-level")) for name in BUILT]
)
def test_text_streams_wherever_the_decoder_allows_it(name: str, streams: bool) -> None:
    tokenizer = Tokenizer(BUILT[name]())
    ids = [tokenizer.token_to_id("the") or tokenizer.token_to_id("▁the") or tokenizer.token_to_id("he") or -1] * 3
    parts = pieces(tokenizer, ids)
    assert all(parts[:3]) == streams
    assert bool(parts[3]) != streams


def test_special_tokens_and_unknown_ids_give_no_text_unless_asked_for() -> None:
    tokenizer = Tokenizer(byte_level())
    ids = [0, *tokenizer.encode("hi"), 1, 999_999]
    assert "".join(pieces(tokenizer, ids)) == "hi"
    assert "".join(pieces(tokenizer, ids, skip_special=False)) == "<s>hi</s>"


def test_a_detokenizer_starts_anew_after_flush() -> None:
    tokenizer = Tokenizer(sentencepiece())
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer.encode("the a")
    first = "".join([*(detokenizer.push(i) for i in ids), detokenizer.flush()])
    second = "".join([*(detokenizer.push(i) for i in ids), detokenizer.flush()])
    assert first == second == "the a"


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece"])
def test_the_cost_is_linear(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, decoded = Tokenizer(BUILT[name]()), 0
    original = tokenizer.decode

    def counting(ids: list[int], *, skip_special: bool = True) -> str:
        nonlocal decoded
        decoded += len(ids)
        return original(ids, skip_special=skip_special)

    ids = tokenizer.encode("the � é 😀 " * 500) + tokenizer.encode("😀" * 500)
    detokenizer = Detokenizer(tokenizer)
    monkeypatch.setattr(tokenizer, "decode", counting)
    for token_id in ids:
        detokenizer.push(token_id)
    detokenizer.flush()
    assert decoded <= 2 * len(ids)


# -- the tokenizer


def test_the_post_processor_adds_bos() -> None:
    tokenizer = Tokenizer(sentencepiece(), bos=1, add_bos=True)
    assert tokenizer.encode("the")[0] == 1
    assert tokenizer.encode("the").count(1) == 1
    assert 1 not in tokenizer.encode("the", special=False)
    assert tokenizer.encode("") == [1]


@pytest.mark.parametrize(("add_bos", "expected"), [(True, [0]), (False, []), (None, [])])
def test_without_a_post_processor_the_manifest_decides_on_bos(add_bos: bool | None, expected: list[int]) -> None:
    tokenizer = Tokenizer(byte_level(), bos=0, add_bos=add_bos)
    assert tokenizer.encode("") == expected
    assert tokenizer.encode("a", special=False) == tokenizer.encode("a")[len(expected) :]


def test_truncation_and_padding_in_the_file_are_ignored(tmp_path: Path) -> None:
    inner = byte_level()
    inner.enable_truncation(3)
    inner.enable_padding(length=8)
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.open(tmp_path / "tokenizer.json")
    assert len(tokenizer.encode("abcde")) == 5
    assert len(tokenizer.encode("a")) == 1


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece", *REAL])
@pytest.mark.parametrize("text", ["a\x00b", "a\r\n\tb", FAMILY, "\ufeffa", "é" * 1000])
def test_unusual_text_comes_back(tokenizer_of: Callable[[str], Tokenizer], name: str, text: str) -> None:
    tokenizer = tokenizer_of(name)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["\ud83d", "ok \udc80 not"])
def test_a_lone_surrogate_is_an_error_that_says_where(text: str) -> None:
    with pytest.raises(PromptError, match=rf"lone surrogate at position {3 if 'ok' in text else 0}"):
        Tokenizer(byte_level()).encode(text)


def test_a_missing_or_damaged_file_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is missing"):
        Tokenizer.open(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text('{"model":')
    with pytest.raises(BundleError, match="cannot be read as a tokenizer"):
        Tokenizer.open(tmp_path / "tokenizer.json")


def test_names_and_ids() -> None:
    tokenizer = Tokenizer(byte_level(), bos=0)
    assert tokenizer.vocab_size == 2 + 256 + 5 + 2
    assert tokenizer.special_ids == {0, 1}
    assert (tokenizer.token_to_id("</s>"), tokenizer.token_to_id("nope")) == (1, None)
    assert (tokenizer.id_to_token(1), tokenizer.id_to_token(9999)) == ("</s>", None)


@pytest.mark.parametrize("folder", ["tokenizers/phi3", "stories260K"])
@given(text=unicode_text)
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_ids_are_those_of_transformers(data_dir: Path, folder: str, text: str) -> None:
    ours, theirs = _both(data_dir / folder)
    assert ours.encode(text) == theirs.encode(text)
    assert ours.encode(text, special=False) == theirs.encode(text, add_special_tokens=False)


@functools.cache
def _both(folder: Path):  # type: ignore[no-untyped-def]
    transformers = pytest.importorskip("transformers")
    return Tokenizer.open(folder / "tokenizer.json"), transformers.AutoTokenizer.from_pretrained(folder)


# -- stop strings


def by_character(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The reference: read one character at a time, stop at the first end of a stop string, the longest there."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


few_letters = st.text("ab\né", max_size=40)


@given(
    text=few_letters,
    stops=st.lists(st.text("ab\né", min_size=1, max_size=5), max_size=4),
    cuts=st.lists(st.integers(0, 40), max_size=10),
)
@example("aab", ["ab"], [1, 2])
@example("abc", ["abc", "b"], [])
@example("aaab", ["aab"], [1, 2, 3])
def test_any_chunks_give_the_same_text(text: str, stops: list[str], cuts: list[int]) -> None:
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    stopper, shown = StopStrings(stops), ""
    expected, matched = by_character(text, stops)
    for start, end in itertools.pairwise(borders):
        shown += stopper.push(text[start:end])
        assert expected.startswith(shown)  # nothing of a stop string leaks
        if stopper.matched is None:  # and no more is held back than must be
            held = text[len(shown) : end]
            assert not held or any(stop.startswith(held) for stop in stops)
    shown += stopper.flush()
    assert (shown, stopper.matched) == (expected, matched)


def test_nothing_follows_a_stop_string() -> None:
    stopper = StopStrings(["END"])
    assert [stopper.push(part) for part in ("a E", "ND b", "c")] == ["a ", "", ""]
    assert stopper.flush() == ""


def test_text_that_only_began_like_a_stop_string_is_shown() -> None:
    stopper = StopStrings(["</tool>"])
    assert [stopper.push(part) for part in ("x </to", "y </too")] == ["x ", "</toy "]
    assert stopper.flush() == "</too"


Pieces = list[tuple[str, bool]]  # text, and whether it is that of a special token


def with_specials(pieces: Pieces, stops: list[str]) -> tuple[str, str | None]:
    """The reference: one character at a time, in the text with special tokens and in the text without."""
    characters = [(character, hidden) for text, hidden in pieces for character in text]
    for end in range(1, len(characters) + 1):
        seen = [i for i in range(end) if not characters[i][1]]
        ways = [list(range(end)), *([seen] if seen[-1:] == [end - 1] else [])]
        found = [
            (-len(stop), places[-len(stop)], stop)
            for places in ways
            for stop in stops
            if "".join(characters[i][0] for i in places).endswith(stop)
        ]
        if found:
            _, start, stop = min(found)
            return "".join(c for c, hidden in characters[:start] if not hidden), stop
    return "".join(c for c, hidden in characters if not hidden), None


@given(
    pieces=st.lists(st.tuples(st.text("ab<>", min_size=1, max_size=6), st.booleans()), max_size=8),
    stops=st.lists(st.text("ab<>", min_size=1, max_size=5), max_size=4),
)
@example([("a", False), ("<b>", True), ("b", False)], ["<b>"])
@example([("a", False), ("<b>", True), ("b", False)], ["a<b>b"])
@example([("a", False), ("<b>", True), ("b", False)], ["ab"])
@example([("a", False), ("<b>", True), ("b", False)], ["a<"])
@example([("a<", False), ("<b>", True), ("<b", True)], ["a<b", "<<b>"])
def test_stop_strings_that_are_special_tokens(pieces: Pieces, stops: list[str]) -> None:
    stopper = StopStrings(stops)
    expected, matched = with_specials(pieces, stops)
    shown = ""
    for text, hidden in pieces:
        shown += stopper.push(text, hidden=hidden)
        assert expected.startswith(shown)
    assert (shown + stopper.flush(), stopper.matched) == (expected, matched)


@pytest.mark.parametrize(
    ("stop", "expected", "count"),
    [
        ("</s>", "the the", 3),  # whole
        ("</", "the the", 3),  # the beginning of one
        ("s>", "the the", 3),  # its end
        ("the</s>", "the ", 3),  # text before one
        ("</s> the", "the the", 4),  # text behind one
        ("e</s> the the", "the th", 5),  # text around one
        ("the the the", "", 4),  # text that goes over one
        ("<s>", "the the the the", 5),  # one that does not come
    ],
)
def test_a_token_that_is_not_shown_ends_the_text(stop: str, expected: str, count: int) -> None:
    tokenizer = Tokenizer(byte_level())
    the = tokenizer.encode(" the", special=False)[0]
    ids = [tokenizer.token_to_id("t"), tokenizer.token_to_id("he"), the, 1, the, the]
    assert tokenizer.decode(ids) == "the the the the"
    written, text, taken = StoppedText(tokenizer, [stop]), "", 0
    for token in ids:
        if written.stopped:
            break
        text += written.push(token)
        taken += 1
    assert text + written.flush() == expected
    assert taken == count + 1
