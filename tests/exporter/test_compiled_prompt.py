"""Bundles with a compiled prompt: the same text, with fewer tokens computed, alone and several at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgelm
from edgelm.bundle.reader import PROMPT, Bundle
from edgelm.cli import main
from edgelm.errors import BundleError, ExportError, OptionError, PromptCacheError
from edgelm.exporter.pipeline import export
from edgelm.runtime.kv.compiled_prompt import CompiledPrompt
from edgelm.runtime.text.prompt import Rendering

RULES = "You run a home. Be brief."
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"kind": "llama"},
    "gemma3": {"kind": "gemma3_text", "head_dim": 32, "sliding_window": 16, "pad_token_id": 0,
               "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "num_hidden_layers": 3},
    "lfm2": {"kind": "lfm2", "layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "conv_L_cache": 3},
}  # fmt: skip


def ask(text: str, rules: str = RULES) -> list[dict[str, str]]:
    return [{"role": "system", "content": rules}, {"role": "user", "content": text}]


@pytest.fixture(scope="module", params=FAMILIES)
def pair(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, Bundle]:
    """A bundle without a compiled prompt, and the same with one."""
    folder, checkpoint = tmp_path_factory.mktemp("compiled"), tiny_checkpoint(**FAMILIES[request.param])
    (folder / "rules.txt").write_text(RULES + "\n")
    common: dict[str, Any] = {"target": "x86-64", "quant": "fp32", "card": "none"}
    plain = export(checkpoint, output=folder / "plain", **common)
    return plain, export(checkpoint, output=folder / "with", compile_prompt=folder / "rules.txt", **common)


def test_the_text_is_the_same_and_fewer_tokens_are_computed(pair: tuple[Bundle, Bundle]) -> None:
    plain, compiled = pair
    facts = compiled.manifest.compiled_prompt
    assert facts is not None
    assert facts.text.name == "rules.txt"
    assert facts.tokens >= 16
    with edgelm.load(plain.path) as one, edgelm.load(compiled.path) as other:
        for text in ("Is the door locked?", "Turn on the lamp", "a"):
            expected = one.generate(ask(text), max_tokens=12, reuse_cache=False)
            with other.session() as session:
                found = session.generate(ask(text), max_tokens=12)
            assert found.text == expected.text
            assert found.timings.cached_tokens == facts.tokens
            assert expected.timings.cached_tokens == 0
        other.generate(ask("x", "Another beginning"), max_tokens=2)
        again = other.generate(ask("Turn on the lamp"), max_tokens=2)
        assert again.timings.cached_tokens == facts.tokens
        other_rules = other.generate(ask("x", "Other rules"), max_tokens=4)
        assert other_rules.text == one.generate(ask("x", "Other rules"), max_tokens=4).text
        assert other_rules.timings.cached_tokens < facts.tokens


def test_several_at_once_begin_behind_it(pair: tuple[Bundle, Bundle]) -> None:
    plain, compiled = pair
    assert compiled.manifest.compiled_prompt is not None
    texts = ["one", "two lamps", "three doors"]
    with edgelm.load(plain.path) as one:
        expected = [one.generate(ask(text), max_tokens=8, reuse_cache=False).text for text in texts]
    with edgelm.load(compiled.path, parallel=3) as lm:
        found = [lm.generate(ask(text), max_tokens=8) for text in texts]
        stats = lm.scheduler_stats()
    assert [each.text for each in found] == expected
    assert all(each.timings.cached_tokens >= compiled.manifest.compiled_prompt.tokens for each in found)
    assert stats.prefix_tokens_reused >= 3 * compiled.manifest.compiled_prompt.tokens


def test_the_file_belongs_to_the_graph(pair: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]) -> None:
    plain, compiled = pair
    assert compiled.graph_digest == plain.graph_digest
    assert compiled.digest != plain.digest
    assert main(["inspect", str(compiled.path)]) == 0
    assert "rules.txt is compiled" in capsys.readouterr().out
    assert main(["verify", str(compiled.path)]) == 0
    assert PROMPT in capsys.readouterr().out


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint()


def test_a_file_of_another_graph_is_refused(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rules.txt").write_text(RULES)
    bundles = [
        export(tiny, "x86-64", quant, output=tmp_path / quant, compile_prompt=tmp_path / "rules.txt", card="none")
        for quant in ("fp32", "int8")
    ]
    raw = (bundles[1].path / PROMPT).read_bytes()
    (bundles[0].path / PROMPT).write_bytes(raw)
    with pytest.raises(BundleError, match=r"prompt\.cache"):
        edgelm.load(bundles[0].path)
    with pytest.raises(BundleError, match="saved with another bundle"):
        CompiledPrompt(bundles[0])
    damaged = bytearray(raw)
    start = -(-(40 + int.from_bytes(raw[24:32], "little")) // 4096) * 4096  # the first array, behind the header
    damaged[start : start + 64] = bytes(64)
    (bundles[1].path / PROMPT).write_bytes(bytes(damaged))
    held = CompiledPrompt(bundles[1])
    with pytest.raises(PromptCacheError, match="checksum"):
        held.load()
    assert main(["verify", str(bundles[1].path)]) == 1
    assert "prompt.cache" in capsys.readouterr().out


def test_tools_and_raw_text_are_compiled_too(tiny: Path, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "lamp", "parameters": {"type": "object"}}}]
    (tmp_path / "rules.json").write_text(json.dumps({"system": RULES, "tools": tools}))
    made = export(tiny, "x86-64", "fp32", output=tmp_path / "a", compile_prompt=tmp_path / "rules.json", card="none")
    with edgelm.load(made.path) as lm:
        facts = made.manifest.compiled_prompt
        assert facts is not None
        ids = lm.encode_prompt(ask("Hello"), how=Rendering(tools=tools))
        assert ids[: facts.tokens] == list(CompiledPrompt(made).tokens)
    (tmp_path / "raw.json").write_text(json.dumps({"raw": "Once upon a time there was"}))
    made = export(tiny, "x86-64", "fp32", output=tmp_path / "b", compile_prompt=tmp_path / "raw.json", card="none")
    with edgelm.load(made.path) as lm:
        ids = lm.encode_prompt("Once upon a time there was a cat", raw=True)
        held = CompiledPrompt(made).tokens
        assert 0 < len(held) < len(ids)
        assert ids[: len(held)] == list(held)


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("rules.txt", b" \n", OptionError, "is empty"),
        ("rules.txt", b"\xff", OptionError, "not valid UTF-8"),
        ("rules.txt", b"word " * 400, ExportError, "the context is 128"),
        ("rules.json", b"{", OptionError, "not valid JSON"),
        ("rules.json", b"[]", OptionError, "no beginning of a prompt"),
        ("rules.json", b'{"sistem": "a"}', OptionError, "no beginning of a prompt"),
        ("rules.json", b'{"raw": "a", "system": "b"}', OptionError, "no beginning of a prompt"),
        ("rules.json", b'{"system": 7}', OptionError, "'system' must be a string"),
        ("rules.json", b'{"tools": [1]}', OptionError, "list of objects"),
    ],
)
def test_what_cannot_be_compiled_is_told_and_leaves_nothing(
    tiny: Path, tmp_path: Path, name: str, content: bytes, kind: type[Exception], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=message):
        export(tiny, "x86-64", "fp32", output=tmp_path / "b", compile_prompt=tmp_path / name, card="none")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(OptionError, match="cannot be read"):
        export(tiny, "x86-64", "fp32", output=tmp_path / "b", compile_prompt=tmp_path / "missing", card="none")
