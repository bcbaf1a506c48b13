"""Readers of what edgelm itself writes and keeps, and of what a board answers: damaged where a checksum does not tell."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import zlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reader import Reader, dumped

if TYPE_CHECKING:
    from edgelm.remote.session import Session
    from edgelm.runtime.lm import LM

PAGE = 4096  # from which the arrays of a prompt cache begin
FROZEN = Path(__file__).parents[1] / "frozen" / "format1"
TEST = {
    "test": "tg128",
    "n_prompt": 0,
    "n_gen": 128,
    "n_depth": 0,
    "repetitions": 5,
    "avg_ts": 10.5,
    "stddev_ts": 0.5,
    "unreliable": False,
    "ttft_seconds": None,
    "effective_gbs": 2.5,
    "joules_per_token": 0.2,
}
REPORT = {
    "cpu": "a board",
    "arch": "aarch64",
    "cores": 4,
    "emulated": False,
    "model": "a/b",
    "target": "rpi5",
    "quant": "int4",
    "bundle_sha256": "0" * 64,
    "adapter": None,
    "edgelm": "0.1.0",
    "onnxruntime": "1.32.0",
    "python": "3.11.2",
    "provider": "cpu",
    "threads": 4,
    "prefill_threads": 4,
    "packed": True,
    "load_seconds": 0.5,
    "memory": {"peak": 1000, "anonymous": 500},
    "sensors": {"power_source": "pmic", "idle_watts": 2.5, "temperature_celsius": {"start": 40.0, "end": 60.0}},
    "results": [TEST, {**TEST, "test": "pp512", "n_prompt": 512, "n_gen": 0, "avg_ts": 2000.0, "ttft_seconds": 1.5}],
}
FACTS = {
    "arch": "aarch64",
    "python": [3, 11],
    "wide": True,
    "libc": "glibc",
    "libc_version": "2.36",
    "free": 1 << 40,
    "base": "/home/pi/.cache/edgelm/remote",
    "executable": "/usr/bin/python3",
}
ROW = {
    "name": "int4",
    "bytes": 1000,
    "memory_bytes": 2000,
    "fits": True,
    "tokens": 100,
    "perplexity": 8.0,
    "perplexity_error": 0.1,
    "kld": 0.05,
    "kld_error": 0.01,
    "same_top": 0.9,
    "same_top_error": 0.01,
    "score": None,
    "score_error": None,
}
SWEPT = {
    "format": 1,
    "settings": {"model": "a/b", "target": "rpi5"},
    "rows": [ROW, {**ROW, "name": "int8", "kld": 0.01}],
}


def command_line(*args: object) -> None:
    """A command of edgelm, whose internal errors are raised, and other errors as a BundleError."""
    from edgelm.cli import main
    from edgelm.errors import BundleError

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(arg) for arg in args])
    if code == 0:
        return
    lines = err.getvalue().strip().splitlines()
    if code != 1 or not lines or not lines[0].startswith("error: ") or "internal" in lines[0]:
        raise AssertionError(f"exit code {code}: {err.getvalue()}")
    raise BundleError(lines[0])


def _frozen(name: str) -> Any:
    """Copies the frozen bundle, and gives the content of one of its files."""

    def make(folder: Path) -> bytes:
        shutil.copytree(FROZEN, folder, dirs_exist_ok=True)
        return (FROZEN / name).read_bytes()

    return make


def _read_sealed(path: Path) -> None:
    """A manifest whose checksum is that of its damaged content."""
    import edgelm
    from edgelm.bundle.seal import KEY, sealed
    from edgelm.exporter.checkpoint.config import read_json

    content = read_json(path)
    content.pop(KEY, None)
    path.write_text(sealed(json.dumps(content, indent=2) + "\n"))
    command_line("inspect", path.parent)
    with edgelm.load(path.parent, threads=1) as lm:
        lm.generate("ab", max_tokens=2)


def _read_beside(path: Path) -> None:
    """A file of a bundle, whose size and hash the manifest has as they are."""
    from edgelm.bundle.reader import sha256
    from edgelm.bundle.seal import KEY, sealed

    manifest = path.with_name("manifest.json")
    content = json.loads(manifest.read_text())
    content.pop(KEY, None)
    content["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    manifest.write_text(sealed(json.dumps(content, indent=2) + "\n"))
    command_line("inspect", path.parent)
    command_line("run", path.parent, "ab", "-n", "2", "--raw", "-t", "1")


@cache
def _lm() -> LM:
    import edgelm

    return edgelm.load(FROZEN, threads=1, parallel=2)


def _prompt_header(folder: Path) -> bytes:
    from edgelm.runtime.kv.prompt_cache import MAGIC

    file = folder / "made.prompt"
    with _lm().session() as session:
        session.generate("some text", max_tokens=2, raw=True)
        session.save(file)
    data = file.read_bytes()
    start = len(MAGIC) + 16
    size = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 8], "little")
    (folder / "rest").write_bytes(data[-(-(start + size) // PAGE) * PAGE :])
    return data[start : start + size]


def _read_prompt_header(path: Path) -> None:
    """A prompt of the server's folder, whose checksums are those of its damaged header."""
    from edgelm.runtime.kv.prompt_cache import MAGIC

    text, rest = path.read_bytes(), path.with_name("rest").read_bytes()
    start = MAGIC + len(text).to_bytes(8, "little") + zlib.crc32(text).to_bytes(8, "little") + text
    file = path.with_name("kept.prompt")
    file.unlink(missing_ok=True)
    file.write_bytes(start + bytes(-len(start) % PAGE) + rest)
    with _lm().session() as session:
        session.load(file)
        session.generate("and", max_tokens=2, raw=True)
    if _lm().load_beginning(file):
        _lm().generate("some text, and", max_tokens=2, raw=True)


