"""``edgelm eval``."""

from __future__ import annotations

import json

import pytest

import edgelm as library
from edgelm.evaluate.perplexity import perplexity


@pytest.fixture(scope="module")
def task(tiny_bundle, tmp_path_factory):
    """A task of which the model gets one of two right."""
    messages = [{"role": "user", "content": "lamp"}]
    with library.load(tiny_bundle.path) as lm:
        answer = lm.generate(messages, max_tokens=256, temperature=0, repetition_penalty=1.0).text
    path = tmp_path_factory.mktemp("task") / "task.jsonl"
    lines = [
        {"messages": messages, "answer": answer, "kind": "a"},
        {"messages": messages, "answer": "no\nno", "kind": "b"},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog " * 12)
    return path


def test_a_task(edgelm, tiny_bundle, task):
    ended = edgelm("eval", tiny_bundle.path, "--task", task, "--show-errors", 5)
    assert (ended.code, ended.err) == (0, "")
    rows, errors = ended.out.split("\n\n")
    assert [row.split() for row in rows.splitlines()[1:]] == [
        ["all", "50.0%", "35.4%", "2"],
        ["kind", "a", "100.0%", "0.0%", "1"],
        ["kind", "b", "0.0%", "0.0%", "1"],
    ]
    head, expected, answered = errors.splitlines()
    assert (head, expected) == ("line 2: lamp", "  expected  no\\nno")
    assert answered.startswith("  answered  ")


def test_a_text(edgelm, tiny_bundle, text):
    with library.load(tiny_bundle.path) as lm:
        expected = perplexity(lm.engine, lm.tokenizer.encode(text.read_text(), special=False), chunk=64)
    out = edgelm("eval", tiny_bundle.path, "--text", text, "--chunk", 64).out
    assert out == f"perplexity {expected}  ({expected.tokens} tokens scored, {expected.chunks} chunks of 64)\n"


def test_both_as_json(edgelm, tiny_bundle, task, text):
    facts = json.loads(
        edgelm(
            "eval", tiny_bundle.path, "--task", task, "--text", text, "--chunks", 2, "--show-errors", 1, "--json"
        ).out
    )
    assert (facts["task"]["metrics"]["exact_match"]["value"], facts["task"]["total"]) == (0.5, 2)
    assert [(error["line"], error["correct"]) for error in facts["task"]["errors"]] == [(2, False)]
    assert (facts["perplexity"]["chunk"], facts["perplexity"]["chunks"]) == (128, 2)


def test_the_embedded_models_task(edgelm, tiny_bundle):
    facts = json.loads(edgelm("eval", tiny_bundle.path, "--task", "home", "--limit", 1, "--json").out)
    assert facts["task"]["total"] == 1
    assert facts["task"]["groups"]["split"]


def test_an_example_that_is_too_long_is_named(edgelm, tiny_bundle, tmp_path):
    (tmp_path / "task.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "x" * 200}], "answer": "y"})
    )
    ended = edgelm("eval", tiny_bundle.path, "--task", tmp_path / "task.jsonl")
    assert ended.code == 1
    assert ended.err.startswith("error: line 1 of the task: the prompt has ")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ([], 2, "error: nothing to measure: give --task, --text or --against\n"),
        (["--task", "nope.jsonl"], 1, "error: nope.jsonl cannot be read: No such file or directory\n"),
        (["--text", "nope.txt"], 1, "error: nope.txt cannot be read: No such file or directory\n"),
        (["--task", "home", "--against", "nope"], 1, "error: checkpoint nope does not exist\n"),
        (["--task", "home", "--limit", "0"], 1, "error: limit must be at least 1, not 0\n"),
    ],
)
def test_wrong_options(edgelm, tiny_bundle, options, code, said):
    ended = edgelm("eval", tiny_bundle.path, *options)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(said)


def test_texts_that_cannot_be_measured(edgelm, tiny_bundle, tmp_path):
    (tmp_path / "short").write_text("hello")
    ended = edgelm("eval", tiny_bundle.path, "--text", tmp_path / "short")
    assert ended.err.startswith("error: the text has 5 tokens, perplexity needs 128 or more\nhint: ")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    ended = edgelm("eval", tiny_bundle.path, "--text", tmp_path / "latin")
    assert "latin is not valid UTF-8: byte 3\nhint: " in ended.err


def test_a_model_without_a_template(edgelm, tiny_checkpoint, tmp_path):
    edgelm("export", tiny_checkpoint(chat_template=None), "--target", "x86-64", "-o", tmp_path / "b")
    ended = edgelm("eval", tmp_path / "b", "--task", "home")
    assert ended.code == 1
    assert ended.err.startswith("error: this model has no chat template, so it cannot do a task of messages\nhint: ")


def test_against_itself(edgelm, tiny_bundle, text):
    out = edgelm("eval", tiny_bundle.path, "--against", tiny_bundle.path, "--text", text, "--chunk", 64).out
    head, *rows = out.splitlines()
    assert head.endswith("(fp32), 248 tokens of text.txt")
    assert ["KLD,", "mean", "0.00000", "0.00000"] in [row.split() for row in rows]
    assert ["top-1", "agreement", "100.00%", "0.00%"] in [row.split() for row in rows]


