"""A trimmed model beside its original: over the tokens of both, the original's probabilities shared out anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from edgelm import demo
from edgelm.bundle.reader import Bundle
from edgelm.errors import EdgeLMError
from edgelm.evaluate.card import compare
from edgelm.evaluate.divergence import divergence
from edgelm.evaluate.passages import load_passages
from edgelm.evaluate.vocab_subset import KeptScores, ids_in
from edgelm.exporter.pipeline import export
from edgelm.runtime.text.prompt import text_tools

KEPT = np.array([0, 3, 4, 7, 9])


class FakeEngine:
    """Logits by the last token alone."""

    def __init__(self, table: np.ndarray) -> None:
        self.table, self.context, self.vocab_size = table.astype(np.float32), 16, table.shape[1]

    def reset(self) -> None:
        pass

    def forward(self, ids, num_logits=1):
        return self.table[np.asarray(ids)[-num_logits:]]


@pytest.fixture
def table() -> np.ndarray:
    return 3 * np.random.default_rng(0).standard_normal((10, 10))


def test_logits_of_the_kept_tokens_alone(table: np.ndarray) -> None:
    kept = KeptScores(FakeEngine(table), KEPT)
    assert (kept.vocab_size, kept.context) == (5, 16)
    np.testing.assert_array_equal(kept.forward([1, 4], 2), table[[3, 9]][:, KEPT].astype(np.float32))


def test_figures_are_those_of_the_original_shared_out(table: np.ndarray) -> None:
    other = table[KEPT][:, KEPT] + 0.5 * np.random.default_rng(1).standard_normal((5, 5))
    kept = KeptScores(FakeEngine(table), KEPT)
    ids = np.random.default_rng(2).integers(0, 5, 16 * 3)
    found = divergence(kept, FakeEngine(other), ids)
    rows = ids.reshape(3, 16)[:, 8:15].ravel()
    whole = softmax(table, axis=1)[KEPT[rows]]
    p = whole[:, KEPT] / whole[:, KEPT].sum(axis=1, keepdims=True)
    assert found.mean == pytest.approx(entropy(p, softmax(other, axis=1)[rows], axis=1).mean(), rel=1e-4)
    assert kept.outside == pytest.approx(1 - whole[:, KEPT].sum(axis=1).mean(), rel=1e-5)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("home")
    lines = demo.heldout().read_text(encoding="utf-8").splitlines()
    domain = folder / "domain.jsonl"
    domain.write_text("\n".join(lines[:200]), encoding="utf-8")
    return {
        name: export(None, "x86-64", quant, output=folder / name, trim_vocab=wanted, card="none")
        for name, quant, wanted in (
            ("whole", "fp32", None),
            ("exact", "fp32", domain),
            ("small", "int4", domain),
            ("german", "fp32", "de"),
        )
    }


def text_of(folder: Path, lines: slice) -> Path:
    file = folder / "text.jsonl"
    file.write_text("\n".join(demo.heldout().read_text(encoding="utf-8").splitlines()[lines]), encoding="utf-8")
    return file


def test_trimming_alone_costs_nothing(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    passages = load_passages(text_of(tmp_path, slice(0, 200)), "evaluation")
    found = compare(bundles["whole"], bundles["exact"], passages, chunks=2)
    assert found.mean == pytest.approx(0, abs=1e-6)
    assert found.same_top == 1
    assert found.outside is not None
    assert 0 < found.outside < 0.1
    assert found.to_dict()["outside_vocabulary"] == found.outside


def test_rounding_is_told_as_for_whole_models(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    passages = load_passages(text_of(tmp_path, slice(0, 200)), "evaluation")
    against_whole = compare(bundles["whole"], bundles["small"], passages, chunks=2)
    against_trimmed = compare(bundles["exact"], bundles["small"], passages, chunks=2)
    assert against_whole.mean == pytest.approx(against_trimmed.mean, rel=1e-3)
    assert against_trimmed.outside is None


def test_a_text_that_needs_what_is_gone(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    file = tmp_path / "odd.txt"
    file.write_text("Perpendicular symphonies whirl beyond quartz archives. " * 200, encoding="utf-8")
    with pytest.raises(EdgeLMError, match=r"odd.txt needs tokens that .* was trimmed of") as caught:
        compare(bundles["whole"], bundles["small"], load_passages(file, "evaluation"))
    assert caught.value.hint == "take a text of the domain it was trimmed to"


def test_the_trimmed_one_is_the_one_to_measure(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    passages = load_passages(text_of(tmp_path, slice(0, 200)), "evaluation")
    with pytest.raises(EdgeLMError, match="different tokenizers") as caught:
        compare(bundles["exact"], bundles["whole"], passages)
    assert caught.value.hint == f"the first has a trimmed vocabulary: measure it --against {bundles['whole'].path}"


def test_vocabularies_cut_in_two_ways(bundles: dict[str, Bundle]) -> None:
    small, large = (text_tools(bundles[name])[0] for name in ("small", "whole"))
    ids = ids_in(small, large, bundles["small"].manifest.graph.vocab)
    assert (np.diff(ids) > 0).all()
    with pytest.raises(EdgeLMError, match=r"the other model has no token .* more"):
        ids_in(large, small, bundles["whole"].manifest.graph.vocab)


def test_the_command_tells_what_is_left_out(bundles: dict[str, Bundle], tmp_path: Path, capsys) -> None:
    from edgelm.cli import main

    text = text_of(tmp_path, slice(0, 200))
    options = ["--against", bundles["whole"].path, "--text", text, "--chunks", "2"]
    assert main(["eval", *map(str, [bundles["small"].path, *options])]) == 0
    assert "P of trimmed tokens" in capsys.readouterr().out
    assert main(["eval", *map(str, [bundles["small"].path, *options]), "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["against"]["outside_vocabulary"] < 0.1
