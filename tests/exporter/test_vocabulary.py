"""Trimmed vocabularies: the same model on its domain, every id in its place, and all that may be wrong with a domain."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_lora import write_adapter
from test_prequantized import gptq, quantise, settings_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from edgelm import demo
from edgelm.bundle.reader import Bundle
from edgelm.errors import CheckpointError, EdgeLMError, OptionError, UnsupportedModelError
from edgelm.exporter.pipeline import export
from edgelm.exporter.progress import Progress
from edgelm.exporter.tokenizer.vocabulary import Domain
from edgelm.runtime.engine import Engine
from edgelm.runtime.lm import load
from edgelm.runtime.text.prompt import text_tools

VOCAB = 512
TEXT = "The lamp in the kitchen is on. Turn the lamp off, please! The kitchen lamp is off now.\n"
OTHER = "Der Ofen im Wohnzimmer: größer, wärmer und öfter an. Печь в комнате. 部屋の炉 🙂\n"
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
TEMPLATE = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>Says: {{ m.content }}</s>{% endfor %}"


def give_tokenizer(folder: Path, *, template: str | None = TEMPLATE, last: str | None = None) -> None:
    """A byte-level tokenizer learned from both texts, special ones first, and `last` at the very end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL)
    tokenizer.train_from_iterator([TEXT * 3, OTHER * 3, "Says: "], trainer)
    if last is not None:
        tokenizer.add_special_tokens([last])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    settings["added_tokens_decoder"] = {
        str(i): {"content": str(token), "special": True, "normalized": False}
        for i, token in tokenizer.get_added_tokens_decoder().items()
    }
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def checkpoint_of(tiny_checkpoint: Callable[..., Path]) -> Callable[..., Path]:
    """`checkpoint_of(kind, **config)`: with a vocabulary that has something to drop."""

    def make(kind: str = "llama", *, last: str | None = None, template: str | None = TEMPLATE, **config: Any) -> Path:
        folder = tiny_checkpoint(kind, vocab_size=VOCAB, num_hidden_layers=2, **config)
        give_tokenizer(folder, last=last, template=template)
        return folder

    return make


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("domain") / "kitchen.txt"
    file.write_text(TEXT * 5, encoding="utf-8")
    return file


def ids_of(bundle: Bundle, checkpoint: Path) -> np.ndarray:
    """The ids in the checkpoint of a bundle's tokens."""
    full = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    small = Tokenizer.from_file(str(bundle.tokenizer_path))
    found = [full.token_to_id(small.id_to_token(i)) for i in range(bundle.manifest.graph.vocab)]
    return np.array(found)


def check_same_model(checkpoint: Path, folder: Path, text: Path, quant: str = "fp32", **options: Any) -> Bundle:
    """The logits of what is kept are those of the whole model."""
    target = options.pop("target", "x86-64")
    whole = export(checkpoint, target, quant, output=folder / "whole", **options)
    trimmed = export(checkpoint, target, quant, output=folder / "trimmed", trim_vocab=text, **options)
    rows = ids_of(trimmed, checkpoint)
    assert len(rows) < trimmed.manifest.vocabulary.of == VOCAB
    assert len(rows) < Tokenizer.from_file(str(checkpoint / "tokenizer.json")).get_vocab_size() - 50
    assert (np.diff(rows) > 0).all()
    ids = np.random.default_rng(0).integers(0, len(rows), 40)
    with_all = Engine.load(whole).forward(rows[ids], 40)
    found = Engine.load(trimmed).forward(ids, 40)
    np.testing.assert_allclose(found, with_all[:, rows], atol=1e-5 * np.ptp(with_all))
    return trimmed


KINDS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"tie_word_embeddings": False},
    "phi": {"partial_rotary_factor": 0.5, "num_key_value_heads": 4},  # a head with a bias
    "gpt2": {},
    "gpt_neox": {"tie_word_embeddings": False},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
}


@pytest.mark.parametrize("kind", KINDS)
def test_families(checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path, kind: str) -> None:
    check_same_model(checkpoint_of(kind, **KINDS[kind]), tmp_path, text, exporter="native")


