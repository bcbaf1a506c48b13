"""The checkpoint folder: complete, small, and in the form it was trained in."""

import json
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgelm import demo
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.tokenizer.text_files import licence

MAX_BYTES = 8_000_000


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(demo.path() / "tokenizer.json"))


def config(name="config.json"):
    return json.loads((demo.path() / name).read_text())


def tensors():
    with (demo.path() / "model.safetensors").open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header


def test_the_folder_is_small_and_holds_only_what_loaders_need():
    files = {f.name: f.stat().st_size for f in demo.path().iterdir()}
    assert set(files) == {
        "answer_grammar.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) <= MAX_BYTES


def test_a_bundle_of_it_has_the_licence_of_its_card():
    assert licence(Checkpoint(demo.path())) == "apache-2.0"


def test_weights_are_fp16_and_tied_ones_are_stored_once():
    found = tensors()
    assert {t["dtype"] for t in found.values()} == {"F16"}
    assert "lm_head.weight" not in found


def test_there_are_two_to_four_million_parameters():
    count = 0
    for tensor in tensors().values():
        size = 1
        for dim in tensor["shape"]:
            size *= dim
        count += size
    assert 2_000_000 <= count <= 4_000_000


def test_config_describes_a_tied_llama_of_dimensions_divisible_by_128():
    found = config()
    assert found["architectures"] == ["LlamaForCausalLM"]
    assert found["model_type"] == "llama"
    assert found["tie_word_embeddings"] is True
    assert found["torch_dtype"] == "float16"
    for tensor in tensors().values():
        assert all(dim % 128 == 0 for dim in tensor["shape"])


def test_generation_is_greedy_and_ends_at_the_end_token(tokenizer):
    found = config("generation_config.json")
    assert found["do_sample"] is False
    assert found["eos_token_id"] == tokenizer.token_to_id("<|end|>") == config()["eos_token_id"]


def test_vocabulary_fits_and_digits_are_single_tokens(tokenizer):
    assert tokenizer.get_vocab_size() <= 2048
    assert tokenizer.get_vocab_size() == config()["vocab_size"]
    assert len(tokenizer.encode("19085", add_special_tokens=False).ids) == 5


@given(st.text())
@settings(deadline=None)
def test_any_text_survives_the_tokenizer(text):
    tokenizer = Tokenizer.from_file(str(demo.path() / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_the_chat_template_is_the_training_format():
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from demo_data import checkpoint
    from demo_data.conversations import training

    tokenizer = transformers.AutoTokenizer.from_pretrained(demo.path())
    rng = random.Random(5)
    for _ in range(200):
        messages = training(rng).full()
        ids, targets = checkpoint.encode(tokenizer, messages)
        assert tokenizer.apply_chat_template(messages) == ids
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True)
        assert ids[: len(prompt)] == prompt
        assert targets[len(prompt) :] == ids[len(prompt) :]


def test_transformers_loads_it_and_it_answers():
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo.path())
    model = transformers.AutoModelForCausalLM.from_pretrained(demo.path(), dtype="float32")
    messages = [{"role": "user", "content": "Turn on the kitchen light"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    answer = tokenizer.decode(model.generate(ids, max_new_tokens=64)[0, ids.shape[1] :], skip_special_tokens=True)
    assert answer == '{"actions":[{"device":"light","room":"kitchen","set":"on","value":true}]}'
