"""One quantised model at a time: made by its own engine, read by its own engine, compared with the same fp32 logits."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks.frontier.importance import importance
from edgelm.bundle.reader import Bundle
from edgelm.evaluate.divergence import kl_divergence
from edgelm.evaluate.passages import load_passages, starting_token
from edgelm.evaluate.perplexity import CHUNK, chunked, negative_log_likelihood, scored
from edgelm.runtime.engine import Engine
from edgelm.runtime.text.prompt import text_tools

ROOT = Path(__file__).parents[2]
_VALUES = 1 << 21  # logits compared at once


@dataclass(frozen=True)
class Case:
    """A way to quantise: an engine, and its recipe or file type with options behind it."""

    engine: str
    name: str
    options: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """A name for what it makes."""
        kept = "".join(c if c.isalnum() or c in "._" else "-" for c in self.name)
        return f"{kept}.gguf" if self.engine == "llama.cpp" else kept


@dataclass(frozen=True)
class Row:
    """What a case makes of the model.

    Attributes:
        bytes: of the bundle's files, or of the GGUF file.
        kld, error: mean KL divergence from fp32, nats, and its standard error.
        top1: share of positions with the same likeliest token, 0 to 1.
        perplexity: of the quantised model.
        seconds: what quantising took, or None where it was there already.
        prefill, decode: tokens a second of each repetition, where it was timed.
        peak: bytes of memory, likewise.
    """

    engine: str
    name: str
    bytes: int
    kld: float
    error: float
    top1: float
    perplexity: float
    seconds: float | None
    prefill: tuple[float, ...] = ()
    decode: tuple[float, ...] = ()
    peak: float | None = None


@dataclass(frozen=True)
class Original:
    """The checkpoint, and what it makes of the text in fp32.

    Attributes:
        checkpoint: its folder.
        ids: int64 [chunks, CHUNK], each chunk's first id the one that texts begin with.
        logits: a file of float32 [chunks, scored, vocabulary].
        gguf: the same model as a file that llama.cpp quantises; None where one is written of the checkpoint.
    """

    checkpoint: Path
    ids: np.ndarray
    logits: Path
    gguf: Path | None = None

    @classmethod
    def of(cls, checkpoint: Path, text: Path, chunks: int, folder: Path, gguf: Path | None = None) -> Original:
        """Export the checkpoint in fp32 and read the text with it, where that was not done before."""
        bundle = _export(checkpoint, ("fp32",), "x86-64", folder / "fp32")
        tokenizer, template = text_tools(bundle)
        ids = load_passages(text, "evaluation").encode(tokenizer, template)
        tokens, size, count = chunked(CHUNK, np.asarray(list(ids)), CHUNK, chunks)
        pieces = tokens[: count * size].reshape(count, size).copy()
        if (first := starting_token(tokenizer)) is not None:
            pieces[:, 0] = first
        logits = folder / "fp32.npy"
        if not logits.exists():
            _read(bundle, pieces, logits)
        return cls(checkpoint, pieces, logits, gguf)

    def full(self, folder: Path) -> Path:
        """The file that llama.cpp quantises."""
        if self.gguf is not None:
            return self.gguf.absolute()
        output = folder / "f32.gguf"
        if not output.exists():
            writer = [sys.executable, "-m", "benchmarks.peers.gguf_file"]
            _run([*writer, str(self.checkpoint), str(output), "f32", "vocabulary"])
        return output

    def importance(self, folder: Path) -> Path:
        """The file of llama.cpp's importance matrix, made where it is not there."""
        output = folder / "importance.npz"
        if not output.exists():
            np.savez(output, **importance(self.checkpoint, Bundle.open(folder / "fp32")))
        return output


def measure(case: Case, original: Original, target: str, llama_python: str | None, folder: Path) -> Row:
    """Quantise as the case says, read the text with it, and compare."""
    place, started = folder / case.file, time.perf_counter()
    there = place.exists()
    logits = folder / "logits.npy"
    if case.engine == "edgelm":
        bundle = _export(original.checkpoint, (case.name.split()[0], *case.options), target, place)
        seconds, taken = time.perf_counter() - started, bundle.size
        _read(bundle, original.ids, logits)
    else:
        assert llama_python is not None
        worker = [llama_python, "-m", "benchmarks.frontier.llama"]
        if not there:
            extra = [str(original.importance(folder))] if "imatrix" in case.options else []
            _run([*worker, "quantize", str(original.full(folder)), str(place), case.name.split()[0], *extra])
        seconds, taken = time.perf_counter() - started, place.stat().st_size
        ids = folder / "ids.npy"
        np.save(ids, original.ids)
        _run([*worker, "read", str(place), str(ids), str(logits)])
    row = _compare(case, original, logits, taken, None if there else seconds)
    logits.unlink()
    return row


def _export(checkpoint: Path, options: tuple[str, ...], target: str, output: Path) -> Bundle:
    if not output.exists():
        command = [sys.executable, "-m", "edgelm", "export", str(checkpoint), "--target", target, "--card", "none"]
        _run([*command, "--quant", *options, "-o", str(output)])
    return Bundle.open(output)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise click.ClickException(f"{' '.join(command[1:5])}: {lines[-1]}")


def _read(bundle: Bundle, ids: np.ndarray, output: Path) -> None:
    """The logits that a bundle's engine gives of every scored position."""
    engine = Engine.load(bundle)
    rows = [[logits.copy() for logits, _ in scored(engine, chunk, None)] for chunk in ids]
    np.save(output, np.stack([np.concatenate(pieces) for pieces in rows]))
    engine.close()


def _compare(case: Case, original: Original, logits: Path, taken: int, seconds: float | None) -> Row:
    base, found = (np.load(path, mmap_mode="r") for path in (original.logits, logits))
    vocab = base.shape[-1]
    targets = original.ids[:, -base.shape[1] :].reshape(-1)
    base, found = base.reshape(-1, vocab), found.reshape(-1, found.shape[-1])[:, :vocab]
    step = max(1, _VALUES // vocab)
    starts = range(0, len(base), step)
    kld = np.concatenate([kl_divergence(base[i : i + step], found[i : i + step]) for i in starts])
    losses = np.concatenate([negative_log_likelihood(found[i : i + step], targets[i : i + step]) for i in starts])
    same = np.concatenate([base[i : i + step].argmax(1) == found[i : i + step].argmax(1) for i in starts])
    error = float(kld.std() / np.sqrt(max(1, len(kld) - 1)))
    top1, perplexity = float(same.mean()), float(np.exp(losses.mean()))
    return Row(case.engine, case.name, taken, float(kld.mean()), error, top1, perplexity, seconds)


def rows_of(report: Path) -> list[Row]:
    """The rows of a report written before."""
    return [Row(**row) for row in json.loads(report.read_text())["rows"]]
