"""Packed weights in the cache change nothing but memory, and nothing that happens to the cache is an error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgelm
from edgelm.bundle.manifest import Threads
from edgelm.bundle.reader import DATA, PREFILL_DATA, Bundle
from edgelm.errors import OptionError
from edgelm.exporter.pipeline import export
from edgelm.machine.host import read_cpu
from edgelm.runtime.engine import Engine
from edgelm.runtime.ort import onnxfile, packing, prepared, weightcache
from edgelm.runtime.ort.onnxfile import Graph, encode, parse
from edgelm.runtime.ort.weightcache import Entry, WeightCache, entry_key
from edgelm.target.fallback import exact_int8

LFM2 = {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False, "norm_eps": 1e-5}
HYBRID = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "head_dim": 16,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "num_experts": 0,
}
IDS = np.random.default_rng(0).integers(3, 300, 100)
SMALL = "from edgelm.runtime.ort import packing, weightcache; packing._SMALL = weightcache.SMALLEST = 0\n"


@pytest.fixture(autouse=True)
def small_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weightcache, "SMALLEST", 0)
    monkeypatch.setattr(packing, "_SMALL", 0)


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache" / "weights")


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(tiny_checkpoint(), "x86-64", "int4", output=tmp_path_factory.mktemp("weights") / "bundle")


def logits(engine: Engine) -> np.ndarray:
    """Of a prompt, of a few tokens at once, and of single ones."""
    rows = [engine.forward(IDS[:80], 80).copy(), engine.forward(IDS[80:84], 4).copy()]
    return np.concatenate([*rows, *(engine.forward([token]).copy() for token in IDS[84:])])


def plain(bundle: Bundle) -> np.ndarray:
    return logits(Engine.load(bundle, threads=1, weight_cache=False))


def load(bundle: Bundle, cache: WeightCache, **options: Any) -> Engine:
    return Engine.load(bundle, **{"threads": 1, "weight_cache": cache} | options)


def only(cache: WeightCache) -> Entry:
    (entry,) = cache.entries()
    return entry


@pytest.mark.parametrize(("target", "step"), [("x86-64", 64), ("rpi5", 64)])
def test_large_products_are_packed_in_slices_and_give_the_same(
    target: str,
    step: int,
    tiny_checkpoint: Callable[..., Path],
    cache: WeightCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = export(tiny_checkpoint(), target, "int4", output=tmp_path / "b")
    monkeypatch.setattr(packing, "_LARGE", 4096)
    monkeypatch.setattr(onnxfile, "_STEP", step)
    engine, expected = load(bundle, cache), Engine.load(bundle, threads=1, weight_cache=False)
    graph = onnxfile.Graph((only(cache).folder / packing.GRAPH).read_bytes())
    joins = [node for node in graph.nodes if node.op == "Concat" and "/" in node.inputs[0]]
    assert len(joins) > 1
    assert {name for join in joins for name in join.inputs} <= {node.outputs[0] for node in graph.nodes}
    assert {name for node in graph.nodes for name in node.inputs} >= set(graph.tensors)  # the whole ones are gone
    np.testing.assert_array_equal(engine.forward(IDS[:40], 3), expected.forward(IDS[:40], 3))
    np.testing.assert_array_equal(engine.forward(IDS[40:41]), expected.forward(IDS[40:41]))


def test_after_loading_no_weights_are_resident_that_were_only_read_to_be_compared(
    tiny_checkpoint: Callable[..., Path], cache: WeightCache, tmp_path: Path, resident: Callable[[Path], int]
) -> None:
    bundle = export(tiny_checkpoint(), "x86-64", "int4", output=tmp_path / "b")
    engine, expected = load(bundle, cache), Engine.load(bundle, threads=1, weight_cache=False)
    assert resident(only(cache).folder / packing.PACKED) == resident(bundle.model_path.with_name(DATA)) == 0
    np.testing.assert_array_equal(engine.forward(IDS[:5]), expected.forward(IDS[:5]))


@pytest.mark.skipif(not exact_int8(read_cpu()), reason="prompts are read by int8 matrices where these are exact")
def test_decodes_packed_weights_are_let_go_of_while_a_prompt_is_read(
    tiny_checkpoint: Callable[..., Path], cache: WeightCache, tmp_path: Path, resident: Callable[[Path], int]
) -> None:
    bundle = export(tiny_checkpoint(), "x86-64", "int4", prefill="int8", output=tmp_path / "b")
    engine, expected = load(bundle, cache), Engine.load(bundle, threads=1, weight_cache=False)
    packed = only(cache).folder / packing.PACKED
    for _ in range(2):
        for each in (engine, expected):
            each.reset()
            each.forward(IDS[:60], 0)
        assert resident(packed) == resident(bundle.path / PREFILL_DATA) == 0
        for start, end in ((60, 61), (61, 65), (65, 66)):
            found, wanted = (each.forward(IDS[start:end], end - start) for each in (engine, expected))
            np.testing.assert_array_equal(found, wanted)
        assert resident(packed) > 0


@pytest.mark.parametrize(
    ("kind", "target", "quant", "route"),
    [
        ("llama", "x86-64", "int4", "native"),
        ("llama", "x86-64", "int8", "native"),
        ("llama", "rpi4", "int8", "native"),
        ("llama", "rpi5", "int4", "native"),
        ("llama", "x86-64", "fp32", "native"),
        ("llama", "x86-64", "fp16", "native"),
        ("llama-tied", "x86-64", "int4", "native"),
        ("llama-tied", "x86-64", "fp32", "native"),
        ("lfm2", "x86-64", "int4", "native"),
        ("qwen3_next", "x86-64", "int8", "native"),
        ("llama", "x86-64", "int4", "optimum"),
        ("gpt2", "x86-64", "fp32", "optimum"),
    ],
)
def test_the_same_bits_come_out(
    tiny_checkpoint: Callable[..., Path], cache: WeightCache, tmp_path: Path, kind: str, target: str, quant: str,
    route: str,
) -> None:  # fmt: skip
    shapes: dict[str, dict[str, Any]] = {
        "lfm2": LFM2,
        "qwen3_next": HYBRID,
        "llama-tied": {"tie_word_embeddings": True},
    }
    checkpoint = tiny_checkpoint(kind.partition("-")[0], **shapes.get(kind, {}))
    bundle = export(checkpoint, target, quant, output=tmp_path / "b", exporter=route)
    expected = plain(bundle)
    first = load(bundle, cache)
    assert first.packed == only(cache).folder
    np.testing.assert_array_equal(logits(first), expected)
    again = load(bundle, cache, threads=2, prefill_threads=1)
    assert (again.packed, again.threads, again.prefill_threads) == (first.packed, 2, 1)
    other = Engine.load(bundle, threads=2, prefill_threads=1, weight_cache=False)
    np.testing.assert_array_equal(logits(again), logits(other))


def test_the_packed_weights_are_those_mapped(bundle: Bundle, cache: WeightCache) -> None:
    """What is kept is what kernels use: onnxruntime finds each under its key, and has the file mapped."""
    engine = load(bundle, cache)
    maps = Path("/proc/self/maps").read_text()
    assert str(engine.packed) in maps
    assert str(bundle.path / DATA) in maps
    graph = Graph((only(cache).folder / packing.GRAPH).read_bytes())
    keys = [key for tensor in graph.tensors.values() for key in tensor.external if key.startswith("prepacked_")]
    assert len(keys) == sum(node.op == "MatMulNBits" for node in graph.nodes)


def test_a_later_load_makes_nothing(bundle: Bundle, cache: WeightCache, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    load(bundle, cache, on_bytes=lambda done, total: seen.append((done, total)))
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] > 0
    assert sorted(seen) == seen
    monkeypatch.setattr(prepared, "pack", None)
    assert load(bundle, cache, on_bytes=lambda done, total: pytest.fail("packed again")).packed is not None


def test_a_bundle_and_a_cache_may_move(bundle: Bundle, cache: WeightCache, tmp_path: Path) -> None:
    expected = logits(load(bundle, cache))
    elsewhere = Bundle.open(shutil.copytree(bundle.path, tmp_path / "elsewhere"))
    moved = replace(cache, folder=tmp_path / "moved")
    cache.folder.rename(moved.folder)
    bytes_before = (only(moved).folder / packing.PACKED).stat().st_ino
    engine = load(elsewhere, moved)
    assert engine.packed == only(moved).folder
    assert (engine.packed / packing.PACKED).stat().st_ino == bytes_before
    np.testing.assert_array_equal(logits(engine), expected)


def _truncate(folder: Path) -> None:
    path = folder / packing.PACKED
    path.write_bytes(path.read_bytes()[:-100])


def _flip(name: str, *, keep_time: bool = False) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        found, data = path.stat(), bytearray(path.read_bytes())
        for place in range(64, len(data), 101):
            data[place] ^= 255
        path.write_bytes(data)
        if keep_time:
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    return damage


def _record(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "entry.json").write_text(text) and None


def _swap(folder: Path) -> None:
    data = bytes((folder / packing.PACKED).stat().st_size)
    (folder / packing.PACKED).unlink()
    (folder / packing.PACKED).write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _swap,
        _flip(packing.PACKED),
        _flip(packing.PACKED, keep_time=True),  # which only onnxruntime's comparison notices
        _flip(packing.GRAPH),
        lambda folder: (folder / packing.PACKED).unlink(),
        lambda folder: (folder / packing.GRAPH).unlink(),
        lambda folder: (folder / "entry.json").unlink(),
        _record("not JSON"),
        _record('{"layout": 1, "files": {"packed.bin": {}}}'),
        _record('{"layout": 1, "files": {"packed.bin": 5}}'),
        _record('{"layout": 0, "files": {}}'),
    ],
)
def test_a_damaged_entry_is_made_anew(bundle: Bundle, cache: WeightCache, damage: Callable[[Path], None]) -> None:
    expected = plain(bundle)
    load(bundle, cache)
    damage(only(cache).folder if cache.entries() else next(cache.folder.iterdir()))
    engine = load(bundle, cache)
    np.testing.assert_array_equal(logits(engine), expected)
    assert engine.packed is not None
    assert only(cache).problem() is None


def test_damage_that_keeps_size_and_time_is_found_by_verify(bundle: Bundle, cache: WeightCache) -> None:
    load(bundle, cache)
    _flip(packing.PACKED, keep_time=True)(only(cache).folder)
    assert only(cache).sound()
    assert "checksum" in str(only(cache).problem())


def test_the_key_tells_what_cannot_share(bundle: Bundle, tiny_bundle: Bundle) -> None:
    cpu = read_cpu()
    assert cpu.features
    keys = [
        entry_key(bundle, "1.32.0", cpu),
        entry_key(tiny_bundle, "1.32.0", cpu),
        entry_key(bundle, "1.33.0", cpu),
        entry_key(bundle, "1.32.0", replace(cpu, features=cpu.features - {next(iter(cpu.features))})),
        entry_key(bundle, "1.32.0", replace(cpu, features=None)),
        entry_key(bundle, "1.32.0", replace(cpu, arch="aarch64")),
        entry_key(bundle, "1.32.0", replace(cpu, model="another")),
        entry_key(bundle, "1.32.0", replace(cpu, cores=(replace(cpu.cores[0], name="cortex-a72"),))),
    ]
    assert len(set(keys)) == len(keys)
    assert entry_key(bundle, "1.32.0", replace(cpu, allowed=frozenset((0,)), quota=1.0)) == keys[0]


def test_another_onnxruntime_makes_its_own(bundle: Bundle, cache: WeightCache, monkeypatch: pytest.MonkeyPatch) -> None:
    load(bundle, cache)
    monkeypatch.setattr(prepared, "version", lambda: "9.9.9")
    load(bundle, cache)
    assert {entry.facts["onnxruntime"] for entry in cache.entries()} > {"9.9.9"}


def test_what_onnxruntime_refuses_is_not_tried_for_ever(
    bundle: Bundle, cache: WeightCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("do not match the buffers generated by the current kernel")

    monkeypatch.setattr(prepared, "open_packed", refuse)
    assert load(bundle, cache).packed is None
    assert not only(cache).useful
    monkeypatch.setattr(prepared, "pack", None)
    assert load(bundle, cache).packed is None


def test_a_graph_that_packs_nothing_leaves_a_note(
    bundle: Bundle, cache: WeightCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_SMALL", 1 << 40)
    assert load(bundle, cache).packed is None
    assert not only(cache).useful
    assert [path.name for path in only(cache).folder.iterdir()] == ["entry.json"]


@pytest.mark.parametrize("cause", ["small", "cuda", "unfinished"])
def test_bundles_it_is_not_for(bundle: Bundle, cache: WeightCache, monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    manifest = bundle.manifest
    if cause == "small":
        monkeypatch.setattr(weightcache, "SMALLEST", 1 << 30)
    elif cause == "cuda":
        manifest = replace(manifest, provider="cuda")
    else:
        manifest = replace(manifest, files={n: replace(entry, sha256="") for n, entry in bundle.files.items()})
    assert not weightcache.worth(Bundle(bundle.path, manifest))


def test_no_room_is_no_error(bundle: Bundle, cache: WeightCache, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(bundle, replace(cache, limit=1000)).packed is None
    disk = SimpleNamespace(total=10**12, used=0, free=10**10)
    monkeypatch.setattr(weightcache.shutil, "disk_usage", lambda path: disk)
    assert load(bundle, cache).packed is None
    assert list(cache.folder.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(
    bundle: Bundle, cache: WeightCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing._Out, "write", full)
    assert load(bundle, cache).packed is None
    assert list(cache.folder.iterdir()) == []


def test_ctrl_c_leaves_nothing(bundle: Bundle, cache: WeightCache) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(bundle, cache, on_bytes=interrupt)
    assert list(cache.folder.iterdir()) == []


def test_what_was_killed_is_swept(bundle: Bundle, cache: WeightCache) -> None:
    left = cache.folder / ".partial-x-y"
    left.mkdir(parents=True)
    (left / "packed.bin").write_bytes(b"half")
    os.chmod(cache.folder, 0o700)
    load(bundle, cache)
    assert not left.exists()


def test_a_folder_that_others_may_write_to_is_not_used(bundle: Bundle, cache: WeightCache) -> None:
    cache.folder.mkdir(parents=True)
    os.chmod(cache.folder, 0o777)
    assert load(bundle, cache).packed is None
    assert list(cache.folder.iterdir()) == []


def test_a_cache_that_cannot_be_made(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert load(bundle, WeightCache(tmp_path / "file" / "weights")).packed is None


def test_what_was_unused_for_longest_goes_first(cache: WeightCache) -> None:
    for age, name in enumerate("abc"):
        with cache.making(name, 0) as made:
            assert made is not None
            (made / packing.PACKED).write_bytes(bytes(1000))
            entry = cache.commit(made, name, {}, {packing.PACKED: zlib.crc32(bytes(1000))})
        os.utime(entry.folder / "entry.json", (10**9 - 10**5 * age,) * 2)
    assert [entry.folder.name for entry in cache.entries()] == ["c", "b", "a"]
    assert cache.find("c") is not None  # which counts as a use
    assert [entry.folder.name for entry in cache.shrink(3000)] == ["b"]
    with replace(cache, limit=3000).making("d", 1500) as made:
        assert made is not None
        assert [entry.folder.name for entry in cache.entries()] == ["c"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"EDGELM_WEIGHT_CACHE": "off"}, None),
        ({"EDGELM_WEIGHT_CACHE": "0"}, None),
        ({"EDGELM_WEIGHT_CACHE_MB": "0"}, None),
        ({"EDGELM_WEIGHT_CACHE_MB": "500"}, 500_000_000),
        ({}, 4_096_000_000),
    ],
)
def test_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], expected: int | None
) -> None:
    monkeypatch.delenv("EDGELM_WEIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    cache = WeightCache.default()
    assert (cache and cache.limit) == expected
    assert cache is None or cache.folder == tmp_path / "edgelm" / "weights"


def test_a_limit_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELM_WEIGHT_CACHE", "on")
    monkeypatch.setenv("EDGELM_WEIGHT_CACHE_MB", "a lot")
    with pytest.raises(OptionError, match="EDGELM_WEIGHT_CACHE_MB must be a number of MB, not 'a lot'"):
        WeightCache.default()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("EDGELM_WEIGHT_CACHE", "on")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(weightcache.Path, "home", nowhere)
    assert WeightCache.default() is None
    assert Engine.load(bundle, threads=1).packed is None


def test_processes_that_load_at_once_do_not_disturb_each_other(
    bundle: Bundle, cache: WeightCache, tmp_path: Path
) -> None:
    code = SMALL + (
        "import sys, numpy as np; from pathlib import Path\n"
        "from edgelm.bundle.reader import Bundle; from edgelm.runtime.engine import Engine\n"
        "sys.stdin.readline()\n"
        "for turn in range(4):\n"
        "    cache = weightcache.WeightCache(Path(sys.argv[2]))\n"
        "    engine = Engine.load(Bundle.open(sys.argv[1]), threads=1, weight_cache=cache)\n"
        "    if turn == 1:\n"
        "        for entry in cache.entries(): entry.remove()\n"
        "np.save(sys.argv[3], engine.forward(np.arange(3, 80), 77)); print(engine.packed is not None)\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(bundle.path), str(cache.folder), str(tmp_path / f"{i}.npy")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(4)
    ]  # fmt: skip
    for process in running:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * 4, ended
    assert [err for _, err in ended] == [""] * 4
    expected = Engine.load(bundle, threads=1, weight_cache=False).forward(np.arange(3, 80), 77)
    for i in range(4):
        np.testing.assert_array_equal(np.load(tmp_path / f"{i}.npy"), expected)
    load(bundle, cache)
    assert only(cache).problem() is None
    assert not list(cache.folder.glob(".*"))


def test_the_library_uses_it_unless_told_otherwise(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGELM_WEIGHT_CACHE", "on")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with edgelm.load(bundle.path, weight_cache=False) as lm:
        expected = lm.generate("Hello", max_tokens=8, temperature=0).tokens
        assert lm.engine.packed is None
    assert list(tmp_path.iterdir()) == []
    with edgelm.load(bundle.path, threads=1, prefill_threads=2) as lm:
        assert lm.engine.packed is not None
        assert lm.engine.prefill_threads == 2
        assert lm.generate("Hello", max_tokens=8, temperature=0).tokens == expected
    facts = json.loads((lm.engine.packed / "entry.json").read_text())
    assert facts["model"] == bundle.manifest.model.id


def test_prefill_threads(bundle: Bundle) -> None:
    assert Engine.load(bundle, threads=1).prefill_threads == 1
    with pytest.raises(OptionError, match="prefill_threads must be at least 1, and at most 1024, not 0"):
        Engine.load(bundle, prefill_threads=0)
    wide = replace(bundle, manifest=replace(bundle.manifest, threads=Threads(1, 2)))
    engine = Engine.load(wide, weight_cache=False)  # not at the price of packing the weights twice
    assert (engine.threads, engine.prefill_threads) == (1, 1)


def test_a_target_may_want_more_threads_for_prompts(bundle: Bundle, cache: WeightCache) -> None:
    if len({min(core.siblings) for core in read_cpu().cores}) < 2:
        pytest.skip("one core")
    wide = replace(bundle, manifest=replace(bundle.manifest, threads=Threads(1, 2)))
    engine = Engine.load(wide, weight_cache=cache)
    assert (engine.threads, engine.prefill_threads) == (1, 2)


def test_a_graph_is_written_as_it_was_read(bundle: Bundle) -> None:
    data = bundle.model_path.read_bytes()
    assert encode(parse(data)) == data
    graph = Graph(data)
    assert graph.with_tensors({}) == data
    assert {node.op for node in graph.nodes} >= {"MatMulNBits", "GroupQueryAttention"}


def test_a_node_can_be_written_first(bundle: Bundle) -> None:
    graph = Graph(bundle.model_path.read_bytes())
    last = graph.nodes[-1]
    moved = Graph(graph.with_tensors({}, last))
    assert moved.nodes == [last, *graph.nodes[:-1]]
    assert moved.tensors == graph.tensors


def test_the_largest_matrix_is_packed_first(bundle: Bundle, cache: WeightCache) -> None:
    packed = Engine.load(bundle, weight_cache=cache).packed
    assert packed is not None
    graph = Graph((packed / "graph.onnx").read_bytes())
    sizes = [
        max((graph.tensors[n].nbytes for n in node.inputs if n in graph.tensors), default=0) for node in graph.nodes
    ]
    products = [size for node, size in zip(graph.nodes, sizes, strict=True) if node.op == "MatMulNBits"]
    assert graph.nodes[0].op == "MatMulNBits"
    assert products[0] == max(products)


@pytest.mark.parametrize("data", [b"\x08", b"\x0a\x05abc", b"\xff" * 12, b"\x0b"])
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match="no protobuf message"):
        parse(data)


@pytest.mark.parametrize(
    "fields",
    [
        [(7, 0, 1)],  # a graph that is a number
        [(7, 2, b""), (7, 2, b"")],  # two graphs
        [(7, 2, encode([(1, 0, 5)]))],  # a node that is a number
        [(7, 2, encode([(5, 2, encode([(2, 2, b"x"), (8, 2, b"w"), (9, 2, b"1")]))]))],  # a type that is text
        [(7, 2, encode([(5, 2, encode([(2, 0, 1), (8, 0, 7), (9, 2, b"1")]))]))],  # a name that is a number
        [],
    ],
)
def test_a_field_of_another_kind_is_no_graph(fields: list[tuple[int, int, Any]]) -> None:
    with pytest.raises(ValueError):
        Graph(encode(fields))
