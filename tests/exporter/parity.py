"""Checks that every family shares: a bundle's engine gives the logits that transformers gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgelm.exporter.formats.registry import make_format
from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine
from edgelm.target.target import load_target

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PREFILL = 40  # more than the window, and more than pre-training's 32 positions
NEW_TOKENS = 64
END = 2


class Agreement(NamedTuple):
    """How near a quantised bundle is to transformers' fp32."""

    top1: float
    correlation: float


def some_ids(count: int = 100) -> np.ndarray:
    """Random ids of the tiny vocabulary, without its special tokens."""
    return np.random.default_rng(0).integers(3, 300, count)


def load_pair(
    checkpoint: Path, output: Path, quant: str = "fp32", target: str = "x86-64", **options: Any
) -> tuple[Engine, Any]:
    """(engine of a bundle of the checkpoint by the native export path, transformers' fp32 model of it)."""
    bundle = export(checkpoint, target, quant, output=output, exporter="native", **options)
    return Engine.load(bundle), load_model(checkpoint)


def pairs(shapes: Mapping[str, Mapping[str, Any]], *, options: Mapping[str, Any] | None = None, **common: Any) -> Any:
    """The fixture of a family's tests: (engine of the fp32 bundle, transformers' model) of each shape in turn.

    Shapes are arguments of `tiny_checkpoint`, and `common` what all of them share; `options` are those of `export`.
    """

    @pytest.fixture(params=shapes, scope="module")
    def pair(
        request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
    ) -> tuple[Engine, Any]:
        checkpoint = tiny_checkpoint(**{**common, **shapes[request.param]})
        return load_pair(checkpoint, tmp_path_factory.mktemp("bundle") / "b", **options or {})

    return pair


def load_model(checkpoint: Path) -> Any:
    """The fp32 model in transformers; eager, as its other attentions leave out soft caps."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def reference(model: Any, ids: np.ndarray) -> np.ndarray:
    """Logits of every position in one go, float32 [n, V]."""
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor(ids[None])).logits[0].numpy()
    return logits


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """Within a thousandth of the logits' range."""
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.ptp(expected))


def check_prefill(engine: Engine, model: Any, ids: np.ndarray) -> None:
    """All at once."""
    engine.reset()
    close(engine.forward(ids, num_logits=len(ids)), reference(model, ids))


def check_decode(engine: Engine, model: Any, ids: np.ndarray) -> None:
    """Token by token after a first prefill, past the window."""
    engine.reset()
    expected = reference(model, ids)
    close(engine.forward(ids[:PREFILL]), expected[PREFILL - 1 : PREFILL])
    for position in range(PREFILL, len(ids)):
        close(engine.forward(ids[position : position + 1]), expected[position : position + 1])


def check_rewind(engine: Engine, model: Any, ids: np.ndarray) -> None:
    """After a rewind, and in pieces."""
    engine.reset()
    engine.forward(ids[::-1])
    engine.rewind(0)
    engine.forward(ids[:70])
    engine.rewind(30)
    expected = reference(model, ids)
    close(engine.forward(ids[30:55], num_logits=3), expected[52:55])
    close(engine.forward(ids[55:56]), expected[55:56])
    close(engine.forward(ids[56:90], num_logits=34), expected[56:90])


def check_greedy(engine: Engine, model: Any, ids: np.ndarray) -> None:
    """The same tokens as `generate` makes after a short prompt."""
    prompt = ids[:20]
    with torch.no_grad():
        out = model.generate(
            torch.tensor(prompt[None]),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=END,
        )
    engine.reset()
    logits, found = engine.forward(prompt), []
    for _ in range(NEW_TOKENS):
        # generate() suppresses the end token until min_new_tokens are made
        found.append(int(np.delete(logits[0], END).argmax()))
        found[-1] += found[-1] >= END
        logits = engine.forward([found[-1]])
    assert found == out[0, len(prompt) :].tolist()


CHECKS: dict[str, Callable[[Engine, Any, np.ndarray], None]] = {
    "prefill": check_prefill,
    "token-by-token": check_decode,
    "after-rewind": check_rewind,
    "greedy": check_greedy,
}


def agreement(engine: Engine, model: Any, ids: np.ndarray) -> Agreement:
    """Share of positions with the same likeliest token, and Pearson correlation of all logits."""
    engine.reset()
    found, expected = engine.forward(ids, num_logits=len(ids)), reference(model, ids)
    same = float(np.mean(found.argmax(axis=1) == expected.argmax(axis=1)))
    return Agreement(same, float(np.corrcoef(found.ravel(), expected.ravel())[0, 1]))


def round_weights(model: Any, quant: str, target: str) -> None:
    """Round the model's matrices as the target's recipe does: what is left to differ is the rounding of activations."""
    recipe = load_target(target).recipe(quant)
    body, head = make_format(recipe.body), make_format(recipe.head)
    tables = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                format, weight = head if id(parameter) in tables else body, parameter.numpy()
                parameter.copy_(torch.from_numpy(format.fit(weight.shape[1]).rounded(weight)))