def test_against_its_checkpoint_and_kept(edgelm, tiny_checkpoint, text, tmp_path):
    checkpoint = tiny_checkpoint()
    made = edgelm("export", checkpoint, "--target", "x86-64", "--quant", "int4", "-o", tmp_path / "b", "--card", "none")
    assert made.code == 0
    ended = edgelm("eval", tmp_path / "b", "--against", checkpoint, "--text", text, "--save", "--json")
    card = json.loads(ended.out)["against"]
    assert card["kld"]["mean"] > 0
    assert (card["base"]["quant"], card["text"]["name"]) == ("fp32", "text.txt")
    shown = edgelm("inspect", tmp_path / "b")
    assert (shown.code, shown.err) == (0, "")
    assert "KLD, mean" in shown.out
    assert json.loads(edgelm("inspect", tmp_path / "b", "--json").out)["quality"] == card
    assert edgelm("verify", tmp_path / "b").code == 0


def test_the_builtin_text_is_taken_where_none_is_named(edgelm, tiny_bundle):
    ended = edgelm("eval", tiny_bundle.path, "--against", tiny_bundle.path, "--chunks", 1, "--json")
    assert json.loads(ended.out)["against"]["text"]["name"] == "builtin"


def test_save_without_against(edgelm, tiny_bundle, text):
    ended = edgelm("eval", tiny_bundle.path, "--text", text, "--save")
    assert ended.code == 2
    assert ended.err.startswith("error: --save keeps a comparison: give --against\n")


@pytest.fixture(scope="module")
def rounded(tiny_checkpoint, tmp_path_factory):
    """The bundle of `tiny_bundle`'s checkpoint in 4 bits."""
    from edgelm.exporter.pipeline import export

    return export(tiny_checkpoint(), "x86-64", "int4", output=tmp_path_factory.mktemp("int4") / "b", card="none")


@pytest.fixture
def choices(tmp_path):
    path = tmp_path / "choices.jsonl"
    pairs = ["".join(chr(97 + (n * k + k) % 26) for k in (3, 7, 11)) for n in range(40)]
    lines = [
        {"prompt": "word", "choices": pairs[n : n + 3], "answer": n % 3, "kind": ("even", "odd")[n % 2]}
        for n in range(36)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_a_task_beside_the_original(edgelm, tiny_bundle, rounded, choices):
    ended = edgelm("eval", rounded.path, "--against", tiny_bundle.path, "--task", choices, "--show-errors", 1)
    assert (ended.code, ended.err) == (0, "")
    head, all_, norm, *groups = (line.split() for line in ended.out.split("\n\n")[0].splitlines())
    assert head == ["fp32", "int4", "difference", "±", "95", "%", "interval", "changed", "of"]
    assert (all_[:2], norm[0], all_[-1]) == (["all", "acc"], "acc_norm", "36")
    assert [group[:3] for group in groups[:2]] == [["kind", "even", "acc"], ["kind", "odd", "acc"]]
    facts = json.loads(
        edgelm(
            "eval", rounded.path, "--against", tiny_bundle.path, "--task", choices, "--json", "--show-errors", 99
        ).out
    )
    assert "against" not in facts, "the text is measured where it is asked for"
    task = facts["task"]
    assert (task["format"], task["total"], task["base"]["quant"]) == ("multiple choice", 36, "fp32")
    assert task["changed"] == len(task["changes"]) > 0
    acc = task["metrics"]["acc"]
    assert acc["difference"]["value"] == pytest.approx(acc["quantised"]["value"] - acc["base"]["value"])
    assert acc["base"]["value"] - acc["quantised"]["value"] == pytest.approx((task["lost"] - task["gained"]) / 36)
    for path, side in ((tiny_bundle.path, "base"), (rounded.path, "quantised")):
        alone = json.loads(edgelm("eval", path, "--task", choices, "--json").out)["task"]
        assert alone["metrics"]["acc"] == acc[side]


def test_a_task_and_a_text_beside_the_checkpoint(edgelm, tiny_checkpoint, rounded, choices, text):
    checkpoint = tiny_checkpoint()
    ended = edgelm(
        "eval", rounded.path, "--against", checkpoint, "--task", choices, "--text", text, "--limit", 4, "--seed", 3,
        "--json",
    )  # fmt: skip
    facts = json.loads(ended.out)
    assert (facts["task"]["total"], facts["task"]["seed"]) == (4, 3)
    assert facts["against"]["kld"]["mean"] > 0
    out = edgelm("eval", rounded.path, "--against", checkpoint, "--task", choices, "--text", text).out
    assert "answers changed" in out
    assert "KLD, mean" in out


def test_crows_pairs(edgelm, tiny_bundle, rounded, tmp_path):
    path = tmp_path / "pairs.csv"
    rows = [f"{n},The {n} is.,A {n} was.,stereo,{'age' if n % 2 else 'gender'}" for n in range(10)]
    path.write_text("\n".join([",sent_more,sent_less,stereo_antistereo,bias_type", *rows]))
    ended = edgelm("eval", rounded.path, "--against", tiny_bundle.path, "--task", path)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[1].split()[:2] == ["all", "pct_stereotype"]
    assert [line.split()[1] for line in lines if line.startswith("bias_type")] == ["age", "gender"]
    assert "50 % is no preference" in lines[-1]


def test_against_nothing_there(edgelm, tiny_bundle, tmp_path):
    ended = edgelm("eval", tiny_bundle.path, "--against", tmp_path / "nope")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: checkpoint ")
