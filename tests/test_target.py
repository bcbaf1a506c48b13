"""Targets: what ships, what a user's file may say, and what happens when it says something else."""

import json
import tomllib
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.errors import TargetError
from edgelm.target.target import FormatSpec, Target, load_all, load_target, target_names

TARGETS = load_all()
WORK = json.loads((Path(__file__).parent.parent / "docs" / "notes" / "work.json").read_text())
COUNTED = pytest.mark.parametrize(
    "target",
    [target for target in TARGETS if target.cpu.core in WORK["cores"] and target.runtime.provider == "cpu"],
    ids=lambda target: target.name,
)
SHIPPED = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)

MY_BOARD = """\
name = "myboard"
description = "My board"
default = "int4"

[cpu]
arch = "aarch64"
core = "cortex-a76"
features = ["asimd", "asimddp"]
cores = 4
threads = 4
prefill_threads = 4

[memory]
ram_mb = 4096
usable_mb = 3000
bandwidth_gbs = 8
source = "measured"

[runtime]
provider = "cpu"
activations = "fp32"
context = 2048

[recipe.int4]
body = { op = "MatMulNBits", bits = 4, block = 32 }
head = { op = "MatMulNBits", bits = 4, block = 32 }
embedding = { op = "GatherBlockQuantized", bits = 4, block = 32 }
kv = { op = "none", bits = 32 }
"""


@pytest.fixture
def my_board(tmp_path: Path):
    """Writes a target file: the valid one above with one text replaced by another."""

    def write(old: str = "", new: str = "") -> Path:
        assert old in MY_BOARD
        path = tmp_path / "myboard.toml"
        path.write_text(MY_BOARD.replace(old, new, 1) if old else MY_BOARD)
        return path

    return write


def error_of(path: Path) -> TargetError:
    with pytest.raises(TargetError) as caught:
        load_target(path)
    assert caught.value.hint
    assert "\n" not in str(caught.value) + caught.value.hint
    return caught.value


# --- the targets that ship ---------------------------------------------------------------------------------------


def test_the_shipped_targets():
    folder = Path(__file__).parents[1] / "targets"
    assert target_names() == sorted(path.stem for path in folder.glob("*.toml"))
    assert {"android-arm64", "jetson-orin-nano", "rpi-zero2w", "rpi4", "rpi5", "x86-64"} <= set(target_names())


@SHIPPED
def test_a_target_is_called_like_its_file_and_says_where_its_figures_come_from(target: Target):
    assert load_target(target.name) == target
    assert target.memory.source
    assert target.memory.usable_mb < target.memory.ram_mb
    assert {"int4", "int8"} <= set(target.recipes)


@SHIPPED
def test_no_core_without_dotprod_gets_a_format_that_falls_back_there_by_default(target: Target):
    if target.cpu.arch == "aarch64" and not target.has_dotprod:
        assert target.default == "int8"
        assert {target.recipe().body.op, target.recipe().head.op} == {"DynamicQuantizeMatMul"}
    else:
        assert target.default == "int4"
        assert target.recipe().body.op == "MatMulNBits"


def work(target: Target, spec: FormatSpec) -> dict[str, float]:
    """Executed instructions a weight on the target's core, counted by tools/work_table.py.

    Of a format that was not counted: the most of its operator and bits, whose blocks differ by a tenth or so.
    """
    counted = WORK["cores"][target.cpu.core]
    near = [count for name, count in counted.items() if name.startswith(f"{spec.op} {spec.bits}-bit")]
    return counted[str(spec)] if str(spec) in counted else max(near, key=lambda count: count["decode"])


@COUNTED
def test_a_recipe_that_falls_back_on_its_core_is_not_the_default_and_says_what_it_costs(target: Target):
    for quant, recipe in target.recipes.items():
        formats = {recipe.body, recipe.head}
        # A quantised product that takes twice the work of the fp32 one, or more, unpacks its weights at every call.
        plain = work(target, FormatSpec("MatMul", 32))["decode"]
        if any(work(target, spec)["decode"] > 2 * plain for spec in formats):
            assert quant != target.default
            times = work(target, recipe.body)["decode"] / work(target, target.recipe().body)["decode"]
            assert f"{times:.0f} times the work in decode" in (recipe.note or "")
        else:
            assert recipe.note is None


@COUNTED
def test_an_int8_recipe_takes_about_the_least_work_of_all_8_bit_formats_in_prefill(target: Target):
    formats = WORK["cores"][target.cpu.core]
    least = min(count["prefill"] for name, count in formats.items() if "8-bit" in name)
    # Instructions are not cycles: a quarter more is no reason to give up the smaller loss of blocks.
    assert work(target, target.recipe("int8").body)["prefill"] <= 1.25 * least


