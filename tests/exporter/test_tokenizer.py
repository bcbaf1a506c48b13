"""Tokenizers, special tokens and templates: a bundle's are those that transformers makes of the same files."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgelm.bundle.manifest import SpecialTokens
from edgelm.bundle.writer import BundleWriter
from edgelm.errors import CheckpointError, EdgeLMError, UnsupportedModelError
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.tokenizer import sentencepiece
from edgelm.exporter.tokenizer.text_files import TextFiles, write_text_files
from edgelm.runtime.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

LICENSE = Path(__file__).parents[2] / "LICENSE"
BYTES = {"<|user|>": 600, "<|x|>": 601}
TEXTS = [
    *("", " ", "Licence and copyright", "  two  spaces ", "\n\nlines\n", "a\tb", "x <s> y</s>z", "<s>", "<unk><0x41>"),
    *(
        "1234 3.14",
        "it's I'll WE'RE",
        "naïve café ✨ 日本語",
        "👩‍👩‍👧 👍🏽",
        "▁odd▁ ▁",
        "e\u0301 \u212b",
        "[INST] hi [/INST]",
    ),
    *(
        "<|user|> hi<|x|>  there<|user|>",
        "<start_of_turn>user\nhi<end_of_turn>",
        "<|im_start|>a <|im_end|>b<|endoftext|>",
    ),
]


class Pair(NamedTuple):
    """A bundle's tokenizer and the one of transformers."""

    files: TextFiles
    ours: Tokenizer
    theirs: Any


def write(folder: Path, config: dict[str, Any]) -> tuple[TextFiles, Path]:
    """What an export writes of a folder's text files, and where."""
    (folder / "config.json").write_text(json.dumps(config))
    out = folder / "bundle"
    out.mkdir()
    return write_text_files(folder, Config(config, folder / "config.json"), BundleWriter(out, out)), out


def load(folder: Path, config: dict[str, Any]) -> Pair:
    files, out = write(folder, config)
    bos, add_bos = files.special_tokens.bos, files.tokenizer.add_bos
    return Pair(
        files,
        Tokenizer.open(out / "tokenizer.json", bos=bos, add_bos=add_bos),
        transformers.AutoTokenizer.from_pretrained(folder),
    )


def check(pair: Pair, texts: list[str] = TEXTS) -> None:
    """The same ids for each text, the same text for those ids, and the same named tokens."""
    for text in texts:
        for special in (True, False):
            ids = pair.theirs.encode(text, add_special_tokens=special)
            assert pair.ours.encode(text, special=special) == ids, (text, pair.theirs.convert_ids_to_tokens(ids))
            for skip in (True, False):
                back = pair.theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
                assert pair.ours.decode(ids, skip_special=skip) == back
    named = {name: token for name, token in pair.theirs.special_tokens_map.items() if isinstance(token, str)}
    assert pair.files.tokenizer.names == named


