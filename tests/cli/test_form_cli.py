"""``edgelm run`` with --json-schema, --regex and --choice."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("llguidance")
SCHEMA = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}


def test_the_text_has_the_form(edgelm, tiny_bundle, tmp_path):
    def text(*options: object) -> str:
        ended = edgelm("run", tiny_bundle.path, "-p", "lamp", "--max-tokens", "110", *options)
        assert (ended.code, ended.err) == (0, "")
        return ended.out.removesuffix("\n")

    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    assert json.loads(text("--json-schema", tmp_path / "schema.json"))["on"] in (True, False)
    assert re.fullmatch("[0-9]{3}", text("--regex", "[0-9]{3}"))
    assert text("--choice", "yes", "--choice", "no") in ("yes", "no")


def test_one_that_is_cut_off_is_told(edgelm, tiny_bundle):
    ended = edgelm("run", tiny_bundle.path, "-p", "lamp", "-n", "2", "--regex", "[0-9]{30}", "--json")
    assert ended.code == 0
    assert "note: the answer was cut off before its form was whole: give more tokens (-n)\n" in ended.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--regex", "("], "error: regex cannot be used: "),
        (["--regex", "a", "--choice", "b"], "error: regex and choice exclude each other"),
        (["--json-schema", "nothing.json"], "error: nothing.json cannot be read: No such file or directory"),
    ],
)
def test_wrong_forms(edgelm, tiny_bundle, options, said):
    ended = edgelm("run", tiny_bundle.path, "-p", "x", *options)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(said)


def test_schemas_that_are_none(edgelm, tiny_bundle, tmp_path):
    for content, said in ((b"{", "json_schema is not valid JSON"), (b"\xff", "is not valid UTF-8")):
        (tmp_path / "s.json").write_bytes(content)
        ended = edgelm("run", tiny_bundle.path, "-p", "x", "--json-schema", tmp_path / "s.json")
        assert ended.code == 1
        assert said in ended.err
