"""GGUF files of real models: the logits and the tokens that they should give. See tools/real_models.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import load_model, reference
from tokenizers import Tokenizer

from edgelm.evaluate.card import compare
from edgelm.evaluate.passages import load_passages
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.pipeline import export
from edgelm.exporter.tokenizer.text_files import read_text
from edgelm.runtime.engine import Engine

pytestmark = pytest.mark.real

TEXT = "The lighthouse keeper counted 365 steps, every evening; at the top the lamp was waiting to be lit again."

REFERENCE = Path(__file__).with_name("llama_cpp.json")  # see tools/llama_cpp_reference.py


@pytest.fixture(scope="module")
def llama_cpp() -> dict[str, Any]:
    """What llama.cpp makes of the same files."""
    found: dict[str, Any] = json.loads(REFERENCE.read_text())
    return found


@pytest.fixture(scope="module")
def gemma(real_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The fp32 bundle of Gemma 3 270M's file."""
    file, folder = real_model("gemma3-270m"), tmp_path_factory.mktemp("gemma")
    return Engine.load(
        export(file, "x86-64", "fp32", context=1024, output=folder / "b", card="none", calibrate="none", force=True)
    )


def check_ids(file: Path, lines: list[str], expected: list[list[int]]) -> None:
    tokenizer = read_text(file, Checkpoint(file).config).tokenizer
    found = [tokenizer.encode(line).ids for line in lines]
    assert [line for line, ids, wanted in zip(lines, found, expected, strict=True) if ids != wanted] == []


def test_smollm2_has_llama_cpps_ids(real_model: Callable[[str], Path], llama_cpp: dict[str, Any]) -> None:
    file = real_model("smollm2-135m")
    assert len(llama_cpp["lines"]) >= 400
    check_ids(file, llama_cpp["lines"], llama_cpp["models"]["smollm2-135m"]["ids"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_gemma_has_llama_cpps_ids(real_model: Callable[[str], Path], llama_cpp: dict[str, Any]) -> None:
    check_ids(real_model("gemma3-270m"), llama_cpp["lines"], llama_cpp["models"]["gemma3-270m"]["ids"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_gemma_writes_what_llama_cpp_writes(gemma: Engine, llama_cpp: dict[str, Any]) -> None:
    """The same token wherever llama.cpp's first two candidates are more than 0.05 apart in log-probability."""
    for text in llama_cpp["models"]["gemma3-270m"]["greedy"]:
        ids, tokens, margins = text["ids"] + text["tokens"], np.array(text["tokens"]), np.array(text["margins"])
        gemma.reset()
        found = gemma.forward(ids[:-1], num_logits=len(tokens)).argmax(axis=1)
        clear = margins > 0.05
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(found[clear], tokens[clear])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_gemma_has_llama_cpps_perplexity(
    gemma: Engine, real_model: Callable[[str], Path], data_dir: Path, llama_cpp: dict[str, Any]
) -> None:
    file, losses = real_model("gemma3-270m"), []
    text = (data_dir / "wikitext-2" / "test.txt").read_text(encoding="utf-8")[:40_000]
    tokenizer = read_text(file, Checkpoint(file).config).tokenizer
    tokenizer.encode_special_tokens = True  # WikiText's <unk> is text, not the token of that name
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    for start in range(0, 8 * 512, 512):
        chunk = [2, *ids[start + 1 : start + 512]]
        gemma.reset()
        logits = gemma.forward(chunk, num_logits=256)[:255]
        # Row by row: in float64 a vocabulary of 262,144 would take half a gigabyte.
        losses += [
            np.log(np.exp(row - row.max()).sum()) + row.max() - row[i]
            for row, i in zip(logits, chunk[257:], strict=True)
        ]
    expected = llama_cpp["models"]["gemma3-270m"]["perplexity"]
    assert float(np.exp(np.mean(losses))) == pytest.approx(expected, rel=0.005)


@pytest.mark.timeout(600)
def test_smollm2_has_transformers_logits(
    real_model: Callable[[str], Path], dither: Callable[..., Path], tmp_path: Path
) -> None:
    file = real_model("smollm2-135m")
    ids = np.array(read_text(file, Checkpoint(file).config).tokenizer.encode(TEXT).ids)
    assert len(ids) > 20
    engine = Engine.load(export(file, "x86-64", "fp32", output=tmp_path / "b", card="none"))
    expected = reference(load_model(dither(file, tmp_path / "plain", None)), ids)
    np.testing.assert_allclose(engine.forward(ids, num_logits=len(ids)), expected, atol=1e-3)


def test_smollm2_has_its_tokenizer(real_model: Callable[[str], Path], data_dir: Path) -> None:
    file = real_model("smollm2-135m")
    found = read_text(file, Checkpoint(file).config)
    expected = Tokenizer.from_file(str(data_dir / "tokenizers" / "smollm2" / "tokenizer.json"))
    lines = (data_dir / "wikitext-2" / "test.txt").read_text(encoding="utf-8").splitlines(keepends=True)[:500]
    lines += [
        "  x\t\n\n y",
        "πŸ 😀👩‍👩‍👧 ٣٤٥ ½ ²",
        "def f(a):\n    return a['k'] + 1\n",
        "<|im_start|>user\nHi<|im_end|>\n",
        "don't I'LL",
    ]
    assert [found.tokenizer.encode(line).ids for line in lines] == [expected.encode(line).ids for line in lines]
    assert (found.special.bos, found.special.eos, found.special.pad) == (1, (2, 0), 2)
    assert found.template is not None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_smollm2_loses_no_more_than_is_promised(
    real_model: Callable[[str], Path], dither: Callable[..., Path], data_dir: Path, tmp_path: Path
) -> None:
    """On a base that favours no format, calibrated on edgelm's own text: docs/notes/quality.md has the same on more chunks."""
    base = dither(real_model("smollm2-135m"), tmp_path / "base", 0)
    text = load_passages(data_dir / "wikitext-2" / "test.txt", "evaluation")
    exact = export(base, "x86-64", "fp32", output=tmp_path / "fp32", card="none")

    def lost(quant: str, size: str, most: float) -> float:
        made = export(base, "x86-64", quant, output=tmp_path / quant, card="none", max_size=size, calibrate="builtin")
        kld = compare(exact, made, text, chunks=4).mean
        assert kld < most, (quant, kld)
        return kld

    int4 = lost("int4", "98.4MB", 0.1)
    assert lost("int8", "146MB", 0.006) < int4 / 10
    assert lost("auto", "105MB", 0.06) < 0.75 * int4