# --- tokenizer.model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory of small tokenizer.model files, in the style of Llama 2 or Gemma."""
    spm = pytest.importorskip("sentencepiece")

    @cache
    def train(kind: str, gemma: bool) -> Path:
        prefix = tmp_path_factory.mktemp("spm") / "tokenizer"
        options: dict[str, Any] = {}
        if gemma:
            turns = ["<start_of_turn>", "<end_of_turn>", "\n", "\n\n"]
            options = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "eos_piece": "<eos>", "bos_piece": "<bos>"}
            options |= {"user_defined_symbols": turns, "add_dummy_prefix": False}
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(LICENSE.read_text().splitlines()),
            model_prefix=str(prefix),
            model_type=kind,
            vocab_size=500,
            hard_vocab_limit=False,
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            minloglevel=2,
            **options,
        )
        return prefix.with_suffix(".model")

    return train


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A factory of checkpoint folders from files and JSON contents."""

    def make(*files: Path, **contents: Any) -> Path:
        for file in files:
            shutil.copy(file, tmp_path)
        for name, value in contents.items():
            if value is not None:
                (tmp_path / f"{name}.json").write_text(json.dumps(value))
        return tmp_path

    return make


def decoder(*tokens: tuple[int, str, bool, bool]) -> dict[str, Any]:
    """`added_tokens_decoder` of (id, text, rstrip, special)."""
    plain = {"lstrip": False, "normalized": False, "single_word": False}
    return {
        str(i): {"content": text, "rstrip": rstrip, "special": special, **plain} for i, text, rstrip, special in tokens
    }


LLAMA: dict[str, dict[str, Any] | None] = {
    "nothing said": None,
    "class": {"tokenizer_class": "LlamaTokenizer"},
    "not legacy": {"tokenizer_class": "LlamaTokenizer", "legacy": False},
    "legacy null": {"tokenizer_class": "LlamaTokenizerFast", "legacy": None},
    "no prefix space": {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False},
    "not legacy, no prefix space": {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_prefix_space": False},
    "prefix space null": {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": None},
    "no BOS, but EOS": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": True},
    "code": {"tokenizer_class": "CodeLlamaTokenizer"},
    "added tokens": {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "added_tokens_decoder": decoder(
            (0, "<unk>", False, True),
            (1, "<s>", False, True),
            (2, "</s>", True, False),
            (500, "<|user|>", True, True),
            (501, "<|x|>", False, False),
        ),
        "eos_token": "<|user|>",
        "pad_token": "</s>",
    },
}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("case", LLAMA)
def test_a_llama_model(trained: Callable[..., Path], folder: Callable[..., Path], kind: str, case: str) -> None:
    model = trained(kind, False)
    check(load(folder(model, tokenizer_config=LLAMA[case]), {"model_type": "llama", "vocab_size": 600}))


def test_older_files_beside_a_model(trained: Callable[..., Path], folder: Callable[..., Path]) -> None:
    odd = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    source = folder(
        trained("bpe", False),
        tokenizer_config={
            "tokenizer_class": "LlamaTokenizer",
            "bos_token": {"__type": "AddedToken", "content": "<s>", **odd},
        },
        special_tokens_map={
            "eos_token": {"content": "</s>", **odd},
            "additional_special_tokens": ["<|user|>"],
            "pad_token": "<pad>",
        },
        added_tokens={"<|x|>": 502, "<|user|>": 500, "<pad>": 501},
    )
    check(load(source, {"model_type": "llama", "vocab_size": 600}))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("named", [True, False])
def test_a_gemma_model(trained: Callable[..., Path], folder: Callable[..., Path], kind: str, named: bool) -> None:
    settings = {"tokenizer_class": "GemmaTokenizer"} if named else None
    check(load(folder(trained(kind, True), tokenizer_config=settings), {"model_type": "gemma2", "vocab_size": 600}))


SOME_TEXT = st.text(
    st.one_of(st.sampled_from(" \n\t▁<>/s|é日👍'1"), st.characters(exclude_categories=["Cs"])), max_size=30
)


def every(pair: Pair) -> Callable[[], None]:
    """A property: any text has the same ids."""

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(SOME_TEXT)
    def run(text: str) -> None:
        assert pair.ours.encode(text) == pair.theirs.encode(text)

    return run


@pytest.mark.parametrize(("kind", "gemma"), [("bpe", False), ("unigram", False), ("bpe", True)])
def test_any_text_through_a_converted_model(
    trained: Callable[..., Path], folder: Callable[..., Path], kind: str, gemma: bool
) -> None:
    every(load(folder(trained(kind, gemma)), {"model_type": "gemma" if gemma else "llama", "vocab_size": 600}))()


@given(st.binary(max_size=60))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_no_model_is_told_as_such(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with contextlib.suppress(CheckpointError):  # and nothing else
        assert sentencepiece.read(path).pieces


def test_a_tiktoken_file_is_no_sentencepiece_model(folder: Callable[..., Path]) -> None:
    """Llama 3's tokenizer.model is of another kind."""
    source = folder()
    (source / "tokenizer.model").write_text("IQ== 0\nIg== 1\nIw== 2\n")
    with pytest.raises(CheckpointError, match="is not a SentencePiece model") as raised:
        write(source, {"model_type": "llama"})
    assert "tokenizer.json" in str(raised.value.hint)


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_truncated_model(trained: Callable[..., Path], folder: Callable[..., Path], cut: int) -> None:
    source = folder(trained("bpe", False))
    path = source / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match="is not a SentencePiece model"):
        write(source, {"model_type": "llama"})


def test_a_class_that_is_not_known_is_not_guessed(trained: Callable[..., Path], folder: Callable[..., Path]) -> None:
    source = folder(trained("unigram", False), tokenizer_config={"tokenizer_class": "T5Tokenizer"})
    with pytest.raises(UnsupportedModelError, match="cannot make one for a T5Tokenizer"):
        write(source, {"model_type": "gpt2"})


# --- vocab.json and merges.txt


