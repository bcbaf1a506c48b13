"""``--trim-vocab`` of ``edgelm export``, and what the commands tell of it."""

from __future__ import annotations

import json

import pytest

from edgelm import demo
from edgelm.bundle.reader import Bundle


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "home.jsonl"
    path.write_text("\n".join(demo.heldout().read_text(encoding="utf-8").splitlines()[:100]), encoding="utf-8")
    return path


def test_the_summary_and_inspect(edgelm, text, tmp_path):
    options = ["--target", "x86-64", "--quant", "int8", "--card", "none", "-o", tmp_path / "b"]
    ended = edgelm("export", *options, "--trim-vocab", text, "--trim-vocab", "Cyrl")
    assert ended.code == 0
    found = Bundle.open(tmp_path / "b").manifest.to_dict()["vocabulary"]
    kept, of = found["tokens"], found["of"]
    lines = ended.out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("  vocabulary   "))
    assert lines[at].startswith(f"  vocabulary   {kept:,} of {of:,} tokens ({kept / of:.1%}), ")
    assert lines[at].endswith(" less in embedding and head")
    assert lines[at + 1] == "    kept for   home.jsonl, Cyrl"
    assert lines[at + 2].startswith("    unchanged  100.00% of the ")
    assert lines[at + 3].startswith("    a word     ")
    assert lines[at + 4].endswith(" of its tokens will be missed (Good-Turing)")
    assert lines[at : at + 5] == [
        line for line in edgelm("inspect", tmp_path / "b").out.splitlines() if line in lines[at : at + 5]
    ]


def test_json(edgelm, text, tmp_path):
    options = ["--target", "x86-64", "--quant", "fp32", "-o", tmp_path / "b", "--json"]
    ended = edgelm("export", *options, "--trim-vocab", text)
    told = json.loads(ended.out)["manifest"]["vocabulary"]
    assert set(told) == {"tokens", "of", "texts", "coverage", "saved_bytes"}
    assert set(told["coverage"]) == {"tokens", "unchanged", "tokens_per_word", "expected_unseen"}
    assert told["saved_bytes"] == 4 * 256 * (told["of"] - told["tokens"])
    assert json.loads(edgelm("inspect", tmp_path / "b", "--json").out)["manifest"]["vocabulary"] == told


def test_a_whole_vocabulary_is_not_told_of(edgelm, tiny_bundle):
    assert not any(line.startswith("  vocabulary ") for line in edgelm("inspect", tiny_bundle.path).out.splitlines())
    assert tiny_bundle.manifest.vocabulary is None


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("klingon", "error: --trim-vocab klingon: 'klingon' is neither a file or folder nor a language"),
        (
            "nowhere/a.txt",
            "error: --trim-vocab nowhere/a.txt: there is no such file or folder\nhint: or give languages",
        ),
    ],
)
def test_what_cannot_be(edgelm, tmp_path, wanted, message):
    ended = edgelm("export", "--target", "rpi5", "--trim-vocab", wanted, "-o", tmp_path / "b")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(message)
    assert not list(tmp_path.iterdir())


def test_an_estimate_of_a_trimmed_model(edgelm, tmp_path):
    (tmp_path / "config.json").write_text((demo.path() / "config.json").read_text())
    whole, trimmed = (
        json.loads(edgelm("estimate", tmp_path, "--quant", "fp32", *more, "--json").out)
        for more in ([], ["--vocab", 1000])
    )
    saved = (4 * 256 + 50) * 1048  # rows of the embedding, and lines of tokenizer.json
    assert whole["bundle_bytes"] - trimmed["bundle_bytes"] == pytest.approx(saved, rel=1e-3)
    assert whole["memory"]["total_bytes"] > trimmed["memory"]["total_bytes"]
    ended = edgelm("estimate", tmp_path, "--vocab", 4000)
    assert ended.err == "error: --vocab must be from 1 to the model's 2,048 tokens, not 4,000\n"
    assert ended.code == 1


def test_the_estimate_of_a_trimmed_bundle(edgelm, text, tmp_path):
    sizes = {}
    for name, more in (("whole", []), ("trimmed", ["--trim-vocab", text])):
        edgelm("export", "--target", "rpi5", "--card", "none", "-o", tmp_path / name, *more)
        sizes[name] = json.loads(edgelm("estimate", tmp_path / name, "--json").out)
    assert sizes["trimmed"]["memory"]["total_bytes"] < sizes["whole"]["memory"]["total_bytes"]
    assert sizes["trimmed"]["bundle_bytes"] < sizes["whole"]["bundle_bytes"]
