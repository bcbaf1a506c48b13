"""Mapped weights are let go of, and what others have mapped or written is not."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.runtime.pages import NOWHERE, Pages, opening, without

SIZE = 64 * mmap.PAGESIZE
SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)).map(lambda pair: (pair[0], sum(pair))), max_size=6)
linux = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells where files are mapped")


@contextmanager
def mapped(file: Path) -> Iterator[mmap.mmap]:
    """The file's content, private to the process."""
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as m,
    ):
        yield m


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


@linux
def test_released_pages_are_read_again(file: Path, resident: Callable[[Path], int]) -> None:
    with opening() as opened, mapped(file) as content:
        assert bytes(content) == file.read_bytes()
        assert resident(file) == SIZE
        [pages] = opened.of([file])
        assert len(pages) == SIZE
        pages.release()
        assert resident(file) == 0
        assert bytes(content) == file.read_bytes()


@linux
def test_released_while_they_are_passed(file: Path, resident: Callable[[Path], int]) -> None:
    with opening() as opened, mapped(file) as content:
        [pages] = opened.of([file])
        with pages.passing():
            assert bytes(content) == file.read_bytes()
            limit = time.monotonic() + 10
            while resident(file) and time.monotonic() < limit:
                time.sleep(0.01)
            assert resident(file) == 0
            assert bytes(content) == file.read_bytes()
        assert resident(file) == 0


@linux
def test_only_mappings_since(file: Path, resident: Callable[[Path], int]) -> None:
    with mapped(file) as first, opening() as opened:
        assert opened.of([file]) == [NOWHERE]
        with mapped(file) as second:
            [pages] = opened.of([file])
            assert len(pages) == SIZE
            assert bytes(first) == bytes(second)
            pages.release()
            assert resident(file) == SIZE


@linux
def test_what_was_written_stays(file: Path) -> None:
    with opening() as opened, mapped(file) as content:
        content[5] = 99
        [pages] = opened.of([file])
        pages.release()
        assert content[5] == 99


@linux
def test_each_group_has_its_own(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(mmap.PAGESIZE))
    with opening() as opened, mapped(file), mapped(other):
        first, second, none = opened.of([file], [other], [tmp_path / "missing"])
    assert (len(first), len(second), none) == (SIZE, mmap.PAGESIZE, NOWHERE)


def test_nothing_mapped() -> None:
    with Pages().passing():
        pass
    Pages().release()
