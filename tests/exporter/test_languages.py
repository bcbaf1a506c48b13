"""What is taken for a language."""

from __future__ import annotations

import pytest

from edgelm.exporter.tokenizer import languages
from edgelm.exporter.tokenizer.languages import language

SPOKEN = [code for code in languages.codes() if code.islower()]


@pytest.mark.parametrize("code", SPOKEN)
def test_a_language_has_all_characters_of_its_sample(code: str) -> None:
    found = language(code)
    assert found.sample
    assert set(found.sample) <= found.characters


def test_english_is_ascii_and_common_punctuation() -> None:
    characters = language("en").characters
    assert {chr(code) for code in range(0x80)} <= characters
    assert set("“”‘’–—…€·×→≤ ") <= characters
    assert not set("éßøджα中の🙂") & characters


@pytest.mark.parametrize(
    ("code", "has", "lacks"),
    [
        ("de", "äöüÄÖÜßẞxyz", "éøåж"),
        ("ru", "ёЁжЖ—«»1", "abcїґ"),
        ("uk", "їґЇҐ", "ёыЫabc"),
        ("tr", "ıİğşI", "é"),
        ("fa", "پچگ\u200c؟", "abc"),
        ("zh", "中国，。「」abc", "のß"),
        ("ja", "のカ漢字、。ーabc", "한ß"),
        ("ko", "한국ㅋ", "のß"),
        ("Latn", "aéßøĳəẞ", "жα"),
        ("Cyrl", "жёїґѣ", "abc"),
        ("Zsye", "🙂🚀❤️", "abcж"),
    ],
)
def test_letters(code: str, has: str, lacks: str) -> None:
    characters = language(code).characters
    assert set(has) <= characters
    assert not set(lacks) & characters


def test_codes_are_known_in_capitals_or_not() -> None:
    assert language("EN").code == "en"
    assert language("latn").code == "Latn"
    with pytest.raises(KeyError):
        language("xx")