def _database(folder: Path) -> bytes:
    from edgelm.results.store import Store

    path = folder / "made.sqlite3"
    for _ in range(2):
        Store(path).add(REPORT, json.loads((FROZEN / "manifest.json").read_text()))
    return path.read_bytes()


def _read_database(path: Path) -> None:
    os.environ["EDGELM_RESULTS"] = str(path)
    for beside in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    command_line("results", "list")
    command_line("results", "compare")
    command_line("results", "--calibrate", "rpi5", "--board", "a board")


def _read_report(path: Path) -> None:
    file = path.with_name("results.sqlite3")
    file.unlink(missing_ok=True)
    os.environ["EDGELM_RESULTS"] = str(file)
    command_line("results", "add", path)
    command_line("results", "add", path)
    command_line("results", "list", "--json")
    command_line("results", "compare")


def _row_values(folder: Path) -> bytes:
    from edgelm.results.row import of_report

    return json.dumps(
        [row.to_dict() for row in of_report(REPORT, "12345678", "2026-01-02T03:04:05+00:00", "here")]
    ).encode()


def _read_row(path: Path) -> None:
    """Rows of a file of the right tables, whose values are of any kind."""
    from edgelm.errors import ResultsError
    from edgelm.results.row import COLUMNS
    from edgelm.results.store import Store

    file = path.with_name("results.sqlite3")
    file.unlink(missing_ok=True)
    Store(file).add(REPORT, None)
    try:
        rows = [[row.get(name) for name in COLUMNS] for row in json.loads(path.read_bytes())]
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            marks = ", ".join("?" * len(COLUMNS))
            database.executemany(f"INSERT INTO results ({', '.join(COLUMNS)}) VALUES ({marks})", rows)
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError, sqlite3.Error) as error:
        raise ResultsError("SQLite itself does not take it") from error
    _shown(file)


def _shown(file: Path) -> None:
    os.environ["EDGELM_RESULTS"] = str(file)
    for args in (("list",), ("compare",), ("plot", file.with_name("p.svg")), ("export", file.with_name("p.csv"))):
        command_line("results", *args)


class _Board:
    """A board whose every answer is a file's content."""

    name, base, launcher = "ssh:pi@board", "~", ()

    def __init__(self, answer: Path) -> None:
        self._answer = answer

    def start(self, args: Any, **pipes: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["cat", self._answer], **pipes)

    def explain(self, code: int, said: str) -> Exception:
        from edgelm.errors import RemoteError

        return RemoteError("the connection was lost")


def _read_facts(path: Path) -> None:
    from edgelm.remote import environment
    from edgelm.remote.session import Session

    environment.check(Session.open(_Board(path)).facts, "board")  # type: ignore[arg-type]


def _session(path: Path) -> Session:
    from edgelm.remote.session import Session

    return Session(_Board(path), FACTS)  # type: ignore[arg-type]


def _read_answer(path: Path) -> None:
    """What a board has of some files, sent or not."""
    local = path.with_name("local")
    local.write_bytes(b"12345")
    _session(path).put({local: "/there/file"})


def _read_sweep(path: Path) -> None:
    from edgelm.sweep.record import Record
    from edgelm.sweep.rows import frontier

    frontier(list(Record.open(path, SWEPT["settings"]).rows.values()))  # type: ignore[arg-type]


