"""Finding the line of a key, which tomllib does not tell."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgelm.target.toml_lines import key_lines, nearest_line

TEXT = '''\
# a comment = 1
top = "a # that is no comment"
[cpu]            # cores
threads = 4
"quoted key" = [1, 2,
  { not.recorded = 3 },
]
after.dotted = 2.5
note = """
threads = "not here"
"""

[recipe.int4]
body = { op = "x", deep.er = { bits = 4 } }
path = 'C:\\'
last = 1979-05-27T07:32:00Z
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("cpu",), 3),
        (("cpu", "threads"), 4),
        (("cpu", "quoted key"), 5),
        (("cpu", "after", "dotted"), 8),
        (("cpu", "note"), 9),
        (("recipe", "int4"), 13),
        (("recipe", "int4", "body", "op"), 14),
        (("recipe", "int4", "body", "deep", "er", "bits"), 14),
        (("recipe", "int4", "path"), 15),
        (("recipe", "int4", "last"), 16),
    ],
)
def test_the_line_of_a_key(path: tuple[str, ...], line: int):
    assert key_lines(TEXT)[path] == line


def test_a_missing_key_is_reported_at_the_section_that_lacks_it():
    lines = key_lines(TEXT)
    assert nearest_line(lines, ("cpu", "cores")) == 3
    assert nearest_line(lines, ("recipe", "int4", "body", "bits")) == 14
    assert nearest_line(lines, ("name",)) == 1


def paths(table: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


KEYS = st.sampled_from(["a", "b-1", "c_d", '"q k"', "'=['", "a.b"])
VALUES = st.recursive(
    st.sampled_from(["1", "2.5", "true", '"x = [ # \\" }"', "'it'", '"""two\nlines"""', "'''a\n''b\n'''", "07:32:00"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[\n" + ", ".join(items) + "]")
        | st.lists(st.tuples(KEYS, inner), max_size=3).map(
            lambda items: "{ " + ", ".join(f"{k} = {v}" for k, v in items) + " }"
        )
    ),
    max_leaves=5,
)
LINES = st.one_of(
    st.tuples(KEYS, VALUES).map(lambda pair: f"{pair[0]} = {pair[1]}  # note"),
    KEYS.map(lambda key: f"[{key}]"),
    st.just(""),
)


@given(st.lists(LINES, max_size=6).map("\n".join))
@example('a = """x"""""\nb = 1')
def test_every_key_of_any_valid_text_has_the_line_it_starts_on(text: str):
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = key_lines(text)
    for path in paths(table):
        assert path[-1] in text.splitlines()[lines[path] - 1]


@given(st.text(st.sampled_from("\"'[]{}=.,#\n\\ ab1"), max_size=30))
def test_no_text_makes_it_fail_or_hang(text: str):
    assert all(line >= 1 for line in key_lines(text).values())
