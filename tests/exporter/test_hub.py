"""Models from the hub: against a server on this machine.

In processes of their own, as the hub's client reads the environment when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Ended
from gguf_file import write_gguf
from hub_server import Hub, serving
from test_llama_parity import LLAMA3

from edgelm import demo
from edgelm.bundle.reader import Bundle
from edgelm.errors import CheckpointError, OptionError
from edgelm.exporter.checkpoint.hub import name_of, resolve
from edgelm.exporter.checkpoint.hub_model import Source

pytest.importorskip("huggingface_hub")

MODEL = "owner/tiny"
NEEDED = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
_RESOLVE = """
import sys
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = 1000  # what is written at a time, else 10 MB
from edgelm.errors import EdgeLMError
from edgelm.exporter.checkpoint.hub import resolve
try:
    source = resolve(*sys.argv[1:])
    print(source.path, source.id, source.revision)
except EdgeLMError as error:
    print(f"error: {error}\\nhint: {error.hint}", file=sys.stderr)
    sys.exit(1)
"""


_CONFIG = """
import sys
from edgelm.cli import main
sys.exit(main(["estimate", sys.argv[1], "--target", "rpi5", "--json"]))
"""


@pytest.fixture(scope="module")
def files(tiny_checkpoint: Callable[..., Path]) -> dict[str, bytes]:
    """A small model as it is on the hub, with things that nobody needs."""
    folder = tiny_checkpoint(num_hidden_layers=1)
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "generation_config.json"}
    return found | {
        "README.md": b"---\nlicense: mit\n---\n",
        "pytorch_model.bin": b"pickle",
        "consolidated.safetensors": b"another copy",
        "onnx/model.onnx": b"graph",
        "onnx/config.json": b"{}",
        "tf_model.h5": b"h5",
    }


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    with serving(Hub()) as hub:
        hub.publish(MODEL, files)
        yield hub


@pytest.fixture
def process(hub: Hub, tmp_path: Path) -> Callable[..., Ended]:
    """Runs Python with the server as the hub and an empty cache; `process(*arguments, **environment)`."""

    def run(*arguments: object, **environment: str) -> Ended:
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()
        }
        env = kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache")} | environment
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], env=env, capture_output=True, text=True, cwd=tmp_path, timeout=120
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def fetch(process: Callable[..., Ended]) -> Callable[..., Ended]:
    """Runs `resolve(model, revision)`."""
    return lambda *arguments, **environment: process("-c", _RESOLVE, *arguments, **environment)


def test_an_export_from_the_hub_pins_its_commit(hub: Hub, process: Callable[..., Ended], tmp_path: Path) -> None:
    ended = process("-m", "edgelm", "export", MODEL, "--target", "rpi5", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["path"] == "bundles/tiny-rpi5-int4"
    model = Bundle.open(tmp_path / "bundles" / "tiny-rpi5-int4").manifest.to_dict()["model"]
    assert (model["id"], model["revision"], model["licence"]) == (MODEL, hub.revisions[MODEL, "main"], "mit")
    assert hub.fetched() == NEEDED


GGUF = "owner/tiny-GGUF"
_RESOLVE_FILE = _RESOLVE.replace("resolve(*sys.argv[1:])", "resolve(sys.argv[1], file=sys.argv[2])")


@pytest.fixture
def gguf_hub(hub: Hub, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Hub:
    """The hub with a repository of GGUF files, one of them split, and what else lies in such repositories."""
    folder = tmp_path / "gguf"
    folder.mkdir()
    checkpoint = tiny_checkpoint(num_hidden_layers=1)
    write_gguf(checkpoint, folder / "tiny-Q4_0.gguf", "Q4_0")
    write_gguf(checkpoint, folder / "tiny-q8_0.gguf", "Q8_0", parts=2)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    split = {f"Q8_0/{name}": found.pop(name) for name in sorted(found) if "-of-" in name}
    others = {"mmproj-tiny-Q4_0.gguf": b"GGUF", "README.md": b"---\nlicense: mit\n---\n", "imatrix.dat": b"x"}
    hub.publish(GGUF, {**found, **split, **others})
    return hub


def test_a_gguf_file_by_its_type(gguf_hub: Hub, process: Callable[..., Ended], tmp_path: Path) -> None:
    ended = process("-m", "edgelm", "export", f"{GGUF}:q4_0", "--target", "rpi5", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["path"] == "bundles/tiny-GGUF-q4-0-rpi5-int4"
    model = Bundle.open(tmp_path / "bundles" / "tiny-GGUF-q4-0-rpi5-int4").manifest.model
    assert (model.id, model.revision) == (f"{GGUF}:q4_0", gguf_hub.revisions[GGUF, "main"])
    assert list(model.sources) == ["tiny-Q4_0.gguf"]
    assert model.quantized is not None
    assert (model.quantized.method, list(model.quantized.types or {})) == ("gguf", ["Q4_0", "F32"])
    assert gguf_hub.fetched() == ["README.md", "tiny-Q4_0.gguf"]


def test_a_split_gguf_file_by_its_name(gguf_hub: Hub, process: Callable[..., Ended]) -> None:
    parts = ["tiny-q8_0-00001-of-00002.gguf", "tiny-q8_0-00002-of-00002.gguf"]
    first = process("-c", _RESOLVE_FILE, GGUF, parts[0])
    assert first.code == 0, first.err
    assert first.out.split()[1] == f"{GGUF}:tiny-q8_0"
    assert gguf_hub.fetched() == ["README.md", *parts]
    gguf_hub.requests.clear()
    assert process("-c", _RESOLVE_FILE, GGUF, f"Q8_0/{parts[0]}", HF_HUB_OFFLINE="1") == first
    assert process("-c", _RESOLVE, f"{GGUF}:Q8_0", HF_HUB_OFFLINE="1").code == 0
    assert gguf_hub.requests == []


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (GGUF, ("has GGUF files, of which one must be named", "--file Q8_0/tiny-q8_0-00001-of-00002.gguf")),
        (f"{GGUF}:Q5_K_M", ("has no GGUF file of type 'Q5_K_M'", "tiny-Q4_0.gguf")),
        (f"{MODEL}:Q4_0", ("has no GGUF file", "owner/name")),
        ("owner/nothing:Q4_0", ("no model of that name on the hub", "check the spelling")),
    ],
)
def test_a_gguf_file_that_is_not_there(
    model: str, expected: tuple[str, str], gguf_hub: Hub, fetch: Callable[..., Ended]
) -> None:
    ended = fetch(model)
    assert ended.code == 1
    assert expected[0] in ended.err
    assert expected[1] in ended.err
    assert ended.err.count("\n") == 2


@pytest.fixture
def wide(hub: Hub, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> dict[str, bytes]:
    """A repository with a file of some megabytes, whole and split, with factors of the rotary embedding as a tensor."""
    (tmp_path / "wide").mkdir()
    checkpoint = tiny_checkpoint(hidden_size=512, intermediate_size=2048, rope_scaling=LLAMA3, rope_theta=500000.0)
    write_gguf(checkpoint, tmp_path / "wide" / "wide-F32.gguf", metadata={"general.license": "mit"})
    write_gguf(checkpoint, tmp_path / "wide" / "wide-Q8_0.gguf", "Q8_0", parts=2)
    files = {path.name: path.read_bytes() for path in (tmp_path / "wide").iterdir()}
    hub.publish("owner/wide-GGUF", files)
    return files


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_inspect_and_estimate_fetch_the_headers_of_a_gguf_file(
    kind: str, wide: dict[str, bytes], hub: Hub, process: Callable[..., Ended], tmp_path: Path
) -> None:
    here = next(tmp_path.glob(f"wide/wide-{kind}*.gguf"))
    for command in ("inspect", "estimate"):
        hub.sent.clear()
        there, local = (
            process("-m", "edgelm", command, model, "--target", "rpi5", "--json")
            for model in (f"owner/wide-GGUF:{kind}", here)
        )
        assert (there.code, there.err) == (0, "")
        names = {"path": "", "id": "", "model": ""}
        found, expected = ({**json.loads(ended.out), **names} for ended in (there, local))
        for facts in (found, expected):
            facts.get("needs", {}).pop("host", None)
        assert found == expected
        asked = {name: size for name, size in hub.sent.items() if name.endswith(".gguf")}
        assert set(asked) == {name for name in wide if kind in name}
        assert sum(asked.values()) < sum(len(wide[name]) for name in asked) / 2
    assert not any((tmp_path / "cache").rglob("*.gguf"))


def test_a_hub_that_gives_whole_files_only(wide: dict[str, bytes], hub: Hub, process: Callable[..., Ended]) -> None:
    """What comes with the first bytes is enough, but for tensors that are wanted further behind."""
    hub.whole_only = True
    ended = process("-m", "edgelm", "inspect", "owner/wide-GGUF:F32", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["licence"] == "mit"
    away = process("-m", "edgelm", "inspect", "owner/wide-GGUF:F32", "--json", HF_HUB_OFFLINE="1")
    assert away.code == 0, "it is in the cache now"


@pytest.mark.parametrize("command", ["inspect", "estimate"])
def test_headers_that_are_not_to_be_had(command: str, gguf_hub: Hub, process: Callable[..., Ended]) -> None:
    gguf_hub.gated.add(GGUF)
    gguf_hub.publish(
        "owner/bad-GGUF", {"bad-Q4_0.gguf": b"GGUF\4" + bytes(5000), "cut-Q8_0.gguf": b"GGUF\3\0\0\0" + b"\1" * 90}
    )
    for model, said in (
        (f"{GGUF}:Q4_0", "is gated"),
        ("owner/bad-GGUF:Q4_0", "bad-Q4_0.gguf is a GGUF file of version 4"),
        ("owner/bad-GGUF:Q8_0", "do not hold"),
        ("owner/bad-GGUF:Q6_K", "no GGUF file of type"),
    ):
        ended = process("-m", "edgelm", command, model, *(["--target", "rpi5"] if command == "estimate" else []))
        assert ended.code == 1
        assert ended.err.startswith("error: ")
        assert said in ended.err.splitlines()[0]
        assert "/tmp" not in ended.err
        assert len(ended.err.splitlines()) <= 2


def test_a_broken_download_of_a_gguf_file_resumes(gguf_hub: Hub, fetch: Callable[..., Ended]) -> None:
    gguf_hub.broken_after["tiny-Q4_0.gguf"] = 20_000
    ended = fetch(f"{GGUF}:Q4_0")
    assert "the connection broke while" in ended.err
    gguf_hub.broken_after.clear()
    gguf_hub.requests.clear()
    assert fetch(f"{GGUF}:Q4_0").code == 0
    assert any(request.range for request in gguf_hub.requests)


@pytest.mark.parametrize(
    ("model", "expected", "hint"),
    [
        ("https://models.example/owner/name", "is an address", "give owner/name, or download it"),
        ("models.example/owner/name:Q4_K_M", "is an address", "give owner/name:Q4_K_M"),
        (
            "https://models.example/owner/name/resolve/main/a/b-Q8_0.gguf?download=true",
            "is an address",
            "give owner/name --file a/b-Q8_0.gguf",
        ),
        ("llama3.2:1b", "is a name of Ollama's", "owner/name:Q4_K_M"),
        ("ollama://library/gemma3:270m", "is a name of Ollama's", "owner/name:Q4_K_M"),
        ("missing/model.gguf", "does not exist", "*.gguf file on this machine"),
    ],
)
def test_what_is_no_model_here(model: str, expected: str, hint: str) -> None:
    with pytest.raises(CheckpointError, match=expected) as caught:
        resolve(model)
    assert hint in str(caught.value.hint)


def test_a_file_of_what_is_not_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(OptionError, match=r"--file x.gguf is for models on the hub, and .* is a file on this machine"):
        resolve(str(tmp_path / "m.gguf"), file="x.gguf")
    with pytest.raises(OptionError, match="give one of them"):
        resolve("owner/name:Q4_0", file="x.gguf")


def test_the_cache_is_enough_when_the_hub_is_away(hub: Hub, fetch: Callable[..., Ended]) -> None:
    first = fetch(MODEL)
    assert first.code == 0, first.err
    hub.requests.clear()
    assert fetch(MODEL, HF_HUB_OFFLINE="1") == first
    assert hub.requests == []
    assert fetch(MODEL, HF_ENDPOINT="http://127.0.0.1:9") == first
    hub.status = 503
    assert fetch(MODEL) == first


def test_nothing_is_downloaded_twice(hub: Hub, fetch: Callable[..., Ended]) -> None:
    first = fetch(MODEL)
    hub.requests.clear()
    assert fetch(MODEL) == first
    assert hub.fetched() == []


def test_a_branch_a_tag_and_a_commit(hub: Hub, files: dict[str, bytes], fetch: Callable[..., Ended]) -> None:
    old = hub.revisions[MODEL, "main"]
    new = hub.publish(MODEL, files | {"README.md": b"new"})
    request = hub.publish(MODEL, files | {"README.md": b"proposed"}, "refs/pr/1")
    for revision, commit in ((None, new), ("refs/pr/1", request), (old, old)):
        ended = fetch(MODEL, *[revision] if revision else [])
        assert ended.out.split()[1:] == [MODEL, commit], ended.err
    # Asked for by its commit, it is found offline, too.
    assert fetch(MODEL, old, HF_HUB_OFFLINE="1").out.split()[2] == old
    ended = fetch(MODEL, "v9")
    assert ended.err == (
        f"error: model {MODEL} has no revision 'v9'\nhint: give one of its branches, tags or commits\n"
    )


def test_a_broken_download_resumes(
    hub: Hub, files: dict[str, bytes], fetch: Callable[..., Ended], process: Callable[..., Ended], tmp_path: Path
) -> None:
    half = len(files["model.safetensors"]) // 2
    hub.broken_after["model.safetensors"] = half
    for command in (("-m", "edgelm", "export", MODEL, "--target", "rpi5"), ("-c", _RESOLVE, MODEL)):
        assert process(*command) == (
            1,
            "",
            f"error: the connection broke while {MODEL} was downloaded\n"
            "hint: run the command again: the download resumes where it stopped\n",
        )
    assert not (tmp_path / "bundles").exists()
    # Without the hub, half a model is told as such.
    ended = fetch(MODEL, HF_HUB_OFFLINE="1")
    assert ended.code == 1
    assert "the cache holds only a part of it" in ended.err

    hub.broken_after.clear()
    hub.requests.clear()
    ended = fetch(MODEL)
    assert ended.code == 0, ended.err
    ranges = [r.range for r in hub.requests if r.method == "GET" and r.path.endswith("model.safetensors")]
    assert ranges == [f"bytes={half // 1000 * 1000}-"]
    assert (Path(ended.out.split()[0]) / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_shards_without_the_second_copy(hub: Hub, fetch: Callable[..., Ended]) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": b"%d" % i for i in (1, 2)}
    index = json.dumps({"weight_map": {name: name for name in shards}}).encode()
    others = {"model.safetensors.index.json": index, "config.json": b"{}"}
    hub.publish("owner/shards", shards | others | {"consolidated.safetensors": b"y"})
    assert fetch("owner/shards").code == 0
    assert hub.fetched() == sorted([*shards, *others])


def test_a_pickle_is_refused_before_anything_is_downloaded(hub: Hub, fetch: Callable[..., Ended]) -> None:
    hub.publish(
        "owner/old", {"config.json": b"{}", "pytorch_model-00001-of-00001.bin": b"pickle", "tokenizer.json": b"{}"}
    )
    ended = fetch("owner/old")
    error, hint = ended.err.splitlines()
    assert error == (
        "error: owner/old on the hub has its weights as a pickle only (pytorch_model-00001-of-00001.bin), "
        "which can run any code when it is read; edgelm reads safetensors only"
    )
    assert "save_pretrained(DIR)" in hint
    assert hub.fetched() == []


def away(_: Hub) -> dict[str, str]:
    return {"HF_ENDPOINT": "http://127.0.0.1:9"}


def offline(_: Hub) -> dict[str, str]:
    return {"HF_HUB_OFFLINE": "1"}


def failing(hub: Hub) -> dict[str, str]:
    hub.status = 503
    return {}


def gated(hub: Hub) -> dict[str, str]:
    hub.gated.add(MODEL)
    return {}


def nothing(_: Hub) -> dict[str, str]:
    return {}


@pytest.mark.parametrize(
    ("model", "situation", "error", "hint"),
    [
        ("owner/none", nothing, "no folder owner/none, and no model of that name on the hub", "check the spelling"),
        (MODEL, gated, f"model {MODEL} is gated", "accept its licence on its page"),
        (MODEL, away, f"no folder {MODEL} here, and the hub cannot be reached", "check the network and its proxy"),
        (MODEL, offline, f"no folder {MODEL}, and the hub is switched off by HF_HUB_OFFLINE", "unset HF_HUB_OFFLINE"),
        (MODEL, failing, f"the hub cannot give {MODEL}: it answers 503", "run the command again"),
        ("owner/a--b", nothing, "owner/a--b is neither a folder nor an id of the hub", "None"),
    ],
)
def test_what_goes_wrong_is_one_line(
    hub: Hub, fetch: Callable[..., Ended], model: str, situation: Callable[[Hub], dict[str, str]], error: str, hint: str
) -> None:
    ended = fetch(model, **situation(hub))
    assert ended.code == 1
    first, second = ended.err.splitlines()
    assert first.startswith(f"error: {error}")
    assert second.startswith(f"hint: {hint}")


def test_a_client_that_was_closed_did_not_reach_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> None:
        raise RuntimeError("Cannot send a request, as the client has been closed.")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", closed)
    with pytest.raises(CheckpointError, match=r"no folder owner/none here, and the hub cannot be reached"):
        resolve("owner/none")


def test_a_repository_without_weights(hub: Hub, fetch: Callable[..., Ended]) -> None:
    hub.publish("owner/data", {"README.md": b"", "train.parquet": b""})
    assert fetch("owner/data").err.startswith("error: owner/data on the hub has no *.safetensors file\n")


def test_names_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert resolve("owner/model") == Source(Path("owner/model"), "model")
    assert resolve(None) == Source(demo.path(), demo.NAME)
    for model in (None, "owner/model", ".", "owner/other"):
        assert name_of(model) == {None: demo.NAME, "owner/model": "model", ".": tmp_path.name}.get(model, model)
    with pytest.raises(CheckpointError, match=r"checkpoint a/b/c does not exist"):
        resolve("a/b/c")


@pytest.mark.parametrize("model", [None, "."])
def test_a_revision_of_what_is_not_on_the_hub(model: str | None) -> None:
    with pytest.raises(OptionError, match="--revision v1 is for models on the hub"):
        resolve(model, "v1")


def test_an_output_that_exists_is_told_before_the_download(
    hub: Hub, process: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    ended = process("-m", "edgelm", "export", MODEL, "--target", "rpi5", "-o", "b")
    assert (ended.code, ended.err.splitlines()[0]) == (1, "error: output b exists already")
    assert hub.requests == []


def test_an_estimate_fetches_config_json_alone(hub: Hub, process: Callable[..., Ended]) -> None:
    ended = process("-c", _CONFIG, MODEL)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["model"] == MODEL
    assert hub.fetched() == ["config.json"]
    assert process("-c", _CONFIG, MODEL, HF_HUB_OFFLINE="1").code == 0, "it is in the cache now"
    away = process("-c", _CONFIG, "owner/none")
    assert (away.code, away.out) == (1, "")
    assert away.err.startswith("error: no folder owner/none, and no model of that name on the hub")
