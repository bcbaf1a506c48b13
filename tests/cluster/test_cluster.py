"""Tasks on workers: the same outcome as here, errors, files that are there or sent, versions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edgelm.bundle.reader import Bundle
from edgelm.cluster import evaluating, inputs, versions, workers
from edgelm.cluster.evaluating import Text, answer_task, text_divergence, text_perplexity
from edgelm.cluster.executor import LOCAL
from edgelm.cluster.shared import alone, release, shared_folder
from edgelm.cluster.workers import Word, Workers
from edgelm.errors import ClusterError, OptionError
from edgelm.evaluate.card import compare
from edgelm.evaluate.items import MultipleChoice
from edgelm.evaluate.passages import Passages
from edgelm.exporter.progress import Progress
from edgelm.sweep.candidates import candidates, chosen
from edgelm.sweep.measure import Sweep
from edgelm.sweep.record import Record
from edgelm.target.target import load_target

TEXT = Passages("text", "", ("the quick brown fox jumps over the lazy dog " * 20,))


@dataclass(frozen=True)
class Sum:
    """Adds the numbers in files."""

    files: tuple[str, ...]
    name: str = "sum"

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.files

    def moved(self, paths: Mapping[str, str]) -> Sum:
        return replace(self, files=tuple(paths[path] for path in self.files))


def add(task: Sum, progress: Progress) -> int:
    progress.start("adding", len(task.files))
    numbers = [int(Path(file).read_text()) for file in task.files]
    if -1 in numbers:
        raise OptionError("there is a -1", hint="take it away")
    progress.advance(len(numbers))
    return sum(numbers)


@pytest.fixture
def files(tmp_path):
    for number in range(-1, 3):
        (tmp_path / str(number)).write_text(str(number))
    return lambda *numbers: tuple(str(tmp_path / str(number)) for number in numbers)


@pytest.mark.parametrize("where", ["here", "there"])
def test_outcomes_and_errors(address, files, where):
    tasks = [Sum(files(0, 1)), Sum(files(1, 2)), Sum(files(-1))]
    if where == "here":
        found = dict(LOCAL.run(add, tasks, Progress()))
    else:
        with Workers(address) as cluster:
            assert cluster.workers == 2
            found = dict(cluster.run(add, tasks, Progress()))
    assert (found[0], found[1]) == (1, 3)
    assert isinstance(found[2], OptionError)
    assert (str(found[2]), found[2].hint) == ("there is a -1", "take it away")


def test_workers_tell_what_they_do(address, files):
    heard, all_done = list[Word](), threading.Event()

    def hear(word: Word) -> None:
        heard.append(word)
        if not word.task:
            all_done.set()

    with Workers(address, hear) as cluster:
        assert dict(cluster.run(add, [Sum(files(0, 1), "of two")], Progress())) == {0: 1}
        assert all_done.wait(5)
    assert ("of two", "adding") in {(word.task, word.stage) for word in heard}


def test_what_is_not_there_is_sent_if_it_is_small(address, files, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model").write_text("weights")
    wanted = inputs.describe(str(tmp_path / "folder"))
    packed = inputs.pack(wanted)
    assert inputs.located(wanted, None) == wanted.path
    monkeypatch.setattr(inputs.tempfile, "gettempdir", lambda: str(tmp_path))
    elsewhere = replace(wanted, path="/nowhere/at/all/folder")
    with pytest.raises(ClusterError, match="is not there on a worker"):
        inputs.located(elsewhere, None)
    there = Path(inputs.located(elsewhere, packed))
    assert (there.name, (there / "model").read_text()) == ("folder", "weights")
    assert inputs.located(elsewhere, packed) == str(there)
    (tmp_path / "folder" / "model").write_text("other weights")
    with pytest.raises(ClusterError, match="holds other bytes"):
        inputs.located(wanted, None)
    # The whole way: workers that say that they have nothing.
    monkeypatch.setattr(workers, "_has", lambda one: False)
    with Workers(address) as cluster:
        assert dict(cluster.run(add, [Sum(files(1, 2))], Progress())) == {0: 3}


def test_other_versions_are_refused():
    here = versions.versions()
    versions.check(here, here, "w")
    versions.check(here, replace(here, features="another processor"), "w")
    with pytest.raises(ClusterError, match=r"worker w has onnxruntime 1\.0, this machine"):
        versions.check(here, replace(here, packages={**here.packages, "onnxruntime": "1.0"}), "w")
    with pytest.raises(ClusterError, match="edgelm 0"):
        versions.check(here, replace(here, edgelm="0"), "w")


@pytest.mark.parametrize(
    ("address", "said"),
    [("tcp://127.0.0.1:1", "does not answer"), ("http://x", "is no address"), ("nonsense", "is no address")],
)
def test_no_scheduler(address, said, monkeypatch):
    monkeypatch.setattr(workers, "_CONNECT", 0.2)
    with pytest.raises(ClusterError, match=said):
        Workers(address)


def test_evaluation_in_shares_is_the_same_to_the_bit(address, tiny_bundle, monkeypatch):
    monkeypatch.setattr(evaluating, "_SHARES", 1)  # a worker
    items = [
        MultipleChoice(f"the {word}", ("fox", "dog", "lazy one"), 1, line) for line, word in enumerate("abcdefghi")
    ]
    text = Text(TEXT, 64, 5)
    options = {"threads": 1, "progress": Progress()}
    here = (
        answer_task(LOCAL, tiny_bundle, items, **options),
        text_perplexity(LOCAL, tiny_bundle, text, **options),
        text_divergence(LOCAL, tiny_bundle, tiny_bundle, text, **options),
    )
    assert here[2] == compare(tiny_bundle, tiny_bundle, TEXT, chunk=64, chunks=5, threads=1)
    with Workers(address) as cluster:
        there = (
            answer_task(cluster, tiny_bundle, items, **options),
            text_perplexity(cluster, tiny_bundle, text, **options),
            text_divergence(cluster, tiny_bundle, tiny_bundle, text, **options),
        )
    assert there == here
    assert [outcome.line for outcome in there[0].outcomes] == list(range(9))


@pytest.mark.slow
def test_a_sweep_on_workers_has_the_rows_of_one_host(address, tiny_checkpoint, tmp_path):
    board = load_target("rpi5")
    tried = chosen(candidates(board), ["int8", "int4-b32-nearest"])
    sweep = Sweep(str(tiny_checkpoint(seed=1)), board, tried, TEXT, 3, "none", threads=1)
    here, there = Record(tmp_path / "here.json", {"which": 1}), Record(tmp_path / "there.json", {"which": 2})
    assert sweep.run(here, Progress()) == {}
    with Workers(address) as cluster:
        assert sweep.run(there, Progress(), executor=cluster) == {}
    assert there.rows == here.rows
    assert set(here.rows) == {"fp32", "int8", "int4-b32-nearest"}
    kept = replace(sweep, output=tmp_path / "kept")
    with Workers(address) as cluster:
        assert kept.run(Record(tmp_path / "kept" / "sweep.json", {}), Progress(), executor=cluster) == {}
    assert sorted(path.name for path in kept.output.iterdir()) == ["fp32", "int4-b32-nearest", "int8", "sweep.json"]
    assert Bundle.open(kept.output / "int8").manifest.quant == "int8"


def test_a_shared_folder_goes_with_its_last_holder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = shared_folder("one")
    (folder / "file").write_text("")
    with alone(folder, "file"):
        assert shared_folder("one") == folder
    stale = folder.with_name(folder.name.replace("one", "stale"))
    stale.mkdir()
    shared_folder("two")
    assert not stale.exists()
    assert folder.exists()
    release("one")
    release("two")
    assert list(tmp_path.iterdir()) == []
