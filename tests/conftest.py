"""Fixtures that many tests share: where the real data is, and tiny checkpoints and bundles made on the spot."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgelm.bundle.reader import Bundle
from edgelm.exporter.calibration import quality

os.environ["EDGELM_RESULTS"] = "off"  # as are results; the tests of these name a file
os.environ["EDGELM_PROFILES"] = "off"  # so that no profile of the user changes what tests run with
os.environ["EDGELM_WEIGHT_CACHE"] = "off"  # tests leave the user's cache alone; those of the cache bring their own
_MODELS = tempfile.TemporaryDirectory(prefix="edgelm-models-")
os.environ["EDGELM_MODELS"] = _MODELS.name  # and the user's bundles by name
os.environ.pop("EDGELM_MIRROR", None)
os.environ.pop("COLUMNS", None)  # tables are as wide as a file's, whatever terminal the tests run in

# A shell that starts this run in the background lets it, and all that it starts, ignore Ctrl-C; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}


@pytest.fixture(scope="session", autouse=True)
def _uncalibrated() -> Iterator[None]:
    """Tiny models are not calibrated without being asked, which would take longer than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "BY_DEFAULT", False)
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real models, tokenizers and texts; tests that need it are skipped where it is not."""
    default = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("EDGELM_TEST_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no test data at {path}: set EDGELM_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Path]:
    """Name → GGUF file of a real model; a test that wants one is skipped where it was not fetched."""
    tool = _tool("real_models")

    def find(name: str) -> Path:
        path: Path | None = tool.where(name)
        if path is None:
            pytest.skip(f"{name} is not here: python tools/real_models.py {name}")
        return path

    return find


@pytest.fixture(scope="session")
def dither() -> Callable[..., Path]:
    """GGUF file, folder, seed or None → the checkpoint that tools/dither.py writes of it."""
    write: Callable[..., Path] = _tool("dither").write
    return write


def _tool(name: str) -> ModuleType:
    """A program in tools/, as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def write_tokenizer(folder: Path, *, chat_template: str | None = CHAT_TEMPLATE) -> None:
    """A byte-level tokenizer of 256 bytes and three special tokens, with its settings."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{character: 3 + i for i, character in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    if chat_template is not None:
        settings["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory of checkpoints with random weights, made by transformers.

    `tiny_checkpoint(kind="llama", seed=0, dtype="float32", shard="1GB", **config)` → folder. Weights are large
    enough (standard deviation 0.2) that logits differ clearly from token to token.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def make(
        kind: str = "llama",
        *,
        seed: int = 0,
        dtype: str = "float32",
        shard: str = "1GB",
        chat_template: str | None = CHAT_TEMPLATE,
        **config: Any,
    ) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        torch.manual_seed(seed)
        settings = transformers.AutoConfig.for_model(kind, **{**TINY, "initializer_range": 0.2, **config})
        model = transformers.AutoModelForCausalLM.from_config(settings)
        for name, parameter in model.named_parameters():
            norm = "norm" in name or ".ln_" in name
            if name.endswith("bias") or norm:  # initialised to 0 and 1, which would hide mistakes
                torch.nn.init.normal_(parameter, mean=float(norm), std=0.2)
        model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
        write_tokenizer(folder, chat_template=chat_template)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small fp32 bundle for x86-64 with a chat template and a context of 128 tokens."""
    from edgelm.exporter.pipeline import export

    return export(tiny_checkpoint(), "x86-64", "fp32", output=tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def resident() -> Callable[[Path], int]:
    """File → bytes of its mappings that stand in this process's memory. On Linux alone."""

    def count(file: Path) -> int:
        total, here = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            field, *rest = line.split(None, 1)
            if "-" in field:
                here = line.endswith(str(file.resolve()))
            elif here and field == "Rss:":
                total += 1024 * int(rest[0].split()[0])
        return total

    return count


@pytest.fixture(scope="session")
def make_checkpoint() -> ModuleType:
    """tools/make_checkpoint.py, as a module."""
    return _tool("make_checkpoint")
