"""The table of models by name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edgelm import demo
from edgelm.bundle.reader import Bundle
from edgelm.catalogue.models import BOARDS, Model, find, models, names
from edgelm.catalogue.store import Store, mirrored, stem
from edgelm.exporter import families
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.pipeline import export
from edgelm.exporter.plan.estimate import of_model
from edgelm.target.target import load_target, target_names

MODELS = {model.name: model for model in models()}


@pytest.mark.parametrize("name", MODELS)
def test_a_shape_gives_the_parameters_of_its_model_card(name: str) -> None:
    model = MODELS[name]
    path = demo.path() / "config.json" if model.embedded else Path(model.id)
    shape = json.loads(path.read_text()) if model.embedded else dict(model.shape)
    assert families.describe(Config(shape, path)).parameters == model.parameters


def test_names_and_ids_are_what_they_should_be() -> None:
    assert len(MODELS) == len(models()) >= 20
    assert [m.parameters for m in models()] == sorted(m.parameters for m in models())
    for model in models():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", model.name)
        assert model.embedded or re.fullmatch(r"[\w.-]+/[\w.-]+", model.id)
        assert len(model.about) <= 21
        assert model.licence


def test_a_model_is_found_by_name_and_by_id() -> None:
    model = find("SmolLM2-135M")
    assert model is not None
    assert find("huggingfacetb/smollm2-135m-instruct") is model
    assert find("nobody") is None
    assert "edgelm-home" in names()


def test_every_model_has_figures_for_every_target() -> None:
    for model in models():
        assert all(model.expected(target) is not None for target in target_names())
        assert model.smallest in BOARDS
    assert MODELS["smollm2-135m"].expected("nonsense") is None


@pytest.mark.parametrize(("name", "target"), [("smollm2-135m", "rpi5"), ("edgelm-home", "rpi4")])
def test_figures_are_those_of_estimate(name: str, target: str) -> None:
    found, expected = of_model(name, load_target(target)), MODELS[name].expected(target)
    assert expected is not None, "python tools/catalogue_figures.py --write"
    assert (expected.quant, expected.context, expected.fits) == (found.quant, found.context, found.fits)
    assert expected.decode == pytest.approx(found.forecast.decode[0].tokens_per_second, rel=0.05)
    assert expected.memory == pytest.approx(found.memory["total_bytes"], rel=0.05)


def test_an_estimate_by_name_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert of_model("qwen3-0.6b", load_target("rpi5")).model == "qwen3-0.6b"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("edgelm-home", "rpi5", output=tmp_path_factory.mktemp("home") / "bundle").path


def put(store: Store, bundle: Path, name: str) -> None:
    store.folder.mkdir(exist_ok=True)
    os.symlink(bundle, store.folder / name)


def test_a_bundle_by_its_name_or_its_models(store: Store, home: Path) -> None:
    assert list(store.bundles()) == []
    put(store, home, "edgelm-home-rpi5-int4")
    put(store, home, "edgelm-home-rpi5-other")
    found = store.find("edgelm-home-rpi5-int4")
    assert found is not None
    assert found.bundle.manifest.model.id == "edgelm-home"
    assert store.find("edgelm-home") is None  # for which target?
    by_model = store.find("edgelm-home", "rpi5", "int4")
    assert by_model is not None
    assert by_model.name == "edgelm-home-rpi5-int4"
    assert store.find("edgelm-home", "rpi4") is None
    assert store.find("edgelm", "rpi5") is None


def test_what_is_no_bundle_is_passed_over(store: Store) -> None:
    (store.folder / "broken").mkdir(parents=True)
    (store.folder / "broken" / "manifest.json").write_text("{")
    assert list(store.bundles()) == []


def test_removing_takes_the_folder(store: Store) -> None:
    folder = store.folder / "one"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"1234")
    assert store.remove("one") == 4
    assert list(store.folder.iterdir()) == []


def test_stems_tell_owners_apart() -> None:
    assert stem("HuggingFaceTB/SmolLM2-135M-Instruct") == "smollm2-135m"
    assert stem("one/model") != stem("two/model")


def test_a_copy_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    id = "owner/Name-1B"
    assert mirrored(id) is None
    monkeypatch.setenv("EDGELM_MIRROR", str(tmp_path))
    assert mirrored(id) is None
    (tmp_path / "Name-1B.Q4_0.gguf").write_bytes(b"GGUF")
    (tmp_path / "name-1b-q8_0.gguf").write_bytes(b"GGUF, larger")
    (tmp_path / "Name-1B2.gguf").write_bytes(b"GGUF of another model, the largest")
    assert mirrored(id) == tmp_path / "name-1b-q8_0.gguf"
    for place in (tmp_path / "Name-1B", tmp_path / id):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
        assert mirrored(id) == place


def test_an_export_takes_names(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGELM_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()
    os.symlink(tiny_checkpoint(num_hidden_layers=1), tmp_path / "mirror" / "SmolLM2-135M-Instruct")
    bundle: Bundle = export("smollm2-135m", "rpi5")
    assert bundle.path == Path("bundles/smollm2-135m-rpi5-int4")
    assert bundle.manifest.model.id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert export("edgelm-home", "rpi5", "fp16").path == Path("bundles/edgelm-home-rpi5-fp16")


def test_models_are_values() -> None:
    one = MODELS["olmo-2-1b"]
    assert one == Model(**{field: getattr(one, field) for field in one.__dataclass_fields__})