@pytest.mark.parametrize(
    ("target", "quant"), [("rpi5", "int4"), ("rpi5", "int8"), ("x86-64", "int8"), ("x86-64", "fp16")]
)
@pytest.mark.parametrize("tied", [True, False])
def test_recipes(
    checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path, target: str, quant: str, tied: bool
) -> None:
    """A row is rounded on its own, so those that stay are the same."""
    checkpoint = checkpoint_of(tie_word_embeddings=tied)
    trimmed = check_same_model(checkpoint, tmp_path, text, quant, target=target, card="none")
    found = trimmed.manifest.to_dict()["vocabulary"]
    saved = Bundle.open(tmp_path / "whole").files["model.onnx.data"].bytes - trimmed.files["model.onnx.data"].bytes
    assert abs(found["saved_bytes"] - saved) < 8192  # two tables begin on pages


@pytest.mark.parametrize(
    "kind",
    [
        "phi",  # two tables, a bias
        pytest.param("gpt_neox", marks=pytest.mark.slow),
        pytest.param("bloom", marks=pytest.mark.slow),  # one table
    ],
)
def test_the_road_through_optimum(checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path, kind: str) -> None:
    pytest.importorskip("optimum.exporters.onnx")
    trimmed = check_same_model(checkpoint_of(kind, **KINDS.get(kind, {})), tmp_path, text, exporter="optimum")
    assert trimmed.manifest.model.exporter == "optimum"
    assert trimmed.manifest.vocabulary.saved_bytes > 0


def test_an_adapter_that_changes_both_tables(checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path) -> None:
    checkpoint = checkpoint_of(tie_word_embeddings=True)
    shapes = {"model.embed_tokens": (VOCAB, 64), "lm_head": (64, VOCAB)}
    adapter = write_adapter(tmp_path / "adapter", shapes)
    trimmed = check_same_model(checkpoint, tmp_path, text, adapter=adapter)
    assert not trimmed.manifest.graph.tied