@SHIPPED
def test_dynamic_quantize_matmul_is_never_used_where_it_is_slow_or_missing(target: Target):
    if target.has_i8mm or target.runtime.provider == "cuda" or target.cpu.arch == "x86_64":
        assert all(recipe.body.op == recipe.head.op == "MatMulNBits" for recipe in target.recipes.values())


@SHIPPED
def test_a_tied_embedding_and_head_can_share_their_bytes(target: Target):
    for recipe in target.recipes.values():
        if recipe.head.op == "MatMulNBits":
            assert recipe.embedding == replace(recipe.head, op="GatherBlockQuantized")
        else:
            assert recipe.embedding == FormatSpec("Gather", 8)


@SHIPPED
def test_the_kv_cache_has_the_type_of_the_activations(target: Target):
    bits = {"fp32": 32, "fp16": 16}[target.runtime.activations]
    for quant in {*target.quants} - {"fp32"}:
        assert target.recipe(quant).kv == FormatSpec("none", bits)
    assert target.recipe("fp32").kv == FormatSpec("none", 32), "fp32 weights have fp32 activations everywhere"


@SHIPPED
def test_to_dict_says_what_the_file_says(target: Target):
    path = Path(__file__).parent.parent / "targets" / f"{target.name}.toml"
    written = tomllib.loads(path.read_text())
    for table in ("memory", "rates"):
        written[table]["source"] = " ".join(written[table]["source"].split())
    assert json.loads(json.dumps(target.to_dict())) == written


# --- recipes ------------------------------------------------------------------------------------------------------


def test_a_recipe_by_name_or_the_default():
    pi5 = load_target("rpi5")
    assert pi5.recipe() == pi5.recipe("int4")
    assert pi5.recipe("int4").body == FormatSpec("MatMulNBits", 4, 32)
    assert pi5.quants[0] == "int4"
    assert sorted(pi5.quants) == sorted({*pi5.recipes, "fp16", "fp32"})


def test_fp32_and_fp16_are_built_in():
    fp16 = load_target("rpi5").recipe("fp16")
    assert (fp16.body, fp16.embedding) == (FormatSpec("MatMul", 16), FormatSpec("Gather", 16))
    assert fp16.kv.bits == 32, "activations stay fp32 on a CPU"
    assert load_target("jetson-orin-nano").recipe("fp16").kv.bits == 16


def test_an_unknown_recipe_lists_what_there_is():
    with pytest.raises(TargetError, match="target rpi5 has no recipe 'q4_k_m'") as caught:
        load_target("rpi5").recipe("q4_k_m")
    assert caught.value.hint == f"rpi5 has: {', '.join(sorted(load_target('rpi5').quants))}"


def test_a_target_cannot_be_changed():
    pi5 = load_target("rpi5")
    with pytest.raises(FrozenInstanceError):
        pi5.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        pi5.recipes["int4"] = pi5.recipes["int8"]  # type: ignore[index]
    assert hash(pi5) == hash(load_target("rpi5"))


# --- finding a target ---------------------------------------------------------------------------------------------


def test_a_file_works_wherever_a_name_does(my_board, monkeypatch: pytest.MonkeyPatch):
    path = my_board()
    assert load_target(path) == load_target(str(path))
    assert load_target(path).name == "myboard"
    monkeypatch.chdir(path.parent)
    assert load_target("myboard.toml").memory.bandwidth_gbs == 8.0
    path.rename("myboard")
    assert load_target("myboard").cpu.features == ("asimd", "asimddp")


def test_a_mistyped_name_suggests_the_near_ones():
    with pytest.raises(TargetError, match="unknown target 'rpi6'") as caught:
        load_target("rpi6")
    assert "did you mean" in caught.value.hint
    assert "rpi5" in caught.value.hint


@pytest.mark.parametrize("name", ["", "qqq", "\0"])
def test_an_unknown_name_lists_all(name: str):
    with pytest.raises(TargetError) as caught:
        load_target(name)
    assert "jetson-orin-nano" in caught.value.hint


def test_a_file_that_cannot_be_read(tmp_path: Path):
    assert "no target file" in str(error_of(tmp_path / "none.toml"))
    assert "cannot be read: Is a directory" in str(error_of(tmp_path))
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"')
    assert "is not a text file" in str(error_of(tmp_path / "latin.toml"))


