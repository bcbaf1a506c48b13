"""manifest.json is read whole or refused with its key; what was read is written back byte by byte."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manifests import manifest

import edgelm
from edgelm.bundle.json_table import parse_json
from edgelm.bundle.manifest import MANIFEST, MOST_FILES, Manifest
from edgelm.bundle.reader import Bundle
from edgelm.bundle.seal import expect_whole
from edgelm.bundle.writer import json_text, writing
from edgelm.errors import BundleError
from edgelm.runtime.engine import Engine

# Exported with --quant auto --kv int8 --prefill int8 --lora-ready --trim-vocab en --calibrate builtin --card builtin from
# a llama of two layers with random weights, by the first edgelm that wrote format 1 with all of these.
FROZEN = Path(__file__).parents[1] / "frozen" / "format1"
LOGITS = [1.0563, -0.0790, 0.0331, -1.2787, 0.4894, -1.1396, -2.3428, 0.0838]


@pytest.fixture
def facts() -> dict[str, Any]:
    """Of the frozen bundle, with every key that there is."""
    found: dict[str, Any] = json.loads((FROZEN / MANIFEST).read_text())
    return found


def test_a_frozen_bundle_of_format_1_opens_and_verifies() -> None:
    bundle = Bundle.open(FROZEN)
    assert bundle.verify() == []
    assert (bundle.manifest.format, bundle.manifest.quant, bundle.context) == (1, "auto", 96)
    assert bundle.manifest.model.licence == "mit"
    assert bundle.manifest.recipe.matrices is not None
    assert bundle.manifest.recipe.matrices["model.layers.0.mlp.down_proj"].shape == (32, 64)
    assert bundle.manifest.recipe.operators == {"MatMulNBits", "GroupQueryAttention", "DynamicQuantizeMatMul"}
    assert bundle.quality is not None
    assert bundle.lora is not None


def test_a_frozen_bundle_of_format_1_runs() -> None:
    engine = Engine.load(Bundle.open(FROZEN), threads=1, weight_cache=False)
    logits = engine.forward([1, 40, 41, 42, 43, 44])[0]
    np.testing.assert_allclose(logits[:8], LOGITS, atol=0.3)  # int8 products differ a little between processors
    with edgelm.load(FROZEN, threads=1) as lm:
        assert len(lm.generate("lamp", max_tokens=8, temperature=0.0, raw=True).tokens) == 8


def test_what_was_read_is_written_back(facts: dict[str, Any]) -> None:
    text = (FROZEN / MANIFEST).read_text()
    assert json_text(Manifest.read(FROZEN / MANIFEST).to_dict()) == text
    optional = {"calibration", "kv_calibration", "mixed", "vocabulary"}
    assert optional < set(facts), "the frozen bundle has all keys"


def test_keys_of_a_newer_edgelm_are_kept(facts: dict[str, Any]) -> None:
    new: dict[str, Any] = {"nested": [1, {"x": None}]}
    for part in (facts, facts["graph"], facts["recipe"], facts["recipe"]["head"], facts["files"]["model.onnx"]):
        part["of_tomorrow"] = new
    read = Manifest.from_dict(facts, Path(MANIFEST))
    assert read.to_dict() == facts
    assert replace(read, provider="cuda").to_dict() == {**facts, "provider": "cuda"}


def test_the_first_manifests_of_format_1_load() -> None:
    """They had no threads of a target, no packed bytes, no heads."""
    old = manifest().to_dict()
    for part, key in (("memory", "packed_bytes"), ("graph", "heads"), ("model", "revision"), ("model", "quantized")):
        del old[part][key]
    for key in ("threads", "provider", "minimum_runtime"):
        del old[key]
    found = Manifest.from_dict(old, Path(MANIFEST))
    assert found.memory.packed_bytes == found.memory.weights_bytes == 1000
    assert (found.provider, found.threads.decode, found.graph.heads) == ("cpu", None, None)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every key and item inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from leaves(item, (*path, key))


def put(facts: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(facts))
    part: Any = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return changed


ODD = [None, True, -1, 0, 1.5, 1e400, float("nan"), 10**30, "x", "\0", [], [None], {}, {"a": []}]


def refusal(facts: dict[str, Any]) -> str | None:
    """What is said of a manifest; None for one that is read, and can be written back."""
    try:
        json.dumps(Manifest.from_dict(facts, Path(MANIFEST)).to_dict())
    except BundleError as error:
        return str(error)
    return None


def test_every_value_of_another_type_is_refused_with_its_key_or_harmless(facts: dict[str, Any]) -> None:
    """Whatever stands anywhere: a BundleError of one line, or a manifest that is read and written back."""
    found = {(path, i): refusal(put(facts, path, odd)) for path in leaves(facts) for i, odd in enumerate(ODD)}
    refused = {case: said for case, said in found.items() if said is not None}
    assert len(refused) > 1000
    for (path, _), said in refused.items():
        assert "\n" not in said
        assert f"'{path[0]}" in said or path == ("format",), (path, said)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("context",), 0, "key 'context' must be a whole number from 1 to 2147483647, not 0"),
        (("context",), 10**30, "not a number of 100 bits"),
        (("graph", "layers"), "3", "key 'graph.layers' must be a whole number from 1 to 2147483647, not '3'"),
        (("graph", "cache"), "split", "key 'graph.cache' must be one of shared, growing, not 'split'"),
        (("graph", "tied"), 1, "key 'graph.tied' must be true or false, not 1"),
        (
            ("recipe", "body", "bits"),
            float("nan"),
            "key 'recipe.body.bits' must be a whole number from 1 to 64, not nan",
        ),
        (("recipe", "matrices", "lm_head"), 5, "key 'recipe.matrices.lm_head' must be an object, not 5"),
        (("special_tokens", "eos"), [2, -1], "key 'special_tokens.eos' must be a list of whole numbers"),
        (("memory", "total_bytes"), 2.5, "key 'memory.total_bytes' must be a whole number"),
        (("mixed", "sensitivity", "lm_head"), float("inf"), "key 'mixed.sensitivity.lm_head' must be a finite number"),
        (("model", "sources", "config.json"), None, "key 'model.sources.config.json' must be a string, not None"),
        (("vocabulary", "texts"), [1], "key 'vocabulary.texts' must be a list of objects, not a list of 1"),
        (("target",), "a\0b", "key 'target' must be a string, not 'a\\x00b'"),
        (("files", "a\0b"), {"bytes": 1, "sha256": ""}, "names 'a\\x00b', which is not a file of the bundle"),
        (("files", "model.onnx", "bytes"), True, "key 'files.model.onnx.bytes' must be a whole number"),
    ],
)
def test_what_is_wrong_is_named(facts: dict[str, Any], path: tuple[str, ...], value: Any, said: str) -> None:
    with pytest.raises(BundleError) as raised:
        Manifest.from_dict(put(facts, path, value), Path(MANIFEST))
    assert said in str(raised.value)


def test_so_many_files_are_no_bundle(facts: dict[str, Any]) -> None:
    facts["files"] |= {f"f{i}": {"bytes": 0, "sha256": ""} for i in range(MOST_FILES)}
    with pytest.raises(BundleError, match=r"lists 10,0\d\d files"):
        Manifest.from_dict(facts, Path(MANIFEST))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"model": "\xff"}', "is not valid JSON"),
        (b'{"model": "\\ud800"}', "is not valid JSON"),
        (b'{"format": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b" " * (17 << 20), "larger than 16 MiB"),
    ],
)
def test_hostile_json_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    folder = shutil.copytree(FROZEN, tmp_path / "bundle")
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=said) as raised:
        Bundle.open(folder)
    assert "\n" not in str(raised.value)


# --- its checksum of itself


def test_every_flipped_bit_of_a_manifest_is_seen(tmp_path: Path) -> None:
    with writing(tmp_path / "b") as writer:
        for name in ("model.onnx", "tokenizer.json"):
            writer.write_text(name, name)
        bundle = writer.commit(manifest())
    path = bundle.path / MANIFEST
    whole = path.read_bytes()
    assert Bundle.open(bundle.path).manifest == bundle.manifest
    assert json.loads(whole)["sha256"] == bundle.manifest.sha256
    passed = []
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = parse_json(bytes(data), path)
            expect_whole(bytes(data), found, path)
        except BundleError:
            continue
        passed.append(bit)
    assert passed == []


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"context": 64', '"context": 9024'),
        lambda text: json.dumps(json.loads(text)),
        lambda text: text.replace('  "sha256": "', '  "sha512": "'),
        lambda text: text.replace("\n}\n", ',\n  "x": "y"\n}\n'),
        lambda text: text.replace("\n", "\r\n"),
    ],
)
def test_a_changed_manifest_is_told_when_it_is_opened(tmp_path: Path, change: Callable[[str], str]) -> None:
    with writing(tmp_path / "b") as writer:
        for name in ("model.onnx", "tokenizer.json"):
            writer.write_text(name, name)
        writer.commit(manifest())
    path = tmp_path / "b" / MANIFEST
    path.write_bytes(change(path.read_text()).encode())
    with pytest.raises(BundleError, match=r"manifest\.json was changed: SHA-256"):
        Bundle.open(tmp_path / "b", check=False)


def test_caches_go_by_the_manifest_too(tmp_path: Path) -> None:
    digests = set()
    for context in (64, 32):
        with writing(tmp_path / str(context)) as writer:
            for name in ("model.onnx", "tokenizer.json"):
                writer.write_text(name, name)
            digests.add(writer.commit(manifest(context=context)).digest)
    assert len(digests) == 2
    before = Bundle.open(FROZEN)  # without a checksum: what was cached for it is still good
    hashes = {name: entry.sha256 for name, entry in before.files.items()}
    assert before.digest == hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


# --- the JSON files beside it


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("quality.json", ("kld", "mean"), None),
        ("quality.json", ("same_top",), []),
        ("quality.json", ("text", "sha256"), 5),
        ("quality.json", ("matrices",), None),
        ("quality.json", ("rms_delta_p",), "x"),
        ("lora.json", ("base",), None),
        ("lora.json", ("places",), {}),
        ("lora.json", ("activations",), "int4"),
    ],
)
def test_quality_and_places_of_wrong_types_are_named(
    tmp_path: Path, name: str, key: tuple[str, ...], value: Any
) -> None:
    folder = shutil.copytree(FROZEN, tmp_path / "b")
    (folder / name).write_text(json.dumps(put(json.loads((FROZEN / name).read_text()), key, value)))
    bundle = Bundle.open(folder, check=False)
    with pytest.raises(BundleError, match=rf"{name}: key '{'.'.join(key)}' must be"):
        _ = bundle.quality if name == "quality.json" else bundle.lora
