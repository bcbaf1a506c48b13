"""``edgelm export`` of several models."""

from __future__ import annotations

import json

import pytest

from edgelm.bundle.reader import Bundle


@pytest.fixture(scope="module")
def models(tiny_checkpoint, tmp_path_factory):
    """Two checkpoints in folders with names of their own."""
    folder = tmp_path_factory.mktemp("models")
    return [str(tiny_checkpoint(seed=seed).rename(folder / name)) for seed, name in ((3, "one"), (4, "two"))]


def test_each_becomes_a_bundle_in_a_folder(edgelm, models, tmp_path):
    ended = edgelm("export", *models, "--target", "rpi5", "--quant", "int8", "-o", tmp_path / "all", "--json")
    assert ended.code == 0, ended.err
    facts = json.loads(ended.out)
    assert [(one["model"], one["path"]) for one in facts["bundles"]] == [
        (model, str(tmp_path / "all" / f"{name}-rpi5-int8")) for model, name in zip(models, ("one", "two"), strict=True)
    ]
    assert facts["failed"] == {}
    alone = edgelm("export", models[0], "--target", "rpi5", "--quant", "int8", "-o", tmp_path / "alone")
    assert alone.code == 0
    assert Bundle.open(tmp_path / "alone").digest == Bundle.open(tmp_path / "all" / "one-rpi5-int8").digest


def test_one_that_cannot_be_exported_holds_the_others_not_up(edgelm, models, tmp_path):
    ended = edgelm("export", tmp_path / "none", models[1], "--target", "rpi5", "-o", tmp_path / "all")
    assert ended.code == 1
    assert f"error: 1 of 2 models: {tmp_path / 'none'}: " in ended.err
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["two-rpi5-int4"]
    assert "two-rpi5-int4" in ended.out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("MODEL",), "would both become"),
        (("OTHER", "--revision", "main"), "--revision goes with one model alone"),
        (("OTHER", "--adapter-only", "--base", "x"), "--adapter-only takes one adapter"),
        (("--scheduler", "tcp://127.0.0.1:1"), "the scheduler tcp://127.0.0.1:1 does not answer"),
    ],
)
def test_what_is_refused(edgelm, models, tmp_path, more, said):
    named = [{"MODEL": models[0], "OTHER": models[1]}.get(word, word) for word in more]
    ended = edgelm("export", models[0], *named, "--target", "rpi5", "-o", tmp_path / "all")
    assert ended.code in (1, 2)
    assert said in ended.err
    assert not (tmp_path / "all").exists()