@pytest.fixture(scope="module")
def two_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small vocab.json and merges.txt."""
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(LICENSE.read_text().splitlines(), vocab_size=400, show_progress=False)
    return [Path(file) for file in tokenizer.save_model(str(tmp_path_factory.mktemp("bpe")))]


QWEN_TOKENS = decoder(
    (400, "<|im_start|>", False, True), (401, "<|im_end|>", False, True), (402, "<tool>", False, False)
)
BYTE_LEVEL: dict[str, tuple[str, dict[str, Any] | None]] = {
    "gpt2": ("gpt2", None),
    "gpt2, a prefix space": ("gpt2", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}),
    "opt, with BOS": (
        "opt",
        {
            "tokenizer_class": "GPT2Tokenizer",
            "add_bos_token": True,
            "bos_token": "</s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "add_prefix_space": False,
        },
    ),
    "codegen": ("codegen", {"tokenizer_class": "CodeGenTokenizer"}),
    "qwen2": ("qwen2", {"tokenizer_class": "Qwen2Tokenizer"}),
    "qwen3, nothing said": ("qwen3", None),
    "qwen2.5": (
        "qwen2",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "added_tokens_decoder": QWEN_TOKENS,
            "add_prefix_space": False,
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_start|>",
            "unk_token": None,
        },
    ),
}


@pytest.mark.parametrize("case", BYTE_LEVEL)
def test_vocabulary_and_merges(two_files: list[Path], folder: Callable[..., Path], case: str) -> None:
    model, settings = BYTE_LEVEL[case]
    check(load(folder(*two_files, tokenizer_config=settings), {"model_type": model, "vocab_size": 600}))


@pytest.mark.parametrize("model", ["gpt2", "qwen2"])
def test_any_text_through_vocabulary_and_merges(two_files: list[Path], folder: Callable[..., Path], model: str) -> None:
    every(load(folder(*two_files), {"model_type": model, "vocab_size": 600}))()


def test_gpt2s_own_files(data_dir: Path, folder: Callable[..., Path]) -> None:
    source = folder(data_dir / "tokenizers" / "gpt2" / "vocab.json")
    merges = (data_dir / "tokenizers" / "gpt2" / "merges.txt").read_text()
    # Without this line, which GPT-2's file has, transformers takes the first merge for it.
    (source / "merges.txt").write_text(merges if merges.startswith("#version") else f"#version: 0.2\n{merges}")
    check(load(source, {"model_type": "gpt2", "vocab_size": 50257}))


# --- tokenizer.json


@pytest.mark.parametrize(
    ("name", "model", "settings"),
    [
        ("phi3", "phi3", None),
        (
            "smollm2",
            "llama",
            {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
        ),
        ("gpt-neox-20b-pythia", "gpt_neox", None),
        ("gpt-neox-20b-pythia", "gpt_neox", {"tokenizer_class": "GPTNeoXTokenizer", "add_bos_token": True}),
        ("gpt-neox-20b-pythia", "gpt_neox", {"add_prefix_space": True}),
        ("../stories260K", "llama", None),
    ],
)
def test_real_tokenizers(
    data_dir: Path, folder: Callable[..., Path], name: str, model: str, settings: dict[str, Any] | None
) -> None:
    found = [p for p in (data_dir / "tokenizers" / name).iterdir() if "token" in p.name]
    check(load(folder(*found, tokenizer_config=settings), {"model_type": model, "vocab_size": 60000}))


@pytest.mark.parametrize(
    ("config", "tokenizer"),
    [
        ("Llama-3.2-1B-Instruct", "smollm2"),
        ("llama3-8B-instruct", "smollm2"),
        ("ort-genai-gemma4", "phi3"),
        ("ort-genai-qwen2-5-vl", "smollm2"),
        ("ort-genai-qwen3-5", "smollm2"),
    ],
)
def test_real_settings(data_dir: Path, folder: Callable[..., Path], config: str, tokenizer: str) -> None:
    """Real tokenizer_config.json and special_tokens_map.json, over a tokenizer that is not theirs."""
    names = ("tokenizer_config.json", "special_tokens_map.json")
    source = folder(*(data_dir / "configs" / config / name for name in names))
    shutil.copy(data_dir / "tokenizers" / tokenizer / "tokenizer.json", source)
    check(load(source, {"model_type": "llama", "vocab_size": 200000}))


def test_tokens_without_an_embedding_are_left_out(data_dir: Path, folder: Callable[..., Path]) -> None:
    """Llama's class puts <s> in front; a vocabulary without it cannot say it, whatever the class takes for granted."""
    source = folder(data_dir / "tokenizers" / "smollm2" / "tokenizer.json")
    files, out = write(source, {"model_type": "llama", "vocab_size": 49152})
    assert files.special_tokens == SpecialTokens(None, (), None)
    assert max(Tokenizer.open(out / "tokenizer.json").encode("<s> hi </s>")) < 49152


# --- special tokens


