"""Runs one of edgelm's ways to write files again and again, each time with a fault at another call that changes a file.

    LD_PRELOAD=shim.so FAULTS_ROOT=DIR python driver.py SCENARIO kill|full CHECKPOINT DIR SAMPLES|FIRST-LAST

Every run is a fork of this process, which has loaded the libraries and opened nothing. After a fault the old version must
answer, or the new one; and after the next run there must be the same files as after a run without a fault. One JSON object
goes to stdout: how many calls there are, at which of them a fault was tried, and what was wrong after it.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import edgelm
import edgelm.evaluate.card
import edgelm.exporter.calibration.quality
import edgelm.exporter.mixed.auto
import edgelm.runtime.ort.session
import edgelm.sweep.measure
from edgelm import files
from edgelm.bundle.reader import Bundle
from edgelm.bundle.writer import save_quality
from edgelm.catalogue.store import Store as ModelStore
from edgelm.cli import main as command_line
from edgelm.errors import EdgeLMError
from edgelm.results.store import Store
from edgelm.runtime.engine import Engine
from edgelm.runtime.ort import packing, weightcache
from edgelm.runtime.ort.options import LoadOptions
from edgelm.runtime.ort.weightcache import WeightCache
from edgelm.runtime.text import tokenizer_file

KILL, FULL = 1, 2
FROZEN = Path(__file__).parents[1] / "frozen" / "format1"
CARD = json.loads((FROZEN / "quality.json").read_text()) | {"note": "new"}
MANIFEST = json.loads((FROZEN / "manifest.json").read_text())
TEST = {
    "n_prompt": 0,
    "n_gen": 8,
    "n_depth": 0,
    "repetitions": 5,
    "avg_ts": 10.5,
    "stddev_ts": 0.5,
    "unreliable": False,
}
REPORT = {
    **dict.fromkeys(("edgelm", "onnxruntime", "provider", "model", "target", "quant"), "x"),
    "threads": 2,
    "load_seconds": 0.5,
    "bundle_sha256": "0" * 64,
    "results": [TEST | {"test": "tg8"}, TEST | {"test": "tg9", "n_gen": 9}],
}
IDS = np.arange(5, 25)
FAILED, FINE = 3, 0  # exit codes of a fork: an error of edgelm's own, none


@dataclass(frozen=True)
class Scenario:
    """A way to write.

    Attributes:
        before: makes what is there before; with the folder and the checkpoint.
        act: writes.
        check: raises AssertionError where neither the old nor the new version answers; it is asked after a fault.
        again: the next run; None where it is `act`. The files after it are compared with those after `act` and it.
        until_then: what may lie there after an error until the next run: SQLite's journal, of a file that it could not roll
            back on a full disk, since here no page can be written, not even those that have their place.
    """

    before: Callable[[Path, Path], None]
    act: Callable[[Path, Path], None]
    check: Callable[[Path], None]
    again: Callable[[Path, Path], None] | None = None
    until_then: tuple[str, ...] = ()


def nothing(root: Path, checkpoint: Path) -> None:
    pass


def export(root: Path, checkpoint: Path, *, context: int = 64, **options: object) -> None:
    edgelm.export(
        checkpoint,
        "x86-64",
        "int4",
        context=context,
        output=root / "b",
        **{"card": "none", "calibrate": "none", **options},
    )  # type: ignore[arg-type]


def export_all(root: Path, checkpoint: Path) -> None:
    """With all the folders that lie beside a bundle meanwhile."""
    text = root.parent / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 12)
    options = {"calibrate": text, "card": text, "kv": "int8", "context": 64}
    edgelm.export(checkpoint, "rpi5", "auto", output=root / "b", overwrite=True, **options)  # type: ignore[arg-type]


def overwrite(root: Path, checkpoint: Path) -> None:
    export(root, checkpoint, context=32, overwrite=True)


def overwrite_without_exchange(root: Path, checkpoint: Path) -> None:
    files._exchange = lambda one, other: False
    overwrite(root, checkpoint)


def save(root: Path, checkpoint: Path) -> None:
    save_quality(Bundle.open(root / "b"), CARD)


def sweep(root: Path, checkpoint: Path) -> None:
    text = root.parent / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 12)
    options = ["--target", "rpi5", "--text", text, "--recipe", "int8", "--chunks", "1", "-t", "1", "-o", root / "s"]
    if command_line(["sweep", str(checkpoint), *map(str, options), "--json"]) != 0:
        raise EdgeLMError("the sweep failed")


def plain(found: Bundle) -> Engine:
    return Engine.load(found, LoadOptions(threads=1, weight_cache=False))


def cached(found: Bundle, root: Path) -> Engine:
    return Engine.load(found, LoadOptions(threads=1, weight_cache=WeightCache(root / "cache")))


def load_cached(root: Path, checkpoint: Path) -> None:
    packing._SMALL = weightcache.SMALLEST = 0
    cached(Bundle.open(root / "b"), root).close()


def save_prompt(root: Path, checkpoint: Path, text: str = "the new text") -> None:
    with edgelm.load(root / "b", threads=1) as lm, lm.session() as session:
        session.generate(text, max_tokens=2, temperature=0.0, raw=True)
        session.save(root / "p.cache")


def bundle(root: Path, checkpoint: Path) -> None:
    export(root, checkpoint)


def bundle_and_prompt(root: Path, checkpoint: Path) -> None:
    export(root, checkpoint)
    save_prompt(root, checkpoint, "an old text")


def a_bundle_answers(root: Path, contexts: tuple[int, ...] = (64, 32)) -> Bundle:
    found = Bundle.open(root / "b")
    assert found.verify() == []
    assert found.context in contexts, found.context
    plain(found).forward(IDS)
    return found


def none_or_one(root: Path) -> None:
    if (root / "b").exists():
        a_bundle_answers(root)


def old_or_new(root: Path) -> None:
    a_bundle_answers(root)


def card_or_none(root: Path) -> None:
    assert a_bundle_answers(root).quality in (None, CARD)


def rows_and_bundles(root: Path) -> None:
    for entry in (root / "s").iterdir() if (root / "s").exists() else ():
        if entry.name == "sweep.json":
            assert isinstance(json.loads(entry.read_text())["rows"], list)
        elif not entry.name.startswith("."):
            assert Bundle.open(entry).verify() == []


def runs_as_well(root: Path) -> None:
    packing._SMALL = weightcache.SMALLEST = 0
    opened = Bundle.open(root / "b")
    expected = plain(opened).forward(IDS)
    for entry in WeightCache(root / "cache").entries():
        assert entry.problem() is None, entry.problem()
    engine = cached(opened, root)
    assert engine.packed is not None
    np.testing.assert_array_equal(expected, engine.forward(IDS))


def a_prompt_cache_answers(root: Path) -> None:
    with edgelm.load(root / "b", threads=1) as lm, lm.session() as session:
        session.load(root / "p.cache")
        text = lm.tokenizer.decode(session.tokens)
        assert "an old text" in text or "the new text" in text


def add_result(root: Path, checkpoint: Path) -> None:
    Store(root / "r.sqlite3").add(REPORT, MANIFEST)


def a_result(root: Path, checkpoint: Path) -> None:
    add_result(root, checkpoint)


def results_are_whole(root: Path) -> None:
    runs = [row.run for row in Store(root / "r.sqlite3").rows()]
    assert 2 <= len(runs) <= 6
    assert all(runs.count(run) == len(REPORT["results"]) for run in runs)


def stored(root: Path, checkpoint: Path) -> None:
    for name in ("a", "other-1", "other-2", "other-3"):
        shutil.copytree(FROZEN, root / "store" / name)


def remove(root: Path, checkpoint: Path) -> None:
    models = ModelStore(root / "store")
    if models.find("a"):
        models.remove("a")


def remove_another(root: Path, checkpoint: Path) -> None:
    remove(root, checkpoint)
    ModelStore(root / "store").remove("other-1")


def removed_or_not(root: Path) -> None:
    for found in ModelStore(root / "store").bundles():
        assert found.bundle.verify() == []
    assert all((path / "manifest.json").exists() for path in (root / "store").glob("[!.]*"))


def compile_prompt(root: Path, checkpoint: Path) -> None:
    text = root.parent / "prompt.txt"
    text.write_text("You are a lamp. Answer with on or off.")
    export(root, checkpoint, context=64, overwrite=True, compile_prompt=text)


def keep_prompt(root: Path, checkpoint: Path) -> None:
    with edgelm.load(root / "b", threads=1, weight_cache=False, parallel=2) as lm:
        ids = lm.encode_prompt("the text that prompts share", raw=True)
        lm.generate("the text that prompts share", raw=True, max_tokens=2)
        lm.save_beginning(ids[:10], root / "kept.prompt")


def none_or_a_kept_prompt(root: Path) -> None:
    if (root / "kept.prompt").exists():
        with edgelm.load(root / "b", threads=1, weight_cache=False, parallel=2) as lm:
            assert lm.load_beginning(root / "kept.prompt") == 10


SCENARIOS = {
    "export": Scenario(nothing, export, none_or_one, lambda root, checkpoint: export(root, checkpoint, overwrite=True)),
    "export-all": Scenario(
        nothing, export_all, none_or_one, overwrite
    ),  # the same folders are swept in a tenth of the time
    "overwrite": Scenario(bundle, overwrite, old_or_new),
    "overwrite-without-exchange": Scenario(bundle, overwrite_without_exchange, old_or_new),
    "save": Scenario(bundle, save, card_or_none),
    "sweep": Scenario(nothing, sweep, rows_and_bundles),
    "weight-cache": Scenario(bundle, load_cached, runs_as_well),
    "results": Scenario(a_result, add_result, results_are_whole, until_then=("r.sqlite3-journal",)),
    "remove": Scenario(stored, remove, removed_or_not, remove_another),
    "compiled-prompt": Scenario(bundle, compile_prompt, old_or_new),
    "kept-prompt": Scenario(bundle, keep_prompt, none_or_a_kept_prompt),
    "prompt-cache": Scenario(bundle_and_prompt, save_prompt, a_prompt_cache_answers),
}


def in_a_fork(work: Callable[[], int], log: Path) -> int:
    """Exit code of `work`, or minus the signal; what it prints goes to `log`."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                try:
                    code = work()
                except EdgeLMError as error:
                    print(f"error: {error}", flush=True)
                    code = FAILED
                except BaseException:
                    traceback.print_exc()
                sys.stdout.flush()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def tree(root: Path) -> list[str]:
    """All files and folders, but for the random part of what a cache's key is."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


class Driver:
    """One scenario with one kind of fault."""

    def __init__(self, scenario: Scenario, kind: int, checkpoint: Path, folder: Path) -> None:
        self.scenario, self.kind, self.checkpoint, self.folder = scenario, kind, checkpoint, folder
        self.shim = ctypes.CDLL(None)
        self.shim.faults_calls.restype = ctypes.c_long
        self.shim.faults_arm.argtypes = (ctypes.c_int, ctypes.c_long)
        self.root, self.log, self.count = folder / "root", folder / "log.txt", folder / "count"

    def fresh(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.folder / "before", self.root, symlinks=True)

    def act(self, number: int) -> int:
        """Write with a fault at call `number`; 0 counts them."""

        def work() -> int:
            tempfile.tempdir = str(self.root / "tmp")
            self.shim.faults_arm(self.kind if number else KILL, number)
            try:
                self.scenario.act(self.root, self.checkpoint)
            finally:
                calls = self.shim.faults_calls()
                self.shim.faults_arm(0, 0)
                self.count.write_text(str(calls))
            return FINE

        return in_a_fork(work, self.log)

    def check(self) -> str | None:
        def work() -> int:
            tempfile.tempdir = str(self.root / "tmp")
            self.scenario.check(self.root)
            return FINE

        return None if in_a_fork(work, self.log) == FINE else f"neither answers: {self.said()}"

    def again(self) -> str | None:
        def work() -> int:
            tempfile.tempdir = str(self.root / "tmp")
            (self.scenario.again or self.scenario.act)(self.root, self.checkpoint)
            return FINE

        return None if in_a_fork(work, self.log) == FINE else f"the next run fails: {self.said()}"

    def said(self) -> str:
        return " | ".join(self.log.read_text().splitlines()[-4:])

    def run(self, samples: str) -> dict[str, object]:
        before = self.folder / "before"
        (before / "tmp").mkdir(parents=True)
        assert in_a_fork(lambda: self.scenario.before(before, self.checkpoint) or FINE, self.log) == FINE, self.said()
        start = tree(before)
        self.fresh()
        assert self.act(0) == FINE, self.said()
        calls, written = int(self.count.read_text()), tree(self.root)
        if self.scenario.again is not None:
            assert self.again() is None, self.said()
        whole, bad = tree(self.root), dict[int, str]()
        wanted = _wanted(calls, samples)
        for number in wanted:
            if problem := self.one(number, [*start, *written], whole):
                bad[number] = problem
        return {"calls": calls, "tried": len(wanted), "bad": bad}

    def one(self, number: int, known: list[str], whole: list[str]) -> str | None:
        """What is wrong after a fault at one call; `known` may be there after an error, and `whole` after the next run."""
        self.fresh()
        code = self.act(number)
        if self.kind == KILL and code != -signal.SIGKILL:
            return None if code == FINE else f"it was not killed: {code}, {self.said()}"
        if self.kind == FULL:
            if code not in (FINE, FAILED):
                return f"a full disk is no error of one line: {code}, {self.said()}"
            if code == FAILED and (more := set(tree(self.root)) - {*known, *whole, *self.scenario.until_then}):
                return f"a full disk leaves {sorted(more)[:3]}"
        if problem := self.check() or self.again():
            return problem
        if (found := tree(self.root)) != whole:
            return f"litter, or something is missing: {sorted(set(found) ^ set(whole))[:4]}"
        return self.check()


def _wanted(calls: int, samples: str) -> list[int]:
    """The calls at which a fault is tried: so many of them, spread evenly, or the first to the last; 0 is all."""
    first, dash, last = samples.partition("-")
    if dash:
        return list(range(int(first), min(int(last), calls) + 1))
    count = int(samples) or calls
    return sorted({1 + round(i * (calls - 1) / max(1, count - 1)) for i in range(count)})


def main() -> None:
    name, kind, checkpoint, folder, samples = sys.argv[1:]
    tokenizer_file.probe = lambda tokenizer: None  # writes nothing, and is half of what an export of a tiny model takes
    # What is imported late is imported once, here; no session is opened, whose threads a fork would not have.
    with tempfile.TemporaryDirectory() as warm:
        edgelm.export(checkpoint, "x86-64", "int8", output=Path(warm) / "b", card="none", calibrate="none")
    driver = Driver(SCENARIOS[name], KILL if kind == "kill" else FULL, Path(checkpoint), Path(folder))
    print(json.dumps(driver.run(samples)))


if __name__ == "__main__":
    main()
