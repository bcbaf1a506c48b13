"""``edgelm sweep``."""

from __future__ import annotations

import json
import tempfile
from xml.etree import ElementTree

import pytest

from edgelm.bundle.reader import Bundle
from edgelm.evaluate.card import compare
from edgelm.evaluate.passages import load_passages
from edgelm.sweep import measure

NAMES = ["fp32", "int8", "int4-b32-nearest", "int4-b32-search"]
SOME = [option for name in NAMES[1:] for option in ("--recipe", name)]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return tiny_checkpoint(seed=1)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog " * 12)
    return path


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Where records and temporary bundles lie, so that a test sees what is left of them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture
def arguments(checkpoint, text):
    return ["sweep", checkpoint, "--target", "rpi5", "--text", text, *SOME]


def left(places, folder):
    return [path for path in (places / folder).rglob("*") if path.is_file()]


def test_a_table(edgelm, arguments, places):
    ended = edgelm(*arguments, "--plot", places / "plot.svg")
    assert ended.code == 0
    head, *rows = (line.split() for line in ended.out.splitlines()[2:-2])
    assert head == ["recipe", "size", "KLD", "±", "top-1", "perplexity", "memory", "fits"]
    assert [[word for word in row if word in NAMES] for row in rows] == [[name] for name in NAMES]
    assert rows[0][0] == "*", "nothing is nearer to fp32 than itself"
    assert left(places, "tmp") == left(places, "cache") == [], "nothing is left behind"
    drawn = [element.text for element in ElementTree.parse(places / "plot.svg").iter() if element.text]
    assert set(NAMES[1:]) <= set(drawn)


def test_bundles_that_are_kept(edgelm, arguments, text, tmp_path):
    facts = json.loads(edgelm(*arguments, "-o", tmp_path / "kept", "--json").out)
    assert [row["name"] for row in facts["rows"]] == NAMES
    assert facts["failed"] == {}
    base, passages = Bundle.open(tmp_path / "kept" / "fp32"), load_passages(text, "evaluation")
    for row in facts["rows"]:
        bundle = Bundle.open(row["path"])
        found = compare(base, bundle, passages, chunks=16)
        assert bundle.size == row["bytes"]
        assert (row["kld"], row["perplexity"], row["same_top"]) == pytest.approx(
            (found.mean, found.quantised.value, found.same_top), rel=1e-6, abs=1e-9
        )
    recipes = {name: Bundle.open(tmp_path / "kept" / name).manifest.recipe.body.spec for name in NAMES}
    assert recipes["int4-b32-nearest"].rounding == "nearest"
    assert recipes["int4-b32-search"].rounding is None
    frontier = {row["name"]: row for row in facts["rows"] if row["frontier"]}
    for row in facts["rows"]:
        if row["name"] not in frontier:
            assert any(best["bytes"] <= row["bytes"] and best["kld"] <= row["kld"] for best in frontier.values())


@pytest.mark.parametrize("keep", [True, False])
def test_an_interrupted_sweep_goes_on(edgelm, arguments, places, monkeypatch, keep):
    whole = json.loads(edgelm(*arguments, "--json").out)["rows"]
    if keep:
        arguments = [*arguments, "-o", places / "kept"]
    made, inner = [], measure.compare

    def interrupted(base, bundle, *args, **options):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(bundle.path.name)
        return inner(base, bundle, *args, **options)

    monkeypatch.setattr(measure, "compare", interrupted)
    ended = edgelm(*arguments)
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.splitlines()[-1] == "note: 2 of 4 recipes are measured; the same command goes on from there"
    assert left(places, "tmp") == []
    made.append("done")
    monkeypatch.setattr(
        measure, "compare", lambda base, bundle, *a, **o: made.append(bundle.path.name) or inner(base, bundle, *a, **o)
    )
    ended = edgelm(*arguments, "--json")
    assert ended.err.startswith("note: 2 of 4 recipes were measured by an earlier sweep\n")
    assert made == ["int8", "done", *NAMES[2:]], "what was measured is not measured again"
    again = [{key: value for key, value in row.items() if key != "path"} for row in json.loads(ended.out)["rows"]]
    assert again == whole
    if keep:
        made.clear()
        assert edgelm(*arguments).code == 0
        assert made == [], "all is there"
    else:
        assert left(places, "cache") == []


def test_a_folder_of_another_sweep(edgelm, arguments, places):
    assert edgelm(*arguments[:-4], "-o", places / "kept").code == 0
    ended = edgelm(*arguments[:-4], "-o", places / "kept", "--chunks", 1)
    assert (ended.code, ended.out) == (1, "")
    assert "is of a sweep with another text\nhint: " in ended.err
    assert edgelm(*arguments[:-4], "-o", places / "kept", "--chunks", 1, "--overwrite").code == 0
    (places / "mine").mkdir()
    (places / "mine" / "notes.txt").touch()
    ended = edgelm(*arguments, "-o", places / "mine")
    assert (ended.code, ended.err.splitlines()[0]) == (1, f"error: {places / 'mine'} is there already and no sweep")


