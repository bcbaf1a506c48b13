"""What loading a bundle takes, in time and memory, with and without the cache of prepacked weights.

    python benchmarks/load.py [BUNDLE …] [-r 5] [-t THREADS] [--prompt 512] [--drop-caches] [--json]
    python benchmarks/load.py --shape smollm2-135m --shape qwen2.5-0.5b --quant int4

Without BUNDLE the shapes are made and exported first (random weights of true shapes: time and memory do not depend on
values). Each load is a process of its own, the ways in turn; medians of the repetitions, after one round to warm up.

* off: without the cache. on: with it, all made. on, two: the same with a session of its own for prefill.
* cold: the files are dropped from the page cache first (posix_fadvise; with --drop-caches all of the machine's, where root
  may). warm: right after. first: the load that fills an empty cache, fsync included.
* anonymous: memory that belongs to no file and cannot be dropped, above that of Python with all libraries imported: after
  the load, and after a prompt and 16 tokens. Keys and values are in mappings of their own and told beside it (KV).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.peers.cold import cached_share, evict  # noqa: E402

WAYS = ("off", "on", "on, two")
_STEPS = 16


def child(path: str, folder: str, way: str, threads: int, prompt: int) -> None:
    """Load once and print what it took."""
    import numpy as np

    from edgelm.bench.memory import memory_use
    from edgelm.bundle.reader import Bundle
    from edgelm.machine.host import usable_cpus
    from edgelm.runtime.engine import Engine
    from edgelm.runtime.ort.weightcache import WeightCache

    bundle, start = Bundle.open(path), memory_use().anonymous or 0
    count = threads or usable_cpus()
    other = None if way != "on, two" else count - 1 if count > 1 else 2
    cache = False if way == "off" else WeightCache(Path(folder), 1 << 40)
    engine = Engine.load(bundle, threads=count, prefill_threads=other, weight_cache=cache)
    facts: dict[str, Any] = {"seconds": engine.load_seconds, "packed": str(engine.packed or "")}
    facts["loaded"] = (memory_use().anonymous or 0) - start
    ids = np.random.default_rng(0).integers(0, engine.vocab_size, min(prompt, engine.context - _STEPS))
    engine.forward(ids)
    for token in ids[:_STEPS]:
        engine.forward([token])
    used = memory_use()
    facts |= {"used": (used.anonymous or 0) - start, "peak": used.peak, "kv": engine.cache_bytes, "base": start}
    print(json.dumps(facts))


def load(path: Path, folder: Path, way: str, threads: int, prompt: int) -> dict[str, Any]:
    arguments = ["--child", path, folder, way, str(threads), str(prompt)]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise click.ClickException(done.stderr.strip().splitlines()[-1])
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def measure(path: Path, repetitions: int, threads: int, prompt: int, drop: bool, say: Any) -> dict[str, Any]:
    """All ways of one bundle."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".load-") as name:
        folder = Path(name) / "weights"
        plain_warm = load(path, folder, "off", threads, prompt)["seconds"]
        first = load(path, folder, "on", threads, prompt)
        entry = Path(first["packed"]) if first["packed"] else None
        files = [path / "model.onnx.data", *(sorted(entry.iterdir()) if entry else [])]
        found: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
        share = None
        for repetition in range(repetitions + 1):
            for way in WAYS[repetition % 3 :] + WAYS[: repetition % 3]:
                evict(files, drop=drop)
                share = cached_share(files)
                cold, warm = (load(path, folder, way, threads, prompt) for _ in range(2))
                if not repetition:
                    continue
                values = found[way]
                for key, value in {"cold": cold["seconds"], "warm": warm["seconds"]}.items():
                    values.setdefault(key, []).append(value)
                for key in ("loaded", "used", "peak", "kv"):
                    values.setdefault(key, []).append(warm[key])
            say(f"{path.name}: {repetition}/{repetitions}")
        return {
            "bundle": path.name,
            "data_bytes": files[0].stat().st_size,
            "entry_bytes": sum(file.stat().st_size for file in files[1:]),
            "first_seconds": first["seconds"],
            "first_plain_seconds": plain_warm,
            "cold_cached": share,
            "base": first["base"],
            "ways": {way: {key: statistics.median(v) for key, v in values.items()} for way, values in found.items()},
            "values": found,
        }


def table(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| bundle | cache | load cold s | warm s | first s | anonymous MB after load | after a prompt | KV | peak | files MB |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        for way, v in result["ways"].items():
            first = f"{result['first_seconds']:.2f}" if way == "on" else ""
            files = result["data_bytes"] + (0 if way == "off" else result["entry_bytes"])
            memory = " | ".join(f"{v[key] / 1e6:.0f}" for key in ("loaded", "used", "kv", "peak"))
            name = result["bundle"] if way == "off" else ""
            lines.append(
                f"| {name} | {way} | {v['cold']:.2f} | {v['warm']:.2f} | {first} | {memory} | {files / 1e6:.0f} |"
            )
    return "\n".join(lines)


@click.command(help=__doc__)
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--shape", "shapes", multiple=True, default=("smollm2-135m", "qwen2.5-0.5b"), show_default=True)
@click.option("--quant", "quants", multiple=True, default=("int4", "int8"), show_default=True)
@click.option("--target", default="x86-64", show_default=True)
@click.option("-r", "--repetitions", default=5, show_default=True)
@click.option("-t", "--threads", default=0, help="0 is all cores.")
@click.option("--prompt", default=512, show_default=True)
@click.option("--drop-caches", "drop", is_flag=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    bundles: tuple[Path, ...], shapes: tuple[str, ...], quants: tuple[str, ...], target: str, repetitions: int,
    threads: int, prompt: int, drop: bool, as_json: bool,
) -> None:  # fmt: skip
    def say(text: str) -> None:
        click.echo(text, err=True)

    with tempfile.TemporaryDirectory() as name:
        paths = list(bundles)
        for shape in () if bundles else shapes:
            from edgelm.exporter.pipeline import export

            checkpoint = Path(name) / shape
            make = [sys.executable, str(ROOT / "tools/make_checkpoint.py"), shape, str(checkpoint)]
            subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
            for quant in quants:
                say(f"exporting {shape} {quant}")
                paths.append(export(checkpoint, target, quant, output=Path(name) / f"{shape}-{quant}").path)
        results = [measure(path, repetitions, threads, prompt, drop, say) for path in paths]
    click.echo(json.dumps(results, indent=2) if as_json else table(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:5], int(sys.argv[5]), int(sys.argv[6]))
    else:
        main()
