"""GGUF files of real models: the logits and the tokens that they should give. See tools/real_models.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from parity import load_model, reference
from tokenizers import Tokenizer

from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.pipeline import export
from edgelm.exporter.tokenizer.text_files import read_text
from edgelm.runtime.engine import Engine

pytestmark = pytest.mark.real

TEXT = "The lighthouse keeper counted 365 steps, every evening; at the top the lamp was waiting to be lit again."


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