def test_a_head_that_is_quantised_already_keeps_its_codes(
    checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    checkpoint = checkpoint_of(tie_word_embeddings=False)
    tensors = load_file(checkpoint / "model.safetensors")
    q = quantise(tensors.pop("lm_head.weight"), 4, 32, False)
    parts = {f"lm_head.{part}": np.ascontiguousarray(value) for part, value in gptq(q, 4).items()}
    save_file({**tensors, **parts}, checkpoint / "model.safetensors")
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = settings_of("gptq", 4, 32, False)
    (checkpoint / "config.json").write_text(json.dumps(config))
    check_same_model(checkpoint, tmp_path / "int4", text, "int4", card="none")
    check_same_model(checkpoint, tmp_path / "fp32", text, "fp32")


def test_ids_are_new_everywhere(checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path) -> None:
    checkpoint = checkpoint_of(last="<|end|>", template=TEMPLATE + "{{ '<|end|>' }}")
    full = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    end, gone = full.token_to_id("<|end|>"), full.encode("größer").ids[0]
    assert end == full.get_vocab_size() - 1
    lamp = full.token_to_id("Ġlamp")
    generation = {
        "eos_token_id": [2, end],
        "suppress_tokens": [gone, lamp],
        "bad_words_ids": [[lamp, gone], [lamp]],
        "sequence_bias": [[[lamp], -1.0], [[gone], -2.0]],
        "forced_eos_token_id": end,
        "temperature": 0.5,
        "do_sample": True,
    }
    (checkpoint / "generation_config.json").write_text(json.dumps(generation))
    bundle = export(checkpoint, "x86-64", "fp32", output=tmp_path / "b", trim_vocab=text)
    small, _ = text_tools(bundle)
    new = {name: small.token_to_id(name) for name in ("<s>", "</s>", "<|end|>", "Ġlamp")}
    assert new["<|end|>"] == bundle.manifest.vocabulary.tokens - 1 < end
    assert bundle.manifest.to_dict()["special_tokens"] == {"bos": 1, "eos": [2, new["<|end|>"]], "pad": None}
    assert bundle.generation_config == {
        "suppress_tokens": [new["Ġlamp"]],
        "bad_words_ids": [[new["Ġlamp"]]],
        "sequence_bias": [[[new["Ġlamp"]], -1.0]],
        "forced_eos_token_id": new["<|end|>"],
        "temperature": 0.5,
        "do_sample": True,
        "bos_token_id": 1,
        "eos_token_id": [2, new["<|end|>"]],
    }
    genai = json.loads((bundle.path / "genai_config.json").read_text())["model"]
    assert (genai["eos_token_id"], genai["vocab_size"]) == ([2, new["<|end|>"]], bundle.manifest.graph.vocab)
    settings = json.loads((bundle.path / "tokenizer_config.json").read_text())
    listed = {int(i): token["content"] for i, token in settings["added_tokens_decoder"].items()}
    assert {i: small.id_to_token(i) for i in listed} == listed
    assert "<|end|>" in listed.values()


def test_transformers_reads_the_trimmed_tokenizer_alike(
    checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    bundle = export(checkpoint_of(last="<|end|>"), "x86-64", "fp32", output=tmp_path / "b", trim_vocab=text)
    theirs = transformers.AutoTokenizer.from_pretrained(bundle.path)
    ours, template = text_tools(bundle)
    messages = [{"role": "user", "content": TEXT}]
    assert theirs(TEXT + "<|end|>").input_ids == ours.encode(TEXT + "<|end|>")
    assert template is not None
    assert theirs.apply_chat_template(messages) == ours.encode(template.render(messages), special=False)


def test_what_the_template_writes_is_kept(checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path) -> None:
    checkpoint = checkpoint_of()
    assert "Says" not in TEXT
    bundle = export(checkpoint, "x86-64", "fp32", output=tmp_path / "b", trim_vocab=text)
    full = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    small, template = text_tools(bundle)
    assert template is not None
    prompt = template.render([{"role": "user", "content": "Turn the lamp off"}])
    names = [small.id_to_token(i) for i in small.encode(prompt, special=False)]
    assert names == full.encode(prompt, add_special_tokens=False).tokens
    assert small.token_to_id("ays") is not None or small.token_to_id("Says") is not None


def test_the_same_input_gives_the_same_bytes(checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path) -> None:
    checkpoint = checkpoint_of()
    made = [export(checkpoint, "rpi5", "int4", output=tmp_path / x, trim_vocab=[text, "en"], card="none") for x in "ab"]
    assert made[0].digest == made[1].digest


def test_coverage(checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path) -> None:
    checkpoint = checkpoint_of(template=None)
    found = export(checkpoint, "x86-64", "fp32", output=tmp_path / "a", trim_vocab=text).manifest.to_dict()[
        "vocabulary"
    ]
    full = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    ids = full.encode(TEXT * 5, add_special_tokens=False).ids
    assert found["of"] == VOCAB
    assert found["texts"][0]["name"] == "kitchen.txt"
    words = len(ids) / len(TEXT.split()) / 5
    assert found["coverage"] == {
        "tokens": len(ids),
        "unchanged": 1.0,
        "tokens_per_word": {"before": pytest.approx(words), "after": pytest.approx(words)},
        "expected_unseen": 0.0,  # five times over, no token is met once
    }
    once = tmp_path / "once.txt"
    once.write_text(TEXT, encoding="utf-8")
    found = export(checkpoint, "x86-64", "fp32", output=tmp_path / "b", trim_vocab=once).manifest.to_dict()[
        "vocabulary"
    ]
    ids = full.encode(TEXT, add_special_tokens=False).ids
    alone = sum(ids.count(i) == 1 for i in ids)
    assert found["coverage"]["expected_unseen"] == pytest.approx(alone / len(ids))


def test_a_language_and_texts_together(checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path) -> None:
    checkpoint = checkpoint_of()
    sizes = {}
    for name, wanted in {
        "en": ["en"],
        "text": [text],
        "both": [text, "en,de"],
        "all": ["Latn", "ru,ja", "Zsye"],
    }.items():
        found = export(checkpoint, "x86-64", "fp32", output=tmp_path / name, trim_vocab=wanted).manifest.to_dict()
        sizes[name] = found["vocabulary"]["tokens"]
    assert sizes["text"] < sizes["en"] < sizes["both"] < sizes["all"]
    assert sizes["all"] == Tokenizer.from_file(str(checkpoint / "tokenizer.json")).get_vocab_size()
    assert found["vocabulary"]["languages"] == ["Latn", "ru", "ja", "Zsye"]


def test_a_folder_of_texts(checkpoint_of: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    (folder / ".hidden").write_bytes(b"\xff\xfe")
    (folder / "empty.txt").write_text("")
    (folder / "a.txt").write_text(TEXT)
    (folder / "more" / "b.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": OTHER}], "answer": "now"}), encoding="utf-8"
    )
    checkpoint = checkpoint_of()
    found = export(checkpoint, "x86-64", "fp32", output=tmp_path / "b", trim_vocab=str(folder)).manifest.to_dict()
    assert [t["name"] for t in found["vocabulary"]["texts"]] == ["a.txt", "b.jsonl"]
    full = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    used = {*full.encode(TEXT).ids, *full.encode(OTHER).ids}
    assert used <= set(ids_of(Bundle.open(tmp_path / "b"), checkpoint))


