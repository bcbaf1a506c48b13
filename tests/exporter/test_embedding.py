"""Bundles that embed texts: the vectors that transformers' hidden states give, pooled as sentence-transformers pools."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgelm
from edgelm.bundle.reader import HIDDEN, Bundle
from edgelm.cli import main
from edgelm.errors import CheckpointError, EdgeLMError, OptionError, PromptError, TaskError, UnsupportedModelError
from edgelm.exporter.checkpoint.sentence_transformers import read_embedding
from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine
from edgelm.runtime.lm import LM

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXTS = ["the lamp in the kitchen is on", "a", "Once upon a time there was a cat. " * 3, "ünïcode 灯"]
QWEN3 = {"kind": "qwen3", "head_dim": 32, "tie_word_embeddings": True}
PACKAGE = "sentence_transformers.models"


def describe(folder: Path, mode: str | None = "lasttoken", *, normalize: bool = True, **prompts: Any) -> Path:
    """Write what sentence-transformers writes beside a model."""
    kinds = ["Transformer", *(["Pooling"] if mode else []), *(["Normalize"] if normalize else [])]
    modules = [
        {"idx": i, "name": str(i), "path": "" if not i else f"{i}_{kind}", "type": f"{PACKAGE}.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {f"pooling_mode_{name}": name == mode for name in ("lasttoken", "mean_tokens", "cls_token")}
    modes[f"pooling_mode_{mode}"] = True
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **modes}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


def hidden_states(checkpoint: Path, ids: list[int]) -> np.ndarray:
    """Transformers' last hidden states, float32 [n, hidden]."""
    model = transformers.AutoModel.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        found: np.ndarray = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    return found


def pooled(states: np.ndarray, mode: str) -> np.ndarray:
    weights = np.arange(1, len(states) + 1)[:, None]
    return {
        "lasttoken": states[-1],
        "cls_token": states[0],
        "mean_tokens": states.mean(0),
        "weightedmean_tokens": (states * weights).sum(0) / weights.sum(),
    }[mode]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[..., Path]) -> Path:
    prompts = {"query": "Find: ", "document": ""}
    return describe(tiny_checkpoint(**QWEN3), prompts=prompts, default_prompt_name=None, similarity_fn_name="cosine")


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(checkpoint, "x86-64", "fp32", output=tmp_path_factory.mktemp("embed") / "b", task="embedding")


@pytest.fixture(scope="module")
def lm(bundle: Bundle) -> LM:
    return edgelm.load(bundle.path)


