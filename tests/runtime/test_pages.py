"""Mapped weights are let go of, and what others have mapped or written is not."""

from __future__ import annotations

import mmap
import os
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.runtime.ort import pages
from edgelm.runtime.ort.pages import NOWHERE, Pages, make, watching, without

SIZE = 64 * mmap.PAGESIZE
SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)).map(lambda pair: (pair[0], sum(pair))), max_size=6)
linux = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells where files are mapped")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Some pages of bytes."""
    path = tmp_path / "weights of a model.data"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


def covered(spans: list[tuple[int, int]]) -> set[int]:
    return {place for start, end in spans for place in range(start, end)}


@given(SPANS, SPANS)
def test_ranges_without_others(spans: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    found = without(spans, others)
    assert all(start < end for start, end in found)
    assert covered(found) == covered(spans) - covered(others)


def opened(file: Path) -> mmap.mmap:
    """In place of a session: the file's content, private to the process."""
    with file.open("rb") as source:
        return mmap.mmap(source.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)


def watched(*files: Path) -> tuple[list[mmap.mmap], Pages]:
    """The files mapped, and where."""
    with watching() as watch:
        sessions = [make(lambda file=file: opened(file), watched=True) for file in files]  # type: ignore[misc]
    return sessions, watch.pages(sessions, *files)


@linux
def test_released_pages_are_read_again(file: Path, resident: Callable[[Path], int]) -> None:
    [content], where = watched(file)
    assert content[:] == file.read_bytes()
    assert (resident(file), len(where)) == (SIZE, SIZE)
    where.release()
    assert resident(file) == 0
    assert content[:] == file.read_bytes()


@linux
def test_released_while_they_are_passed(file: Path, resident: Callable[[Path], int]) -> None:
    [content], where = watched(file)
    with where.passing():
        assert content[:] == file.read_bytes()
        limit = time.monotonic() + 10
        while resident(file) and time.monotonic() < limit:
            time.sleep(0.01)
        assert resident(file) == 0
        assert content[:] == file.read_bytes()
    assert resident(file) == 0


@linux
def test_other_mappings_are_left_alone(file: Path, resident: Callable[[Path], int]) -> None:
    before = opened(file)
    with watching() as watch:
        temporary = make(lambda: opened(file), watched=False)
        session = make(lambda: opened(file), watched=True)
        other = make(lambda: opened(file), watched=True)
    after = opened(file)
    where = watch.pages([session], file)
    assert len(where) == SIZE
    assert before[:] == temporary[:] == session[:] == other[:] == after[:]
    where.release()
    assert resident(file) == 4 * SIZE
    assert watch.pages([temporary], file) == NOWHERE


@linux
def test_another_thread_s_are_left_alone(file: Path) -> None:
    with watching() as watch, ThreadPoolExecutor(1) as pool:
        session = make(lambda: opened(file), watched=True)
        other = pool.submit(make, lambda: opened(file), watched=True).result()
    assert len(watch.pages([session], file)) == SIZE
    assert watch.pages([other], file) == NOWHERE


@linux
def test_one_is_made_at_a_time(file: Path) -> None:
    started, seen = threading.Event(), list[bool]()
    with ThreadPoolExecutor(1) as pool:

        def slow() -> mmap.mmap:
            other = pool.submit(make, lambda: seen.append(True), watched=False)
            started.wait(0.05)
            assert not other.done()
            return opened(file)

        make(slow, watched=True)
    assert seen == [True]


@linux
def test_what_was_written_stays(file: Path) -> None:
    def written() -> mmap.mmap:
        content = opened(file)
        content[5] = 99
        return content

    with watching() as watch:
        content = make(written, watched=True)
    watch.pages([content], file).release()
    assert content[5] == 99


@linux
def test_each_file_by_itself(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(mmap.PAGESIZE))
    with watching() as watch:
        both = [make(lambda path=path: opened(path), watched=True) for path in (file, other)]  # type: ignore[misc]
    assert [len(watch.pages(both, path)) for path in (file, other)] == [SIZE, mmap.PAGESIZE]
    assert watch.pages(both, tmp_path / "missing") == NOWHERE


@linux
@pytest.mark.parametrize("table", ["_MAPS", "_SMAPS"])
def test_nothing_is_known_where_either_table_cannot_be_read(
    file: Path, tmp_path: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, table, tmp_path / "missing")
    assert watched(file)[1] == NOWHERE


@linux
def test_a_child_of_a_fork_makes_sessions_too() -> None:
    held, free = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(make, lambda: (held.set(), free.wait()), watched=False)
        held.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # there are threads: that is what it is about
            child = os.fork()
        if not child:
            os._exit(make(lambda: 7, watched=False))
        free.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_nothing_mapped() -> None:
    with NOWHERE.passing():
        NOWHERE.release()
    assert len(NOWHERE) == 0