def test_a_recipe_that_fails_does_not_end_the_sweep(edgelm, arguments, monkeypatch):
    from edgelm.errors import ExportError

    inner = measure.export

    def export(model, target, quant, **options):
        if quant == "int8":
            raise ExportError("no int8 today")
        return inner(model, target, quant, **options)

    monkeypatch.setattr(measure, "export", export)
    ended = edgelm(*arguments)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "not measured: int8: no int8 today"
    ended = edgelm(*arguments[:-4])
    assert (ended.code, ended.err.splitlines()[-1]) == (1, "error: no int8 today")


def test_a_task(edgelm, arguments, tmp_path):
    task = tmp_path / "task.jsonl"
    lines = [{"prompt": "word", "choices": [f"{n}", "ab"], "answer": 0} for n in range(6)]
    task.write_text("\n".join(map(json.dumps, lines)))
    facts = json.loads(edgelm(*arguments[:-4], "--task", task, "--limit", 4, "--json").out)
    assert facts["task"]["limit"] == 4
    assert all(0 <= row["score"] <= 1 for row in facts["rows"])
    assert " acc " in edgelm(*arguments[:-4], "--task", task).out


def test_calibrated_recipes(edgelm, checkpoint, text):
    options = ["--target", "rpi5", "--text", text, "--recipe", "int4-b32-gptq", "--recipe", "int8-smooth", "--json"]
    ended = edgelm("sweep", checkpoint, *options)
    assert [row["name"] for row in json.loads(ended.out)["rows"]] == ["fp32", "int8-smooth", "int4-b32-gptq"]
    ended = edgelm("sweep", checkpoint, *options, "--calibrate", text)
    assert "warning: the text is the one that is calibrated on" in ended.err


def test_the_embedded_model(edgelm):
    ended = edgelm(
        "sweep", "--target", "x86-64", "--recipe", "int8", "--chunks", 1, "--task", "home", "--limit", 2, "--json"
    )
    facts = json.loads(ended.out)
    assert facts["model"]["id"] == "edgelm-home"
    assert facts["text"]["name"] == "home-second-half.jsonl"
    assert facts["rows"][1]["kld"] < 0.01


def test_the_recipes_names(edgelm):
    assert edgelm("sweep", "--target", "rpi4", "--list").out.splitlines()[:4] == [
        "fp32",
        "int8",
        "int8-smooth",
        "int4-b32-nearest",
    ]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ([], 2, "error: --target is missing"),
        (["--target", "rpi5", "--recipe", "int5"], 1, "error: no recipe 'int5' to try\nhint: "),
        (["--target", "rpi5", "--plot", "x.png"], 1, "error: --plot draws SVG, not .png\nhint: --plot x.svg"),
        (["--target", "rpi5", "--plot", ""], 1, "error: --plot draws SVG, not .\nhint: --plot FILE.svg"),
        (["--target", "rpi5", "--plot", "/"], 1, "error: --plot draws SVG, not /\nhint: --plot FILE.svg"),
        (["--target", "rpi5", "--plot", "nope/x.svg"], 1, "error: cannot write nope/x.svg: "),
        (["--target", "rpi5", "--chunks", "0"], 1, "error: chunks must be at least 1, not 0"),
        (["--target", "rpi5", "--text", "nope.txt"], 1, "error: nope.txt cannot be read"),
        (["nope", "--target", "rpi5"], 1, "error: checkpoint nope does not exist"),
    ],
)
def test_wrong_options(edgelm, options, code, said):
    ended = edgelm("sweep", *options)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(said)


STAGES = {
    "before the export in fp32": ("export", "fp32"),
    "before the first figures": ("_perplexity", "fp32"),
    "before the second export": ("export", "int8"),
    "while the second is compared": ("compare", "int8"),
    "before the last": ("export", "int4-b32-search"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_it_goes_on_wherever_it_was_interrupted(edgelm, arguments, places, monkeypatch, stage):
    name, candidate = STAGES[stage]
    owner = measure.Sweep if name.startswith("_") else measure
    inner = getattr(owner, name)

    def interrupted(*args, **options):
        paths = [options.get("output"), *(getattr(arg, "path", None) for arg in args)]
        if any(path is not None and path.name == candidate for path in paths):
            raise KeyboardInterrupt
        return inner(*args, **options)

    command = [*arguments, "-o", places / "kept"]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        assert edgelm(*command).code == 130
    ended = edgelm(*command, "--json")
    assert ended.code == 0
    assert [row["name"] for row in json.loads(ended.out)["rows"]] == NAMES


def test_a_folder_with_what_a_killed_process_left(edgelm, arguments, places):
    (places / "kept" / ".fp32.partial-1").mkdir(parents=True)
    assert edgelm(*arguments, "-o", places / "kept").code == 0


def test_a_sweep_that_fails_at_once_leaves_nothing(edgelm, arguments, places, monkeypatch):
    from edgelm.errors import ExportError

    def fails(*args, **options):
        raise ExportError("no")

    monkeypatch.setattr(measure, "export", fails)
    assert edgelm(*arguments, "-o", places / "kept").code == 1
    assert not (places / "kept").exists()
