"""A tokenizer.json that panics, grows, allocates or aborts is an error of one line; sound ones are read as before."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgelm.errors import BundleError, CheckpointError, EdgeLMError, PromptError
from edgelm.exporter.tokenizer import bytelevel
from edgelm.exporter.tokenizer.text_files import read_tokenizer
from edgelm.runtime.text import tokenizer_file
from edgelm.runtime.text.tokenizer import Tokenizer

VOCAB = {"<unk>": 0, "a": 1, "b": 2, "ab": 3}
BPE: dict[str, Any] = {"type": "BPE", "unk_token": "<unk>", "vocab": VOCAB, "merges": [["a", "b"]]}


def write(path: Path, *, model: dict[str, Any] = BPE, **parts: Any) -> Path:
    names = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    content = {"version": "1.0", **dict.fromkeys(names), "added_tokens": [], **parts, "model": model}
    path.write_text(json.dumps(content))
    return path


def replace(content: str, pattern: str = "a", kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def many(name: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", name: list(parts)}


def template(token: str, ids: list[int], known: str = "<x>") -> dict[str, Any]:
    special = {known: {"id": known, "ids": ids, "tokens": [known] * len(ids)}}
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": special,
    }


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def added(content: str, index: int = 9) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, "special": True, **flags}


def charsmap(size: int, rules: str = "") -> dict[str, Any]:
    return {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(
            size.to_bytes(4, "little") + (bytes(60) if not rules else bytes(4) + rules.encode() + b"\0")
        ).decode(),
    }


REFUSED: dict[str, dict[str, Any]] = {
    "prepends 2 MB": {"normalizer": {"type": "Prepend", "prepend": "x" * 2_000_000}},
    "replaces by ever more": {"normalizer": many("normalizers", *[replace("a" * 10)] * 8)},
    "replaces nothing by much": {"normalizer": replace("b" * 1000, "")},
    "an expression for nothing": {"normalizer": replace("b" * 1000, "", "Regex")},
    "nested": {"normalizer": many("normalizers", many("normalizers", replace("a" * 300)))},
    "a decoder that grows": {"decoder": many("decoders", *[replace("a" * 10)] * 8)},
    "a decoder that strips ever more": {
        "decoder": {"type": "Strip", "content": "a", "start": 1 << 32, "stop": 1 << 32}
    },
    "pieces of length 0": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "a template of what is not there": {"post_processor": template("q", [1])},
    "a template without an end": {"post_processor": template("<x>", [1] * 100_000)},
    "characters of 4 GB": {"normalizer": charsmap(0xFFFFFFF0)},
    "no characters": {"normalizer": charsmap(0)},
    "a table that replaces by much": {"normalizer": charsmap(4, "y" * 1000)},
    "bytes of bytes of bytes": {"pre_tokenizer": many("pretokenizers", *[BYTES] * 20)},
    "a token of a megabyte": {
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a" * 1_000_000, 0]]}
    },
    "a token of quotes": {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ['"' * 100_000, 0]]}},
    "a prefix of all tokens": {"model": BPE | {"continuing_subword_prefix": "x" * 5_000_000}},
    "an added token of 20 MB": {"added_tokens": [added("x" * 20_000_000)]},
    "added tokens of 10 MB": {"added_tokens": [added(f"{i:05}" * 2000, i + 9) for i in range(1000)]},
}


@pytest.mark.parametrize("parts", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_safely_is_refused(parts: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "tokenizer.json", **parts)
    started = time.monotonic()
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read as a tokenizer: ") as raised:
        Tokenizer.open(path)
    with pytest.raises(CheckpointError):
        read_tokenizer(path)
    assert "\n" not in str(raised.value)
    assert time.monotonic() - started < 30


def test_names_that_hide_are_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "tokenizer.json", normalizer=charsmap(0xFFFFFFF0))
    path.write_text(path.read_text().replace("precompiled_charsmap", r"precompiled\u005fcharsmap"))
    with pytest.raises(BundleError, match="not whole"):
        Tokenizer.open(path)


MODELS: dict[str, dict[str, Any]] = {
    "WordLevel": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"},
    "WordPiece": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {"a": 0},
    },
    "Unigram": {"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0]]},
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_text_without_a_token_is_one_line(model: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(write(tmp_path / "tokenizer.json", model=model))
    with pytest.raises(PromptError, match="cannot encode the text: ") as raised:
        tokenizer.encode("é")
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"unk|UNK"):
        tokenizer_file.probe(read_tokenizer(tmp_path / "tokenizer.json"))


@pytest.mark.parametrize("expression", ["(a|aa)+$", "(x+x+)+y", "(1|11)+$"])
def test_an_expression_that_explodes_is_one_line(
    expression: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    path = write(tmp_path / "tokenizer.json", pre_tokenizer=split)
    with pytest.raises(ValueError, match="retry-limit"):
        tokenizer_file.probe(read_tokenizer(path))
    assert capfd.readouterr().err == ""
    with pytest.raises(PromptError, match="retry-limit"):
        Tokenizer.open(path).encode(("a" * 60 + "!") + ("x" * 60 + "!") + ("1" * 60 + "!"))


@pytest.mark.parametrize("index", [1 << 22, 400_000_000, (1 << 32) - 1])
def test_ids_that_would_be_listed_up_to_the_highest(index: int, tmp_path: Path) -> None:
    path = write(tmp_path / "tokenizer.json", model={**BPE, "vocab": {**VOCAB, "ab": index}})
    with pytest.raises(CheckpointError, match=f"the id {index:,}"):
        read_tokenizer(path)
    with pytest.raises(BundleError, match=f"the id {index:,}"):
        Tokenizer.open(path).to_json()
    (tmp_path / "vocab.json").write_text(json.dumps({**VOCAB, "ab": index}))
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(CheckpointError, match="ids must be"):
        bytelevel.convert(tmp_path / "vocab.json", tmp_path / "merges.txt", "gpt2")


SOUND: dict[str, dict[str, Any]] = {
    "Llama's spaces": {"normalizer": many("normalizers", {"type": "Prepend", "prepend": "▁"}, replace("▁", " "))},
    "its decoder": {
        "decoder": many(
            "decoders",
            replace(" ", "▁"),
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        )
    },
    "BOS": {"post_processor": template("<x>", [1])},
}


@pytest.mark.parametrize("parts", SOUND.values(), ids=SOUND)
def test_what_is_sound_is_read(parts: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "tokenizer.json", **parts)
    tokenizer_file.probe(read_tokenizer(path))
    assert 3 in Tokenizer.open(path).encode("ab")


def test_real_tokenizers_are_sound(data_dir: Path) -> None:
    paths = sorted((data_dir / "tokenizers").rglob("tokenizer.json"))
    assert paths
    for path in paths:
        tokenizer_file.probe(read_tokenizer(path))


@pytest.mark.parametrize("pattern", ["a*a*a*a*b", "(a|a)*b", r"(a ?)*(a ?)*b"])
def test_expressions_whose_time_grows_faster_than_a_text(pattern: str, tmp_path: Path) -> None:
    """A prompt of some thousand letters would take minutes; nothing is told of a text that is short."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    path = write(tmp_path / "tokenizer.json", pre_tokenizer=split)
    assert Tokenizer.open(path).encode("ab")
    started = time.process_time()
    with pytest.raises(ValueError, match=r"takes too long for|retry-limit"):
        tokenizer_file.probe(read_tokenizer(path))
    assert time.process_time() - started < 30
    path = write(
        tmp_path / "tokenizer.json", normalizer={"type": "Replace", "pattern": {"Regex": pattern}, "content": ""}
    )
    with pytest.raises(ValueError, match=r"takes too long for|retry-limit"):
        tokenizer_file.probe(read_tokenizer(path))


def test_guarded_lets_ctrl_c_through() -> None:
    def stop() -> None:
        with tokenizer_file.guarded():
            raise KeyboardInterrupt

    run: Callable[[], None] = stop
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not issubclass(KeyboardInterrupt, EdgeLMError)


def test_a_decoder_that_panics_at_one_token_is_one_line(tmp_path: Path) -> None:
    strips = {"type": "Strip", "content": "b", "start": 1, "stop": 1}  # of a token that is a single b
    path = write(tmp_path / "tokenizer.json", decoder=strips)
    with pytest.raises(ValueError, match=r"slice index|begin <= end|out of range"):
        tokenizer_file.probe(read_tokenizer(path))
