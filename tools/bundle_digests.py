"""The SHA-256 of every file of many bundles: proof that a change of structure changes no bundle.

    python tools/bundle_digests.py CHECKPOINTS -o before.json      # at the one commit
    python tools/bundle_digests.py CHECKPOINTS -o after.json --against before.json      # at the other

CHECKPOINTS is a folder of small checkpoints in Hugging Face's layout. Each is exported for every target in every recipe of
that target; the checkpoints named by `--all-options` also with calibration, mixed precision, replayed recipes, trimmed
vocabularies, int8 keys and values, int8 prefill and run-time adapters. Bundles are deterministic, so that equal digests
mean equal bundles. With `--against` each difference is a line, and the exit code is 1 where there is one.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import edgelm
from edgelm.errors import EdgeLMError

TARGETS = ("rpi-zero2w", "rpi4", "rpi5", "android-arm64", "android-arm64-i8mm", "jetson-orin-nano", "x86-64")
QUANTS = ("int4", "int4-fast", "int8", "fp16", "fp32")
OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("calibrate", {"quant": "int4", "calibrate": "builtin"}),
    ("calibrate-int8", {"quant": "int8", "calibrate": "builtin"}),
    ("auto", {"quant": "auto"}),
    ("auto-calibrate", {"quant": "auto", "calibrate": "builtin"}),
    ("kv", {"quant": "int4", "kv": "int8"}),
    ("prefill", {"quant": "int4", "prefill": "int8"}),
    ("lora-ready", {"quant": "int4", "lora_ready": True}),
    ("card", {"quant": "int4", "card": "builtin"}),
    ("context", {"quant": "int8", "context": 64}),
)
LONGER: tuple[tuple[str, dict[str, Any]], ...] = (("trim-vocab", {"quant": "int4", "trim_vocab": "en"}),)


def digests(folder: Path) -> dict[str, str]:
    """File name → SHA-256, of a bundle."""
    return {entry.name: hashlib.sha256(entry.read_bytes()).hexdigest() for entry in sorted(folder.iterdir())}


def cases(checkpoints: Path, thorough: tuple[str, ...]) -> Iterator[tuple[str, Path | None, dict[str, Any]]]:
    """(name, checkpoint, arguments of `edgelm.export`) of every bundle; "" among `thorough` is the embedded model."""
    for checkpoint in sorted(checkpoints.iterdir()):
        for target in TARGETS:
            for quant in QUANTS:
                yield f"{checkpoint.name} {target} {quant}", checkpoint, {"target": target, "quant": quant}
    for name in thorough:
        place = checkpoints / name if name else None
        for target in TARGETS:
            for label, options in (*OPTIONS, *LONGER):
                yield f"{name or 'edgelm-home'} {target} {label}", place, {"target": target, **options}


def made(checkpoint: Path | None, options: dict[str, Any]) -> dict[str, str] | str:
    """Digests of a bundle, or the error's text where it cannot be made."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "bundle"
        try:
            edgelm.export(checkpoint, output=output, **{"card": "none", **options})
        except EdgeLMError as reason:
            return str(reason).replace(folder, "…")
        found = digests(output)
        if options.get("quant") == "auto":  # the same choice, replayed
            again = Path(folder) / "again"
            edgelm.export(checkpoint, target=options["target"], recipe=output, output=again, card="none")
            found |= {f"replayed {name}": digest for name, digest in digests(again).items()}
        return found


def compare(found: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """A line for each bundle that differs."""
    lines = []
    for name in sorted({*found, *before}):
        a, b = before.get(name), found.get(name)
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            files = [file for file in sorted({*a, *b}) if a.get(file) != b.get(file)]
            lines.append(f"{name}: {', '.join(files)}")
        else:
            lines.append(
                f"{name}: {a if isinstance(a, str) else type(a).__name__} → {b if isinstance(b, str) else type(b).__name__}"
            )
    return lines


@click.command(help=__doc__)
@click.argument("checkpoints", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--against", type=click.Path(exists=True, path_type=Path), help="Digests made before.")
@click.option("--only", help="Bundles whose name contains this.")
@click.option("--all-options", "thorough", multiple=True, help="A checkpoint; without a value: edgelm's own.")
def main(checkpoints: Path, output: Path, against: Path | None, only: str | None, thorough: tuple[str, ...]) -> None:
    found = {}
    for name, checkpoint, options in cases(checkpoints, thorough):
        if only is None or only in name:
            found[name] = made(checkpoint, options)
    output.write_text(json.dumps(found, indent=1, sort_keys=True))
    refused = sum(isinstance(value, str) for value in found.values())
    print(
        f"{len(found) - refused} bundles of {sum(len(v) for v in found.values() if isinstance(v, dict))} files, {refused} refused"
    )
    if against is not None:
        before = json.loads(against.read_text())
        if only is not None:
            before = {name: value for name, value in before.items() if only in name}
        lines = compare(found, before)
        print("\n".join(lines) if lines else "all alike")
        sys.exit(bool(lines))


if __name__ == "__main__":
    main()