def _read_conversation(path: Path) -> None:
    from edgelm.cli.conversation import Conversation

    Conversation(_lm(), None, {}).load(path)


def _read_tools(path: Path) -> None:
    from edgelm.cli.options import read_tools

    read_tools(path)


def _read_beginning(path: Path) -> None:
    from edgelm.exporter.compiled_prompt import beginning_ids, read_beginning
    from edgelm.runtime.text.prompt import PromptEncoder, text_tools

    lm = _lm()
    beginning_ids(read_beginning(path), PromptEncoder(*text_tools(lm.bundle), lm.context, 300))


def _weight_record(folder: Path) -> bytes:
    entry = folder / "cache" / "key"
    entry.mkdir(parents=True)
    (entry / "graph.onnx").write_bytes(b"x" * 10)
    files = {"graph.onnx": {"bytes": 10, "sha256": "0" * 64, "crc32": 0, "mtime_ns": 0}}
    facts = {"layout": 1, "model": "a/b", "quant": "int4", "bundle": "0" * 64, "path": "/x", "files": files}
    return json.dumps(facts | {"onnxruntime": "1.32.0", "cpu": "x86_64"}).encode()


def _read_weight_record(path: Path) -> None:
    from edgelm.runtime.ort.weightcache import WeightCache

    entry = path.parent / "cache" / "key"
    entry.mkdir(parents=True, exist_ok=True)
    (entry / "graph.onnx").write_bytes(b"x" * 10)
    (entry / "entry.json").write_bytes(path.read_bytes())
    os.environ["XDG_CACHE_HOME"], home = str(path.parent / "xdg"), path.parent / "xdg" / "edgelm"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "weights").exists():
        (home / "weights").symlink_to(path.parent / "cache")
    command_line("cache")
    command_line("cache", "--json")
    WeightCache(path.parent / "cache").find("key")


def _read_keys(path: Path) -> None:
    from edgelm.serve.settings import Settings, read_keys

    path.chmod(0o600)
    Settings(bundles=(path,), keys=read_keys(path))


def _read_store(path: Path) -> None:
    """The bundles by name, of which one has a damaged manifest: it is passed over."""
    store = path.parent / "store"
    if not store.exists():
        store.mkdir()
        for name in ("sound-x86-64-int4", "other-x86-64-int4"):
            shutil.copytree(FROZEN, store / name)
    (store / "other-x86-64-int4" / "manifest.json").write_bytes(path.read_bytes())
    os.environ["EDGELM_MODELS"] = str(store)
    command_line("list", "--json")
    command_line("list")


OWN_READERS = {
    "sealed manifest": Reader("manifest.json", _frozen("manifest.json"), _read_sealed, json=True),
    "adapters' places": Reader("lora.json", _frozen("lora.json"), _read_beside, json=True),
    "quality card": Reader("quality.json", _frozen("quality.json"), _read_beside, json=True),
    "bundle's generation config": Reader(
        "generation_config.json", _frozen("generation_config.json"), _read_beside, json=True
    ),
    "kept prompt": Reader("header.json", _prompt_header, _read_prompt_header, json=True),
    "results": Reader("kept.sqlite3", _database, _read_database),
    "results row": Reader("rows.json", _row_values, _read_row, json=True),
    "report": Reader("report.json", dumped(REPORT), _read_report, json=True),
    "board": Reader("facts.json", dumped(FACTS), _read_facts, json=True),
    "board's files": Reader("have.json", dumped({"/there/file": [5, -1]}), _read_answer, json=True),
    "sweep": Reader("sweep.json", dumped(SWEPT), _read_sweep, json=True),
    "conversation": Reader(
        "chat.json",
        dumped({"model": "x", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]}),
        _read_conversation,
        json=True,
    ),
    "tools": Reader("tools.json", dumped([{"type": "function", "function": {"name": "f"}}]), _read_tools, json=True),
    "prompt to compile": Reader(
        "prompt.json",
        dumped({"system": "You are terse.", "messages": [{"role": "user", "content": "hi"}], "tools": [{"name": "f"}]}),
        _read_beginning,
        json=True,
    ),
    "weight cache": Reader("record.json", _weight_record, _read_weight_record, json=True),
    "keys": Reader("keys", lambda folder: b"# ours\n0123456789abcdef\nfedcba9876543210\n", _read_keys),
    "models": Reader("manifest.json", lambda folder: (FROZEN / "manifest.json").read_bytes(), _read_store, json=True),
}
