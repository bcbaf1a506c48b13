"""Every reader of files: how a sound file of its kind is made, and what reads one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from checkpoint_readers import CHECKPOINT_READERS
from own_readers import OWN_READERS, command_line
from reader import Reader, dumped

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": [2],
    "attention_bias": False,
}
SETTINGS = {
    "bos_token": "<s>",
    "eos_token": {"content": "</s>", "special": True},
    "add_bos_token": True,
    "tokenizer_class": "PreTrainedTokenizerFast",
    "added_tokens_decoder": {"0": {"content": "<unk>", "special": True}},
    "additional_special_tokens": ["<|x|>"],
    "chat_template": "{{ messages[0].content }}",
}
GENERATION = {
    "temperature": 0.7,
    "top_k": 5,
    "top_p": 0.9,
    "eos_token_id": [2],
    "suppress_tokens": [3],
    "do_sample": True,
}
TEMPLATE = (
    "{% set ns = namespace(n=0) %}{{ bos_token }}{% for m in messages if m.role != 'x' %}{% set ns.n = ns.n + 1 %}"
    "<|{{ m['role'] | upper }}|>{{ m.content.strip()[:100] * 2 }}{% if loop.last %}{{ ns.n }}{% endif %}{% endfor %}"
    "{% macro f(a, b='c') %}{{ a ~ b }}{% endmacro %}{{ f(1) }}{{ range(3) | list | tojson }}"
)
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "pattern": "^[a-z]{1,8}$", "maxLength": 8},
        "b": {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1, "maxItems": 3},
        "c": {"enum": ["x", 1, None]},
    },
    "required": ["a"],
    "additionalProperties": False,
    "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
}
ANSWERS = {"regex": r"(a|b|ab){1,9}( (a|\w{2,9})){0,4}|(ab|b[^{}\x00-\x1f]+) a"}
PROFILE: dict[str, Any] = {
    "version": 1,
    "goal": "speed",
    "machine": "0123456789ab",
    "shape": "ba9876543210",
    "board": "A board",
    "model": "org/model",
    "quant": "int4",
    "bundle": "ab" * 32,
    "edgelm": "0.1.0",
    "onnxruntime": "1.32.0",
    "at": "2026-01-01T00:00:00+00:00",
    "settings": {"threads": 2, "prefill_threads": 4, "cpus": [0, 1], "spinning": False, "prefill_chunk": 256},
    "before": {"threads": 4, "prefill_threads": 4, "cpus": None, "prefill_cpus": None, "spinning": True},
    "gains": {"decode": {"rate": 12.5, "before": 10.0, "ratio": 1.25, "low": 1.2, "high": 1.3, "joules": None}},
    "seconds": 12.5,
    "tried": 7,
}
RECIPE: dict[str, Any] = {
    "quant": "auto",
    "recipe": {
        "body": {"op": "MatMulNBits", "bits": 4, "block": 32},
        "head": {"op": "MatMulNBits", "bits": 8, "block": 32},
        "embedding": {"op": "GatherBlockQuantized", "bits": 8, "block": 32},
        "kv": {"op": "none", "bits": 32},
        "matrices": {"model.layers.0.mlp.down_proj": {"op": "MatMulNBits", "bits": 4, "block": 32, "shape": [64, 96]}},
    },
}


def _tokenizer(folder: Path) -> bytes:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "ab": 5, "Ġ": 6, "Ġa": 7}
    tokenizer = Tokenizer(models.BPE(vocab, [("a", "b"), ("Ġ", "a")], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("\t", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return str(tokenizer.to_str()).encode()


def _read_tokenizer(path: Path) -> None:
    from edgelm.runtime.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.open(path, bos=1, add_bos=True)
    tokenizer.decode(tokenizer.encode("ab aé\n" * 3))
    tokenizer.to_json()


def _read_text_files(path: Path) -> None:
    from edgelm.exporter.checkpoint.config import Config
    from edgelm.exporter.tokenizer.text_files import read_text

    folder = path.parent
    for name, content in (("tokenizer.json", _tokenizer(folder)), ("config.json", json.dumps(CONFIG).encode())):
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    read_text(folder, Config(CONFIG, folder / "config.json"))


def _read_config(path: Path) -> None:
    from edgelm.exporter.checkpoint.config import Config, read_json
    from edgelm.exporter.families import describe

    decoder = describe(Config(read_json(path), path))
    assert decoder.parameters > 0
    assert decoder.context_limit > 0


def _sentencepiece(folder: Path) -> bytes:
    def field(number: int, value: bytes | int) -> bytes:
        if isinstance(value, int):
            return _varint(number << 3) + _varint(value)
        return _varint(number << 3 | 2) + _varint(len(value)) + value

    def piece(text: str, score: float, kind: int) -> bytes:
        score_field = _varint(2 << 3 | 5) + np.float32(score).tobytes()
        return field(1, field(1, text.encode()) + score_field + field(3, kind))

    pieces = [("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3), ("▁", -1, 1), ("a", -2, 1), ("b", -3, 1), ("▁a", -4, 1)]
    pieces += [(f"<0x{byte:02X}>", 0, 6) for byte in range(256)]
    body = b"".join(piece(*entry) for entry in pieces)
    return body + field(2, field(3, 2) + field(45, b"<unk>")) + field(3, field(1, b"identity"))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read_sentencepiece(path: Path) -> None:
    from edgelm.exporter.checkpoint.config import Config
    from edgelm.exporter.tokenizer.text_files import read_text

    path.with_name("tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    read_text(path.parent, Config(CONFIG, path.with_name("config.json")))


def _vocab(folder: Path) -> bytes:
    return json.dumps({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}).encode()


def _read_vocab(path: Path) -> None:
    from edgelm.exporter.tokenizer.bytelevel import convert

    merges = path.with_name("merges.txt")
    merges.write_text("#version: 0.2\na b\n")
    convert(path, merges, "gpt2").encode("ab")


def _read_merges(path: Path) -> None:
    from edgelm.exporter.tokenizer.bytelevel import convert

    vocab = path.with_name("vocab.json")
    vocab.write_bytes(_vocab(path.parent))
    convert(vocab, path, "gpt2").encode("ab")


def _safetensors(folder: Path) -> bytes:
    import ml_dtypes
    from safetensors.numpy import save

    tensors = {"a.weight": np.ones((4, 8), ml_dtypes.bfloat16), "b.weight": np.ones(8, np.float32)}
    return save(tensors, metadata={"format": "pt"})


def _read_safetensors(path: Path) -> None:
    from edgelm.exporter.checkpoint.tensors import read_header

    for tensor in read_header(path).values():
        tensor.read()


def _onnx(folder: Path) -> bytes:
    import onnx_ir as ir

    from edgelm.runtime.ort.onnxfile import Graph

    def value(name: str, array: np.ndarray) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        return ir.Value(
            name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(list(array.shape))
        )

    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 32]))
    held = [value("codes", np.ones((512, 1, 16), np.uint8)), value("scales", np.ones(512, np.float32))]
    node = ir.node("MatMulNBits", [x, *held], {"K": 32, "N": 512, "bits": 4, "block_size": 32}, domain="com.microsoft")
    imports = {"": 21, "com.microsoft": 1}
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=held, opset_imports=imports, name="g")
    path = folder / "made.onnx"
    ir.save(ir.Model(graph, ir_version=10), path)
    made = Graph(path.read_bytes())
    return made.with_tensors({"scales": made.tensors["scales"].at("made.data", 64)})  # some here, some elsewhere


def _read_onnx(path: Path) -> None:
    from edgelm.errors import BundleError
    from edgelm.runtime.ort.onnxfile import Graph

    try:  # what reads graphs does without the weight cache where one makes no sense
        graph = Graph(path.read_bytes())
        graph.with_tensors({name: tensor.at("f", 0) for name, tensor in graph.tensors.items()})
        graph.in_slices(1)
        for node in graph.nodes:
            graph.single(node)
    except ValueError as error:
        raise BundleError("no graph") from error


def _prompt_cache(folder: Path) -> bytes:
    from edgelm.runtime.kv import prompt_cache
    from edgelm.runtime.kv.cache import KVSnapshot

    layers = {f"past.{i}": np.ones((1, 2, 4, 4), np.float32) for i in range(2)}
    states = {4: {"state": np.ones((1, 3, 4), np.float32)}}
    prompt_cache.write(folder / "made.cache", "digest", [1, 2, 3, 4], KVSnapshot(4, layers, states), 64)
    return (folder / "made.cache").read_bytes()


def _read_prompt_cache(path: Path) -> None:
    from edgelm.runtime.kv import prompt_cache

    tokens, kept = prompt_cache.read(path, "digest")
    assert len(tokens) == kept.position


def _adapter(folder: Path) -> bytes:
    from safetensors.numpy import save

    from edgelm.runtime.lora_adapter import FORMAT, METADATA, digest_of

    arrays = {"q.lora_A": np.ones((8, 2), np.float32), "q.lora_B": np.ones((2, 8), np.float32)}
    facts = {"format": FORMAT, "id": "lamps", "rank": 2, "alpha": 4, "base": "b", "digest": digest_of(arrays)}
    return save(arrays, metadata={METADATA: json.dumps(facts)})


def _read_adapter(path: Path) -> None:
    from edgelm.runtime.lora_adapter import RuntimeAdapter

    adapter = RuntimeAdapter.open(path)
    assert adapter.id
    assert adapter.nbytes >= 0


def _template(folder: Path) -> bytes:
    return TEMPLATE.encode()


def _read_template(path: Path) -> None:
    from edgelm.errors import BundleError
    from edgelm.runtime.text.chat import ChatTemplate

    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BundleError("not UTF-8") from error
    template = ChatTemplate(source, {"bos_token": "<s>"})
    template.render([{"role": "user", "content": "hello"}])


def _read_schema(path: Path) -> None:
    from tokenizers import Tokenizer as Inner

    from edgelm.cli.options import form
    from edgelm.runtime.loop.structured import Grammars
    from edgelm.runtime.text.tokenizer import Tokenizer

    tokenizer = Tokenizer(Inner.from_str(_tokenizer(path.parent).decode()))
    schema = form(path, None, ())["json_schema"]
    Grammars(tokenizer, [2], 300).grammar(json_schema=schema)


def _read_target(path: Path) -> None:
    from edgelm.target.target import load_target

    load_target(str(path)).to_dict()


def _target(folder: Path) -> bytes:
    return (Path(__file__).parents[2] / "targets" / "rpi5.toml").read_bytes()


def _read_profile(path: Path) -> None:
    from edgelm.bundle.json_table import read_json
    from edgelm.errors import ProfileError
    from edgelm.profile.profile import Profile

    profile = Profile.read(read_json(path, error=ProfileError), path)
    json.dumps(profile.to_dict(), allow_nan=False)
    str(profile.settings)


def _read_plan(path: Path) -> None:
    from edgelm.fleet.plan import read_plan

    read_plan(path)


def _plan(folder: Path) -> bytes:
    bundle = Path(__file__).parents[1] / "frozen" / "format1"
    return (
        f'retries = 1\nbundles = ["{bundle}"]\nruns = 2\n[settings.quick]\nn_prompt = [8, 16]\nsustained = "1m"\n'
        '[groups.pi]\nuse = ["quick"]\nkeep = true\n[boards."the hall"]\nplace = "ssh:pi@hall"\ngroups = ["pi"]\n'
    ).encode()


def _read_recipe(path: Path) -> None:
    from edgelm.exporter.mixed.replay import read_replay

    read_replay(path)


def _task(folder: Path) -> bytes:
    lines: list[dict[str, Any]] = [
        {"prompt": "Q: 2 + 2\nA:", "answer": "4", "stop": ["\n"], "kind": "sum"},
        {"messages": [{"role": "user", "content": "on"}], "answer": "{}"},
    ]
    return "\n".join(map(json.dumps, lines)).encode()


def _read_task(path: Path) -> None:
    from edgelm.evaluate.task import read_task

    read_task(path)


def _texts(folder: Path) -> bytes:
    return b'{"messages": [{"role": "user", "content": "on"}], "answer": "x"}\n' * 2


def _read_texts(path: Path) -> None:
    from edgelm.evaluate.passages import load_passages

    load_passages(path, "evaluation")


def _manifest(folder: Path) -> bytes:
    """Of the frozen bundle that is committed."""
    frozen = Path(__file__).parents[1] / "frozen" / "format1"
    shutil.copytree(frozen, folder, dirs_exist_ok=True)
    return (frozen / "manifest.json").read_bytes()


def _read_bundle(path: Path) -> None:
    """`edgelm inspect` of the folder, whose internal errors are raised."""
    command_line("inspect", path.parent)


def _gguf(folder: Path) -> bytes:
    import gguf

    writer = gguf.GGUFWriter(folder / "made.gguf", "llama")
    for name, value in (("block_count", 1), ("embedding_length", 32), ("context_length", 64)):
        writer.add_uint32(f"llama.{name}", value)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    writer.add_array("tokenizer.ggml.scores", [0.0, 1.0, 2.0])
    writer.add_string("general.name", "x")
    writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (folder / "made.gguf").read_bytes()


def _read_gguf(path: Path) -> None:
    from edgelm.exporter.checkpoint.gguf.header import read_header

    read_header(path)


READERS = {
    "onnx": Reader("model.onnx", _onnx, _read_onnx),
    "safetensors": Reader("model.safetensors", _safetensors, _read_safetensors),
    "gguf": Reader("model.gguf", _gguf, _read_gguf),
    "sentencepiece": Reader("tokenizer.model", _sentencepiece, _read_sentencepiece),
    "tokenizer": Reader("tokenizer.json", _tokenizer, _read_tokenizer, json=True),
    "tokenizer of a checkpoint": Reader("tokenizer.json", _tokenizer, _read_text_files, json=True),
    "tokenizer settings": Reader("tokenizer_config.json", dumped(SETTINGS), _read_text_files, json=True),
    "generation config": Reader("generation_config.json", dumped(GENERATION), _read_text_files, json=True),
    "answer grammar": Reader("answer_grammar.json", dumped(ANSWERS), _read_text_files, json=True),
    "vocabulary": Reader("vocab.json", _vocab, _read_vocab, json=True),
    "merges": Reader("merges.txt", lambda folder: b"#version: 0.2\na b\n", _read_merges),
    "config": Reader("config.json", dumped(CONFIG), _read_config, json=True),
    "prompt cache": Reader("rules.cache", _prompt_cache, _read_prompt_cache),
    "adapter": Reader("lamps.safetensors", _adapter, _read_adapter),
    "manifest": Reader("manifest.json", _manifest, _read_bundle, json=True),
    "template": Reader("chat_template.jinja", _template, _read_template),
    "schema": Reader("schema.json", dumped(SCHEMA), _read_schema, json=True),
    "target": Reader("board.toml", _target, _read_target),
    "device profile": Reader("profile.json", dumped(PROFILE), _read_profile, json=True),
    "plan": Reader("boards.toml", _plan, _read_plan),
    "recipe": Reader("recipe.json", dumped(RECIPE), _read_recipe, json=True),
    "task": Reader("task.jsonl", _task, _read_task),
    "texts": Reader("texts.jsonl", _texts, _read_texts),
    **CHECKPOINT_READERS,
    **OWN_READERS,
}