# --- errors name the file, the key and its line -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("threads = 4", 'threads = "four"', 10, "cpu.threads must be a whole number from 1 to 4, not 'four'"),
        ("threads = 4", "threads = 8", 10, "cpu.threads must be from 1 to 4, not 8"),
        ("threads = 4", "threads = true", 10, "cpu.threads must be a whole number from 1 to 4, not true"),
        ("threads = 4", "thraeds = 4", 10, "cpu.thraeds is not a key of a target"),
        ("usable_mb = 3000", "usable_mb = 5000", 15, "memory.usable_mb must be from 1 to 4096, not 5000"),
        ("usable_mb = 3000\n", "", 13, "memory.usable_mb is missing"),
        ("bandwidth_gbs = 8", "bandwidth_gbs = nan", 16, "memory.bandwidth_gbs must be from 0.01 to 10000, not nan"),
        ('"measured"', '" "', 17, "memory.source is empty"),
        ('"aarch64"', '"arm64"', 6, "cpu.arch must be 'aarch64' or 'x86_64', not 'arm64'"),
        ('["asimd", "asimddp"]', '["asimd", 1]', 8, "cpu.features must be a list of strings"),
        ('["asimd", "asimddp"]', '"asimd"', 8, "cpu.features must be a list of strings, not 'asimd'"),
        ('name = "myboard"\n', "", 1, "name is missing"),
        ('"myboard"', '"my board/"', 1, "name must consist of letters"),
        ('default = "int4"', 'default = "int8"', 3, "default must be 'int4', 'fp32' or 'fp16', not 'int8'"),
        ("[runtime]", "[run-time]", 19, "run-time is not a key of a target"),
        ("context = 2048", "context = 1.5", 22, "runtime.context must be a whole number"),
        ('"cpu"', '"npu"', 20, "runtime.provider must be 'cpu' or 'cuda', not 'npu'"),
        ("bits = 4, block = 32", "bits = 3, block = 32", 25, "recipe.int4.body.bits must be 4 or 8 for MatMulNBits, not 3"),
        ("bits = 4, block = 32", "bits = 4", 25, "recipe.int4.body.block is missing"),
        ("block = 32", "block = 48", 25, "recipe.int4.body.block must be 16, 32, 64, 128 or 256 for MatMulNBits, not 48"),
        ('"MatMulNBits"', '"MatMulNbits"', 25, "recipe.int4.body.op must be 'MatMul', 'MatMulNBits' or"),
        ('"GatherBlockQuantized"', '"MatMulNBits"', 27, "recipe.int4.embedding.op must be 'Gather' or"),
        ("bits = 32 }", "bits = 32, block = 32 }", 28, "recipe.int4.kv.block does not go with none: leave it out"),
        ("bits = 4, block = 32", "bits = 4, block = 32, zero_points = 1", 25, "recipe.int4.body.zero_points must be true or false, not 1"),
        ("bits = 32 }", "bits = 32, zero_points = true }", 28, "recipe.int4.kv.zero_points do not go with none: leave them out"),
        ("bits = 32 }", "bits = 32, half_scales = true }", 28, "recipe.int4.kv.half_scales does not go with none: leave it out"),
        ("kv = {", "cache = {", 28, "recipe.int4.cache is not a key of a target"),
        ("[recipe.int4]", "[recipe.fp32]", 24, "recipe.fp32 is built in and cannot be changed"),
        ("[recipe.int4]", "[recipe.'../x']", 24, "recipe.../x is no name for a recipe"),
        ("[cpu]", "cpu = 1\n[other]", 6, "other is not a key"),
        ("[runtime]", "[runtime", 19, "expected ']' at the end of a table declaration"),
        ("[memory]", "[cpu]", 13, "cannot declare ('cpu',) twice"),
        ("bits = 32 }", "bits = 32", 28, "unclosed inline table"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused(my_board, old: str, new: str, line: int, message: str):
    path = my_board(old, new)
    assert str(error_of(path)).startswith(f"{path}:{line}: {message}")


RATES = """
[rates]
measured = false
node_us = 10
core_gbs = 5
activation_gbs = 2
attention_prefill = 4
attention_decode = 1
storage_mbs = 100
pack_mbs = 50
source = "guessed"

[rates.products]
"MatMulNBits 4-bit block 32" = { prefill = 8, decode = 2 }
"""
FIRST = MY_BOARD.count("\n") + 2  # the line of [rates]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("node_us = 10", "node_us = -1", 2, "rates.node_us must be from 0.01 to 100000.0, not -1"),
        ("node_us = 10", "node_us = nan", 2, "rates.node_us must be from 0.01 to 100000.0, not nan"),
        ("core_gbs = 5", "core_gbs = 1e9", 3, "rates.core_gbs must be from 0.01 to 10000.0, not 1000000000.0"),
        ("pack_mbs = 50", "pack_mbs = 0", 8, "rates.pack_mbs must be from 0.001 to 1000000.0, not 0"),
        ("pack_mbs = 50", "pack_mbs = inf", 8, "rates.pack_mbs must be from 0.001 to 1000000.0, not inf"),
        ("measured = false", "measured = 1", 1, "rates.measured must be true or false, not 1"),
        ("measured = false\n", "", 0, "rates.measured is missing"),
        ('"guessed"', '""', 9, "rates.source is empty"),
        ("storage_mbs", "storage_mb", 7, "rates.storage_mb is not a key of a target"),
        ("prefill = 8", "prefill = 0", 12, "rates.products.MatMulNBits 4-bit block 32.prefill must be from 0.001"),
        (", decode = 2 }", " }", 12, "rates.products.MatMulNBits 4-bit block 32.decode is missing"),
        (RATES[RATES.index('"MatMul') :], "", 11, "rates.products is empty"),
        ("core_gbs = 5", "core_gbs = 5\nthread_gbs = []", 4, "rates.thread_gbs is empty"),
        ("core_gbs = 5", "core_gbs = 5\nthread_gbs = [1, -2]", 4, "rates.thread_gbs must have numbers from 0.01"),
        (
            "core_gbs = 5",
            "core_gbs = 5\nspread = { decode = [1.1, 2] }",
            4,
            "rates.spread.decode must be two numbers around 1",
        ),
        ("core_gbs = 5", "core_gbs = 5\nspread = { speed = [1, 2] }", 4, "rates.spread.speed is not a key of a target"),
        ("core_gbs = 5", "core_gbs = 5\nerror_percent = { load = -1 }", 4, "rates.error_percent.load must be from 0"),
    ],
)
def test_absurd_rates_are_refused(tmp_path: Path, old: str, new: str, line: int, message: str):
    path = tmp_path / "myboard.toml"
    assert old in RATES
    path.write_text(MY_BOARD + RATES.replace(old, new, 1))
    assert str(error_of(path)).startswith(f"{path}:{FIRST + line}: {message}")
    path.write_text(MY_BOARD + RATES)
    assert load_target(path).rates is not None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ram_mb = 4096", "ram_mb = 0", "memory.ram_mb must be from 16 to 16777216, not 0"),
        ("ram_mb = 4096", "ram_mb = -4096", "memory.ram_mb must be from 16"),
        ("usable_mb = 3000", "usable_mb = 0", "memory.usable_mb must be from 1 to 4096, not 0"),
        ("bandwidth_gbs = 8", "bandwidth_gbs = 1e9", "memory.bandwidth_gbs must be from 0.01 to 10000, not 1000000000.0"),
        ("bandwidth_gbs = 8", "bandwidth_gbs = -8", "memory.bandwidth_gbs must be from 0.01"),
        ("bandwidth_gbs = 8", "bandwidth_gbs = inf", "memory.bandwidth_gbs must be from 0.01"),
        ("cores = 4", "cores = 0", "cpu.cores must be from 1 to 1024, not 0"),
        ("prefill_threads = 4", "prefill_threads = 5", "cpu.prefill_threads must be from 1 to 4, not 5"),
        ("prefill_threads = 4", "large_mb = 9\nprefill_threads = 4", "cpu.large_mb needs large_mb and large_threads, both or neither"),
        ("context = 2048", "context = -1", "runtime.context must be from 16"),
    ],
)  # fmt: skip
def test_absurd_figures_are_refused(my_board, old: str, new: str, message: str):
    path = my_board(old, new)
    line = MY_BOARD[: MY_BOARD.index(old)].count("\n") + 1
    assert str(error_of(path)).startswith(f"{path}:{line}: {message}")


def test_a_mistyped_key_suggests_the_right_one(my_board):
    assert (
        error_of(my_board("prefill_threads", "prefil_threads")).hint
        == "did you mean prefill_threads or threads or large_threads?"
    )


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_is_done_to_a_file_it_loads_or_says_why(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    start = data.draw(st.integers(0, len(MY_BOARD)))
    length = data.draw(st.integers(0, 40))
    noise = data.draw(st.text(st.sampled_from("\"'[]{}=.,#\n\\ ab19-_\0é"), max_size=8))
    path = tmp_path_factory.mktemp("noise") / "noise.toml"
    path.write_text(MY_BOARD[:start] + noise + MY_BOARD[start + length :], encoding="utf-8")
    try:
        load_target(path)
    except TargetError as error:
        message = str(error)
    else:
        return
    place, line = message.split(": ")[0].rsplit(":", 1)
    assert place == str(path)
    assert 1 <= int(line) <= path.read_text().count("\n") + 1