def plain(folder: Path, data: dict[str, Any] | None = None) -> Path:
    """A word-level tokenizer of ten words."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import models

    vocab = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", "<end>", "<pad>", *"abcde"])}
    Inner(models.WordLevel(vocab, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **(data or {})}
        )
    )
    return folder


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({}, None, {"bos": 1, "eos": [2], "pad": 4}),
        ({"eos_token_id": 3, "pad_token_id": 0}, None, {"bos": 1, "eos": [3, 2], "pad": 0}),
        ({"eos_token_id": 3}, {"eos_token_id": [2, 3], "pad_token_id": 2}, {"bos": 1, "eos": [2, 3], "pad": 2}),
        ({"bos_token_id": 3, "eos_token_id": None}, {}, {"bos": 3, "eos": [2], "pad": 4}),
    ],
)
def test_special_ids(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any] | None, expected: dict[str, Any]
) -> None:
    """generation_config.json's, else config.json's, else the tokenizer's; its EOS always ends a text."""
    plain(tmp_path, {"pad_token": "<pad>"})
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert write(tmp_path, {"model_type": "llama", **config})[0].special_tokens == SpecialTokens(
        expected["bos"], tuple(expected["eos"]), expected["pad"]
    )


def configs(data_dir: Path) -> Iterator[Path]:
    return (path for path in sorted((data_dir / "configs").iterdir()) if (path / "config.json").exists())


def test_real_configs_end_where_transformers_ends(data_dir: Path, tmp_path: Path) -> None:
    for source in configs(data_dir):
        config = json.loads((source / "config.json").read_text())
        if config["model_type"] not in transformers.CONFIG_MAPPING:
            continue
        made = transformers.AutoConfig.for_model(**config)
        reference = transformers.GenerationConfig.from_model_config(made)
        folder = tmp_path / source.name
        folder.mkdir()
        special = write(plain(folder, {"bos_token": None, "eos_token": None}), config)[0].special_tokens
        eos = reference.eos_token_id
        if config.get("eos_token_id") is not None:
            assert list(special.eos) == (eos if isinstance(eos, list) else [eos]), source.name
        if config.get("bos_token_id") is not None:
            assert special.bos == reference.bos_token_id, source.name
        assert special.pad == config.get("pad_token_id"), source.name


# --- templates


def write_files(folder: Path, files: dict[str, Any]) -> None:
    for name, value in files.items():
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


LISTED = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "listed"}]


@pytest.mark.parametrize(
    ("files", "settings", "expected"),
    [
        ({}, {}, None),
        ({}, {"chat_template": "settings"}, "settings"),
        ({}, {"chat_template": LISTED}, "listed"),
        ({"chat_template.json": {"chat_template": "json"}}, {}, "json"),
        ({"chat_template.jinja": "jinja"}, {"chat_template": "settings"}, "jinja"),
    ],
)
def test_where_a_template_is_found(
    tmp_path: Path, files: dict[str, Any], settings: dict[str, Any], expected: str | None
) -> None:
    plain(tmp_path, settings)
    write_files(tmp_path, files)
    path = write(tmp_path, {"model_type": "llama"})[1] / "chat_template.jinja"
    assert (path.read_text() if path.exists() else None) == expected


BAD: dict[str, tuple[str, Any, str]] = {
    "settings a list": ("tokenizer_config.json", [], "expected a JSON object"),
    "tokens a list": ("tokenizer_config.json", {"added_tokens_decoder": []}, "'added_tokens_decoder' is not a table"),
    "ids no numbers": ("tokenizer_config.json", {"added_tokens_decoder": {"x": "y"}}, "is not a table of ids"),
    "a token without text": (
        "tokenizer_config.json",
        {"added_tokens_decoder": {"1": {}}},
        r"decoder\.1' is not a token",
    ),
    "a name that is a number": ("tokenizer_config.json", {"eos_token": 2}, "key 'eos_token' is not a token"),
    "a template that is a number": ("tokenizer_config.json", {"chat_template": 1}, "'chat_template' is not a string"),
    "a map that is no JSON": ("special_tokens_map.json", "{", "is not valid JSON"),
    "added ids that are texts": ("added_tokens.json", {"<x>": "1"}, "is not a table of tokens to ids"),
}


@pytest.mark.parametrize("case", BAD)
def test_odd_files_are_named(tmp_path: Path, case: str) -> None:
    name, value, message = BAD[case]
    write_files(plain(tmp_path), {name: value})
    with pytest.raises(EdgeLMError, match=message) as raised:
        write(tmp_path, {"model_type": "llama"})
    assert name.partition(".")[0] in str(raised.value)


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    (plain(tmp_path) / "chat_template.jinja").write_bytes(b"\xff\xfe{{")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja cannot be read"):
        write(tmp_path, {"model_type": "llama"})