def test_vectors_are_those_of_transformers(checkpoint: Path, lm: LM) -> None:
    found = lm.embed(TEXTS)
    assert found.shape == (len(TEXTS), 64)
    assert found.dtype == np.float32
    for text, vector, ids in zip(TEXTS, found, lm.encode_texts(TEXTS), strict=True):
        assert ids == lm.tokenizer.encode(text)
        last = hidden_states(checkpoint, ids)[-1]
        np.testing.assert_allclose(vector, last / np.linalg.norm(last), atol=2e-5, err_msg=text)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("mode", ["mean_tokens", "weightedmean_tokens", "cls_token"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_other_poolings_unnormalised(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, mode: str, kind: str
) -> None:
    source = describe(tiny_checkpoint(kind=kind, max_position_embeddings=400), mode, normalize=False)
    made = export(source, "x86-64", "fp32", output=tmp_path / "b", task="embedding", context=400)
    with edgelm.load(made.path) as lm:
        texts = ["on " * 120, "the lamp"]  # the first takes two passes
        for vector, ids in zip(lm.embed(texts), lm.encode_texts(texts), strict=True):
            np.testing.assert_allclose(vector, pooled(hidden_states(source, ids), mode), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("quant", "least"), [("int8", 0.995), ("int4", 0.85)])
def test_quantised_vectors_point_the_same_way(
    checkpoint: Path, lm: LM, tmp_path: Path, quant: str, least: float
) -> None:
    made = export(checkpoint, "x86-64", quant, output=tmp_path / "b", task="embedding")
    with edgelm.load(made.path) as small:
        near = [cosine(a, b) for a, b in zip(small.embed(TEXTS), lm.embed(TEXTS), strict=True)]
    assert min(near) > least, near


def test_the_graph_has_no_head(bundle: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    assert bundle.manifest.embedding is not None
    assert bundle.manifest.embedding.pooling == "last"
    assert bundle.manifest.embedding.normalized
    assert "genai_config.json" not in bundle.files
    chat = export(checkpoint, "x86-64", "fp32", output=tmp_path / "chat", card="none")
    assert bundle.size < chat.size
    import onnx_ir

    graph = onnx_ir.load(bundle.model_path).graph
    assert graph.outputs[0].name == HIDDEN
    again = export(checkpoint, "x86-64", "fp32", output=tmp_path / "again", task="embedding")
    assert again.digest == bundle.digest
    assert Bundle.open(bundle.path).manifest == bundle.manifest


def test_an_untied_head_is_left_out(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = describe(tiny_checkpoint(kind="qwen3", head_dim=16, tie_word_embeddings=False))
    made = export(source, "rpi5", "int8", output=tmp_path / "b", task="embedding")
    assert made.manifest.model.parameters < sum(
        p.numel() for p in transformers.AutoModelForCausalLM.from_pretrained(source).parameters()
    )
    bare = transformers.AutoModel.from_pretrained(source)
    bare.save_pretrained(tmp_path / "bare")  # names without "model.", as Qwen3-Embedding's file has them
    for file in source.iterdir():
        if file.is_file() and file.name not in ("config.json", "model.safetensors"):
            (tmp_path / "bare" / file.name).write_bytes(file.read_bytes())
    describe(tmp_path / "bare")
    same = export(tmp_path / "bare", "rpi5", "int8", output=tmp_path / "c", task="embedding")
    assert same.files["model.onnx.data"] == made.files["model.onnx.data"]


def test_prompts_stand_before_texts(lm: LM) -> None:
    asked, plain, joined = lm.embed(["lamp"], prompt="query"), lm.embed(["lamp"]), lm.embed(["Find: lamp"], prompt="")
    np.testing.assert_array_equal(asked, joined)
    assert not np.allclose(asked, plain)
    with pytest.raises(OptionError, match="no prompt 'answer'"):
        lm.embed(["lamp"], prompt="answer")


def test_what_cannot_be_embedded_is_told(lm: LM) -> None:
    with pytest.raises(PromptError, match="context is 128"):
        lm.embed(["fine", "word " * 400])
    with pytest.raises(PromptError, match="list of str"):
        lm.embed("text")
    with pytest.raises(PromptError, match="not int"):
        lm.embed([7])  # type: ignore[list-item]
    assert lm.embed([]).shape == (0, 64)


def test_each_kind_of_bundle_refuses_what_the_other_does(bundle: Bundle, lm: LM, tiny_bundle: Bundle) -> None:
    with pytest.raises(TaskError, match="generates no text"):
        lm.generate("hello")
    with pytest.raises(TaskError, match="generates no text"):
        Engine.load(bundle)
    with edgelm.load(tiny_bundle.path) as chat, pytest.raises(TaskError, match="makes no embeddings"):
        chat.embed(["hello"])
    with pytest.raises(TaskError, match="generates no text"):
        edgelm.load(tiny_bundle.path, draft=bundle.path)


@pytest.mark.parametrize("command", [["run", "-p", "x"], ["chat"], ["bench"], ["eval", "--text", "builtin"]])
def test_commands_that_generate_say_so_in_one_line(
    bundle: Bundle, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command[0], str(bundle.path), *command[1:]]) == 1
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"error: {bundle.path.name} was exported for embeddings: it generates no text"


def test_the_command_prints_json_lines(
    bundle: Bundle,
    lm: LM,
    tiny_bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["embed", str(bundle.path), "lamp", "light", "--prompt", "query"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["text"] for record in records] == ["lamp", "light"]
    vectors = [record["embedding"] for record in records]
    np.testing.assert_allclose(vectors, lm.embed(["lamp", "light"], prompt="query"), rtol=1e-6)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"lamp\n\nlight\n")))
    assert main(["embed", str(bundle.path)]) == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["lamp", "light"]
    assert main(["embed", str(tiny_bundle.path), "lamp"]) == 1
    assert "generates text: it makes no embeddings" in capsys.readouterr().err
    assert main(["inspect", str(bundle.path)]) == 0
    shown = capsys.readouterr().out
    assert "embedding: 64 numbers, the last token's hidden state, scaled to length 1" in shown
    assert "  head" not in shown


def test_exports_that_cannot_be_are_refused(
    checkpoint: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    for options in ({"quant": "auto"}, {"max_kld": 0.1}, {"lora_ready": True}, {"card": "builtin"}):
        with pytest.raises(OptionError, match="exclude each other"):
            export(checkpoint, "x86-64", output=tmp_path / "b", task="embedding", **options)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="task must be"):
        export(checkpoint, "x86-64", output=tmp_path / "b", task="summary")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModelError, match="native"):
        export(checkpoint, "x86-64", output=tmp_path / "b", task="embedding", exporter="optimum")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "content", "kind", "message"),
    [
        ("modules.json", "{", CheckpointError, "not valid JSON"),
        ("modules.json", '{"a": 1}', CheckpointError, "list of objects"),
        ("modules.json", '[{"path": "", "type": 7}]', CheckpointError, "'modules.*type' must be a string"),
        ("modules.json", '[{"path": "../x", "type": "a.Pooling"}]', CheckpointError, "no folder of the checkpoint"),
        ("modules.json", '[{"path": "2_Dense", "type": "a.Dense"}]', UnsupportedModelError, "module 'Dense'"),
        ("modules.json", '[{"path": "", "type": "a.Transformer"}]', UnsupportedModelError, "names no Pooling"),
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}', UnsupportedModelError, "pool by max_tokens"),
        ("1_Pooling/config.json", "{}", UnsupportedModelError, "pool by none"),
        ("1_Pooling/config.json", "[]", CheckpointError, "expected a JSON object"),
        ("config_sentence_transformers.json", '{"prompts": {"a": 1}}', CheckpointError, "must be a string"),
    ],
)
def test_damaged_descriptions_are_an_error_that_names_the_file(
    tmp_path: Path, file: str, content: str, kind: type[EdgeLMError], message: str
) -> None:
    describe(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(kind, match=message) as caught:
        read_embedding(tmp_path)
    assert str(tmp_path / file) in str(caught.value)


def test_newer_descriptions_name_one_mode(tmp_path: Path) -> None:
    describe(tmp_path, "mean_tokens", normalize=False)
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    found = read_embedding(tmp_path)
    assert found is not None
    assert (found.pooling, found.normalized) == ("mean", False)
    (tmp_path / "modules.json").unlink()
    assert read_embedding(tmp_path) is None
