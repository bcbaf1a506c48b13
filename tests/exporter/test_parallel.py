"""Work on all cores: what comes of it does not depend on their number, and nothing is made sooner than it may be."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from edgelm.exporter.formats import parallel
from edgelm.exporter.formats.parallel import Ahead, at_once, pieces_apart, slices
from edgelm.exporter.formats.rounding.cholesky import lower_factor


@pytest.mark.parametrize("count", [1, 7, 512, 513, 576, 960, 3072, 5000])
def test_slices_are_of_about_one_size(count: int) -> None:
    parts = slices(count)
    assert [i for part in parts for i in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) <= 512
    assert count < 4 or len(parts) % 2 == 0, "as many for each of two cores"
    assert max(sizes) - min(sizes) < len(parts)


def test_there_may_be_nothing() -> None:
    assert slices(0) == []


def test_the_next_item_is_made_from_when_it_may_be() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    ahead = Ahead(items())
    assert next(ahead) == 0
    assert made == [0], "not before somebody says so"
    ahead.start()
    ahead.start()
    assert second.wait(10)
    assert list(ahead) == [1, 2]
    assert made == [0, 1, 2]


def test_what_goes_wrong_beside_is_told() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    ahead = Ahead(items())
    assert next(ahead) == 1
    ahead.start()
    with pytest.raises(ValueError, match="the second"):
        next(ahead)
    with pytest.raises(ZeroDivisionError):
        at_once(lambda: 1, lambda: 1 // 0)
    assert at_once(lambda: "a", lambda: 2) == ("a", 2)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (16, 2)])
def test_numpy_keeps_to_its_thread(cores: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: cores)

    def now() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = now()
    if not before:
        pytest.skip("numpy's library cannot be told")
    with pieces_apart():
        assert all(count <= threads for count in now())
    assert now() == before


@pytest.mark.parametrize("size", [1, 5, 128, 129, 700, 2300])
def test_factors_are_those_of_numpy(size: int) -> None:
    rng = np.random.default_rng(size)
    inputs = rng.standard_normal((3 * size, size), dtype=np.float32)
    matrix = inputs.T @ inputs
    expected = np.linalg.cholesky(matrix.astype(np.float64))
    assert lower_factor(matrix.copy()) == pytest.approx(expected, abs=1e-5 * float(expected.max()))
    matrix[size // 2, size // 2] = -1
    with pytest.raises(np.linalg.LinAlgError):
        lower_factor(matrix)
