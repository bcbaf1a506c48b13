"""The same checkpoint in every engine's form, each by that engine's own converter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.export import Failed, run
from benchmarks.peers.client import ROOT
from benchmarks.peers.engines import EngineSpec

# A llama of a few thousand parameters: every path is run in seconds.
TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip


class Unavailable(Exception):
    """What cannot be had here; the text says why."""


def checkpoint(shape: str, folder: Path) -> Path:
    """The checkpoint of a shape (``tiny``, a preset of tools/make_checkpoint.py, a config.json), made where it is not there.

    Raises:
        Unavailable: no such shape.
    """
    output = folder / "checkpoint"
    if output.is_dir():
        return output
    aside = _aside(output)
    if shape == "tiny":
        (folder / "tiny.json").write_text(json.dumps(TINY))
        shape = str(folder / "tiny.json")
    command = [
        sys.executable,
        str(ROOT / "tools/make_checkpoint.py"),
        os.path.abspath(shape) if os.sep in shape else shape,
    ]
    made = subprocess.run(
        [*command, str(aside)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if made.returncode:
        raise Unavailable(f"no checkpoint, {made.stderr.strip().splitlines()[-1]}")
    os.replace(aside, output)
    return output


def model(
    spec: EngineSpec, source: Path, folder: Path, *, pythons: Mapping[str, str], target: str, context: int, spare: int
) -> Path:
    """What an engine loads. edgelm's bundle is made anew, what others made before is kept.

    Args:
        spec: the engine.
        source: the checkpoint.
        folder: of all models of this shape.
        pythons: of each kind of engine.
        target: of edgelm's bundle.
        context: of edgelm's bundle, in tokens.
        spare: MB of memory that must stay free while a converter runs.

    Raises:
        Unavailable: the converter is missing, or fails.
    """
    if spec.worker == "on_torch":
        return source
    output = folder / (f"{spec.name}.gguf" if spec.worker == "on_llama" else spec.name)
    if spec.worker == "on_edgelm" or not output.exists():
        aside = _aside(output)
        command = _CONVERTERS[spec.worker](spec, source, aside, pythons[spec.python], target, context)
        try:
            run(command, folder, spare)
        except Failed as error:
            raise Unavailable(f"conversion failed, {error}") from None
        except OSError as error:
            raise Unavailable(f"{command[0]} cannot be started: {error.strerror}") from None
        finally:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        _remove(output)
        os.replace(aside, output)
    return output


def files(path: Path) -> list[Path]:
    """The files of a model."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.part")
    _remove(aside)
    return aside


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _edgelm(spec: EngineSpec, source: Path, output: Path, python: str, target: str, context: int) -> list[str]:
    command = [python, "-m", "edgelm", "export", str(source), "--target", target, "--quant", spec.weights]
    return [*command, *spec.options, "--context", str(context), "--force", "-o", str(output)]


def _llama(spec: EngineSpec, source: Path, output: Path, python: str, target: str, context: int) -> list[str]:
    return [python, "-m", "benchmarks.peers.gguf_file", str(source), str(output), spec.weights]


def _genai(spec: EngineSpec, source: Path, output: Path, python: str, target: str, context: int) -> list[str]:
    builder = [python, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(output)]
    command = [*builder, "-p", spec.weights, "-e", "cpu", "-c", str(output.parent / "cache")]
    return [*command, "--extra_options", *spec.options] if spec.options else command


def _optimum(spec: EngineSpec, source: Path, output: Path, python: str, target: str, context: int) -> list[str]:
    cli = str(Path(python).parent / "optimum-cli")
    task = "text-generation-with-past"
    return [cli, "export", "onnx", "--task", task, "-m", str(source), str(output)]


_CONVERTERS: dict[str, Callable[[EngineSpec, Path, Path, str, str, int], list[str]]] = {
    "on_edgelm": _edgelm,
    "on_llama": _llama,
    "on_genai": _genai,
    "on_optimum": _optimum,
}
