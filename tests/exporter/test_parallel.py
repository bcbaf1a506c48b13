"""Work on all cores: what comes of it does not depend on their number, and nothing is made sooner than it may be."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from edgelm.exporter.calibration import moments
from edgelm.exporter.formats import parallel
from edgelm.exporter.formats.parallel import Ahead, Stopped, at_once, pieces_apart, slices
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


def test_what_is_made_beside_ends_with_what_failed() -> None:
    going, stop, ended = threading.Event(), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        going.set()
        if stop.wait(10):
            ended.set()
            raise Stopped
        yield 1

    def use() -> None:
        with Ahead(items(), stop) as ahead:
            assert next(ahead) == 0
            ahead.start()
            assert going.wait(10)
            raise ValueError("disk full")

    with pytest.raises(ValueError, match="disk full"):
        use()
    assert ended.is_set(), "nothing goes on once the context is left"

    stop = threading.Event()
    with pytest.raises(ZeroDivisionError):
        at_once(lambda: 1 // 0, lambda: stop.wait(10), stop)
    assert stop.is_set()


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_numpy_keeps_to_its_thread_until_the_last_has_ended() -> None:
    before = blas_threads()
    first, second = pieces_apart(), pieces_apart()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(blas_threads()) <= {1}
    second.__exit__(None, None, None)
    assert blas_threads() == before


@pytest.mark.parametrize("width", [96, 600])
def test_the_number_of_cores_changes_no_bit(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((4500, width), dtype=np.float32)
    exact = inputs + np.float32(0.1) * rng.standard_normal(inputs.shape, dtype=np.float32)
    weight = rng.standard_normal((1200, width), dtype=np.float32)
    made = []
    for cores in (1, 2, 16):
        monkeypatch.setattr(parallel, "cores", lambda cores=cores: cores)
        with pieces_apart():
            sums = moments.hessian(inputs)
            correction = moments.correction(inputs, exact, sums)
            assert correction is not None
            made.append((sums, moments._by_columns(inputs), correction.of(weight), lower_factor(sums.copy())))
    for other in made[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(made[0], other, strict=True))
    assert made[0][1] == pytest.approx(inputs.T @ inputs, rel=1e-4, abs=1e-2)


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
