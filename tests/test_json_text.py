"""JSON that others wrote: a value, or a ValueError, and nothing that stops who writes it again."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgelm
from edgelm.json_text import json_start, json_value

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@given(VALUES, st.booleans())
def test_a_value_is_what_it_was(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert json_value(text) == json_value(text.encode()) == json_value(b"\xef\xbb\xbf" + text.encode()) == value
    assert json_start(text + " and more") == (value, len(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[1] 2", "Extra data"),
        ('"a\nb"', "Invalid control character"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 2_000 + "0" + "}" * 2_000, "nested too deep"),
        ("[" * 900 + "]" * 900, "nested too deep"),
        ('{"a":' * 129 + "0" + "}" * 129, "nested too deep"),
        ("[[1], [[[" + "[" * 126 + "]" * 126 + "]]]]", "nested too deep"),
        ("9" * 5000, "integer string conversion"),
        ("[NaN]", "NaN is no number"),
        ("-Infinity", "-Infinity is no number"),
        ("[1e400]", "a number is too large"),
        ("-" + "9" * 400 + ".0", "a number is too large"),
        (r'"\ud800"', "surrogates not allowed"),
        (r'{"\uDBFFx": 1}', "surrogates not allowed"),
        ('"\udcff"', "surrogates not allowed"),
        (b'"\xed\xa0\x80"', "invalid continuation byte"),
        (b'"\xff"', "invalid start byte"),
        ("[1]".encode("utf-16"), "invalid start byte"),
        ("[1]".encode("utf-32-le"), "Expecting"),
    ],
)
def test_what_is_no_json(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        json_value(text)


def test_what_is_not_too_deep():
    for text in ("[" * 128 + "]" * 128, '{"a":' * 128 + "0" + "}" * 128, "[" + "[[]], " * 500 + "1]"):
        assert json_value(text) == json.loads(text)


def test_what_python_writes_is_read_where_it_is_asked_for():
    assert str(json_value("[NaN, -Infinity, 1e400, 1e-400]", constants=True)) == "[nan, -inf, inf, 0.0]"


def test_halves_of_surrogate_pairs_are_read_where_they_are_asked_for():
    assert json_value(r'"\ud83d"', surrogates=True) == "\ud83d"
    assert json_value(r'"\ud83d\ude00"') == "😀"
    assert json_value(r'"\\ud800"') == "\\ud800"


@pytest.mark.parametrize(
    "text", ["{'a': 1}", "[NaN]", '{"a": 1e999}', "[" * 200 + "]" * 200, '{"a":' * 2_000, "[" * 50_000, ""]
)
def test_a_text_that_begins_with_no_value(text):
    with pytest.raises(ValueError, match=r"Expecting|no number|too large|nested too deep"):
        json_start(text)


def test_what_models_write_may_hold_line_ends():
    assert json_start('{"a": "b\nc"}, and') == ({"a": "b\nc"}, 12)


def test_no_other_module_reads_the_json_of_others():
    """What is left reads what it wrote itself, or what the tokenizers library wrote."""
    own = {
        "json_text.py": "this one",
        "remote/agent.py": "is sent to boards alone",
        "catalogue/models.py": "a file of the package",
        "serve/call_forms.py": "what it has just written",
        "serve/thoughts.py": "what it has just written",
        "sweep/record.py": "what it has just written",
        "emulate/sandbox.py": "its own record, and pip's",
        "exporter/tokenizer/subword.py": "tokenizers wrote it",
        "exporter/tokenizer/text_files.py": "tokenizers wrote it",
        "runtime/text/large_bpe.py": "cut by its own scanner",
        "runtime/text/message_text.py": "tokenizers wrote it",
        "runtime/text/tokenizer.py": "tokenizers wrote it",
        "runtime/text/tokenizer_file.py": "tokenizers wrote it",
    }
    root = Path(edgelm.__file__).parent
    found = {str(path.relative_to(root)) for path in root.rglob("*.py") if "json.loads(" in path.read_text("utf-8")}
    assert found <= set(own), sorted(found - set(own))