def test_calibration_and_card_use_the_new_ids(checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text(TEXT * 60, encoding="utf-8")
    bundle = export(
        checkpoint_of(max_position_embeddings=256),
        "x86-64",
        "int4",
        output=tmp_path / "b",
        trim_vocab=text,
        calibrate=file,
        card="builtin",  # conversations among it
    )
    assert bundle.manifest.calibration.method == "gptq"
    assert bundle.quality is not None
    assert "outside_vocabulary" not in bundle.quality  # both have the same vocabulary
    assert 0 < bundle.quality["kld"]["mean"] < 1


# The real models


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The embedded model in fp32, whole and trimmed to its held-out conversations."""
    folder = tmp_path_factory.mktemp("home")
    whole = export(None, "x86-64", "fp32", output=folder / "whole")
    trimmed = export(None, "x86-64", "fp32", output=folder / "trimmed", trim_vocab=demo.heldout())
    return {"whole": whole, "trimmed": trimmed}


def test_the_embedded_model_answers_alike(home: dict[str, Bundle]) -> None:
    lines = [json.loads(line) for line in demo.heldout().read_text(encoding="utf-8").splitlines()[::80]]
    compared = 0
    with load(home["whole"].path) as whole, load(home["trimmed"].path) as trimmed:
        for line in lines:
            expected = whole.generate(line["messages"], max_tokens=120)
            if expected.text != line["answer"]:
                continue  # a wrong answer may be of tokens that the text has not
            found = trimmed.generate(line["messages"], max_tokens=120)
            assert (found.text, found.finish_reason) == (expected.text, expected.finish_reason)
            compared += 1
    assert compared >= 7
    assert home["trimmed"].manifest.vocabulary.tokens < home["whole"].manifest.graph.vocab


def test_the_embedded_model_has_the_same_logits(home: dict[str, Bundle]) -> None:
    rows = ids_of(home["trimmed"], demo.path())
    tokenizer, template = text_tools(home["trimmed"])
    assert template is not None
    ids = tokenizer.encode(template.render([{"role": "user", "content": "dim the bedroom lamp"}]), special=False)
    expected = Engine.load(home["whole"]).forward(rows[ids], len(ids))[:, rows]
    np.testing.assert_allclose(Engine.load(home["trimmed"]).forward(ids, len(ids)), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("prompt", ["Schließ die Küchentür, bitte!", "закрой дверь", "灯を消して 🙂", "\x00\x7f\ufeff"])
def test_a_prompt_outside_the_domain_comes_back(home: dict[str, Bundle], prompt: str) -> None:
    whole, trimmed = (text_tools(home[name])[0] for name in ("whole", "trimmed"))
    assert trimmed.decode(trimmed.encode(prompt)) == whole.decode(whole.encode(prompt)) == prompt
    with load(home["trimmed"].path) as lm:
        assert lm.generate(prompt, max_tokens=5).usage.completion_tokens >= 1


def test_stories_go_on_alike(data_dir: Path, tmp_path: Path) -> None:
    text = data_dir / "tinystories" / "tinystories_sample_2MiB.txt"
    part = tmp_path / "part.txt"
    part.write_text(text.read_text(encoding="utf-8")[:60_000], encoding="utf-8")
    whole, trimmed = (
        export(data_dir / "stories260K", "x86-64", "fp32", output=tmp_path / name, trim_vocab=wanted)
        for name, wanted in (("whole", None), ("trimmed", [part]))
    )
    found = trimmed.manifest.to_dict()["vocabulary"]
    assert found["tokens"] < 512
    assert found["coverage"]["unchanged"] == 1.0
    with load(whole.path) as a, load(trimmed.path) as b:
        for prompt in ("Once upon a time", "Lily and Ben went to the park", "The cat"):
            assert a.generate(prompt, max_tokens=150).text == b.generate(prompt, max_tokens=150).text
        odd = "Ünïcödé — 你好 🙂"
        assert b.tokenizer.decode(b.tokenizer.encode(odd)) == odd
    rows = ids_of(trimmed, data_dir / "stories260K")
    ids = np.random.default_rng(0).integers(3, len(rows), 60)
    expected = Engine.load(whole).forward(rows[ids], 60)[:, rows]
    np.testing.assert_allclose(Engine.load(trimmed).forward(ids, 60), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("name", "vocab", "most"), [("smollm2", 49152, 9_000), ("phi3", 32064, 7_000)])
def test_real_tokenizers(data_dir: Path, tmp_path: Path, name: str, vocab: int, most: int) -> None:
    """Byte-level, and SentencePiece's with byte fallback."""
    from edgelm.exporter.checkpoint.config import Config
    from edgelm.exporter.tokenizer.text_files import read_text
    from edgelm.exporter.tokenizer.vocabulary import trim

    folder = data_dir / "tokenizers" / name
    config = Config({"vocab_size": vocab, "model_type": "llama"}, folder / "config.json")
    stories = (data_dir / "tinystories" / "tinystories_sample_2MiB.txt").read_text(encoding="utf-8")
    file = tmp_path / "stories.txt"
    file.write_text(stories[:50_000], encoding="utf-8")
    domain = Domain.of([file])
    assert domain is not None
    full = read_text(folder, config)
    found = trim(full, config, domain, Progress())
    assert len(found.rows) < most
    assert found.facts.coverage.unchanged == 1.0
    for odd in ("Ünïcödé — 你好 🙂", "def f(x):\n\treturn {x: 1}", stories[-3000:]):
        before, after = (t.tokenizer.encode(odd, add_special_tokens=False) for t in (full, found.text))
        texts = [t.tokenizer.decode(e.ids) for t, e in ((full, before), (found.text, after))]
        assert texts[0] == texts[1]
        if all(found.text.tokenizer.token_to_id(token) is not None for token in before.tokens):
            assert before.tokens == after.tokens


# What may be wrong


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no text"),
        (b" \n\t\n", "holds no text"),
        ("Küche".encode("utf-16"), "not valid UTF-8"),
        ("Küche".encode("latin-1"), "not valid UTF-8: byte 1"),
    ],
)
def test_a_text_that_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(content)
    with pytest.raises(EdgeLMError, match=message) as caught:
        export(None, "x86-64", output=tmp_path / "b", trim_vocab=file)
    assert str(file) in str(caught.value)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("xx", "'xx' is neither a file or folder nor a language"),
        ("en,xx", "'xx' is neither"),
        ("", "is neither"),
        ("en,", "'' is neither"),
        ("missing.txt", "no such file or folder"),
        ("missing/en", "no such file or folder"),
    ],
)
def test_neither_a_file_nor_a_language(wanted: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Domain.of(wanted)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(OptionError, match="no text in this folder"):
        Domain.of(tmp_path)


def test_nothing_wanted() -> None:
    assert Domain.of(None) is Domain.of(()) is None


def test_a_tiny_text_is_told(checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path) -> None:
    class Heard(Progress):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def say(self, line: str) -> None:
            self.lines.append(line)

    heard = Heard()
    export(checkpoint_of(), "x86-64", "fp32", output=tmp_path / "b", trim_vocab=text, progress=heard)
    assert any("the text has only" in line for line in heard.lines)


def test_a_tokenizer_that_cannot_be_trimmed(checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path) -> None:
    checkpoint = checkpoint_of()
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "lamp": 3}, unk_token="<unk>"))
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    with pytest.raises(UnsupportedModelError, match="type WordLevel"):
        export(checkpoint, "x86-64", "fp32", output=tmp_path / "b", trim_vocab=text)
    assert not (tmp_path / "b").exists()


def test_an_embedding_of_another_size(checkpoint_of: Callable[..., Path], tmp_path: Path, text: Path) -> None:
    checkpoint = shutil.copytree(checkpoint_of(), tmp_path / "copy")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "vocab_size": VOCAB + 1}))
    with pytest.raises(CheckpointError, match="has shape"):
        export(checkpoint, "x86-64", "fp32", output=tmp_path / "b", trim_vocab=text)
