"""``edgelm export``: convert a checkpoint into a bundle for a target."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.by_name import load_export, needing_extra
from edgelm.cli.adapter_file import export_file
from edgelm.cli.failures import say
from edgelm.cli.mixed import mixed_body, mixed_lines
from edgelm.cli.options import file_option, json_option
from edgelm.cli.quality import quality_summary
from edgelm.cli.scheduler import scheduler_option
from edgelm.cli.sections import Sectioned, section
from edgelm.cli.show import Bar, fact, parameters, print_lines, size
from edgelm.cli.vocabulary import vocabulary_lines
from edgelm.errors import OptionError, suggest

if TYPE_CHECKING:
    from edgelm.bundle.manifest import Manifest
    from edgelm.bundle.reader import Bundle
    from edgelm.target.target import Target

AUTO = "auto"  # as in edgelm.exporter.mixed.recipes


@click.command("export", cls=Sectioned)
@click.argument("model", required=False)
@click.argument("more", nargs=-1, metavar="...")
@section(
    "Board and format",
    click.option(
        "--target", metavar="NAME|FILE", help="The board: see `edgelm targets`, or your own .toml file.  [required]"
    ),
    click.option(
        "--quant",
        metavar="NAME",
        help="int4, int8, fp16, fp32 or the target's own; auto: a format for each matrix, by --max-size and --max-kld.  "
        "[default: the target's]",
    ),
    click.option(
        "-c", "--context", type=int, metavar="N", help="Longest prompt plus answer in tokens.  [default: the target's]"
    ),
    click.option(
        "--recipe",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Replay the recipe of a bundle, or of its manifest.json, instead of --quant.",
    ),
    click.option(
        "--kv",
        type=click.Choice(["float", "int8"]),
        help="Type of the KV cache; int8 takes a quarter of the memory.  [default: the recipe's]",
    ),
    click.option(
        "--prefill",
        type=click.Choice(["same", "int8"]),
        help="The prefill graph: int8 is faster and takes one more byte per weight on disk; same is decode's.  "
        "[default: the recipe's]",
    ),
)
@section(
    "Size and quality",
    click.option("--max-size", metavar="SIZE", help="What the bundle may take, such as 350MB; more fails."),
    click.option("--max-kld", type=float, metavar="X", help="What it may lose (mean KL divergence); more fails."),
    click.option(
        "--calibrate",
        metavar="TEXT|builtin|auto|none",
        help="Calibrate on a text: GPTQ at 4 bits. auto: edgelm's own, where that takes minutes at most; none: search "
        "scales without data, the quick way.  [default: auto; with --recipe: as it was made]",
    ),
    click.option(
        "--language",
        metavar="LANGS",
        help="Languages that edgelm's own text is to have, such as de,fr.  [default: those of the tokenizer]",
    ),
    click.option(
        "--card",
        metavar="TEXT|builtin|auto|none",
        default="auto",
        show_default=True,
        help="Measure the bundle against the model in fp32, for its quality.json. auto: small models.",
    ),
    click.option(
        "--trim-vocab",
        metavar="TEXT|LANGS",
        multiple=True,
        help="Keep only the tokens of a text (file, folder) or of languages such as en,de; may be given several times.",
    ),
)
@section(
    "Which model",
    click.option("--revision", metavar="REV", help="Branch, tag or commit of a model from the hub.  [default: main]"),
    file_option,
    click.option(
        "--exporter",
        type=click.Choice(["auto", "native", "optimum"]),
        default="auto",
        show_default=True,
        help="native: model families edgelm knows; optimum: all others (needs edgelm[optimum]).",
    ),
    click.option(
        "--task",
        type=click.Choice(["generate", "embedding"]),
        default="generate",
        show_default=True,
        help="embedding: a bundle that turns texts into vectors, pooled as the checkpoint says.",
    ),
    click.option(
        "--compile-prompt",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="A system prompt (text, or JSON with tools) that is read now: prompts that begin so start behind it.",
    ),
)
@section(
    "LoRA adapters",
    click.option(
        "--adapter", metavar="DIR", help="A LoRA adapter (PEFT) to merge into the weights: a folder or hub id."
    ),
    click.option(
        "--lora-ready",
        is_flag=True,
        help="Let LoRA adapters be switched at run time; costs three nodes per matrix.",
    ),
    click.option(
        "--adapter-only",
        is_flag=True,
        help="MODEL is a LoRA adapter (PEFT): make a file of it for a bundle that is there.",
    ),
    click.option(
        "--base",
        type=click.Path(path_type=Path),
        metavar="BUNDLE",
        help="With --adapter-only: a bundle of the adapter's model, exported with --lora-ready.",
    ),
)
@section(
    "Output",
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="The bundle's folder.  [default: bundles/<model>-<target>-<quant>]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace a bundle that is there already."),
    click.option("--force", is_flag=True, help="Export even where memory or disk seem too small."),
    scheduler_option,
    json_option,
)
def command(
    model: str | None,
    more: tuple[str, ...],
    target: str | None,
    quant: str | None,
    as_json: bool,
    adapter_only: bool,
    base: Path | None,
    scheduler: str | None,
    **options: Any,
) -> None:
    """Convert a checkpoint into a bundle for a target.

    MODEL is a folder, a GGUF file, a Hugging Face hub id, or nothing for the small model that comes with edgelm. Of
    a model on the hub that has GGUF files, name one by its type, as in owner/name:Q4_K_M, or with --file. Of several
    models each becomes a bundle in the folder of -o, which is bundles by default.

    \b
    Examples:
      edgelm export --target rpi5
      edgelm export path/to/checkpoint --target rpi4 --quant int8 -o my-bundle
      edgelm export smollm2-135m --target auto
      edgelm export owner/name --target ./myboard.toml --context 4096
      edgelm export model-Q4_K_M.gguf --target rpi5
      edgelm export path/to/checkpoint --adapter path/to/lora --target rpi5
      edgelm export path/to/checkpoint --target rpi5 --calibrate my-text.txt
      edgelm export path/to/checkpoint --target rpi5 --language de,fr
      edgelm export path/to/checkpoint --target rpi5 --trim-vocab texts.jsonl
      edgelm export path/to/checkpoint --target rpi5 --lora-ready -o base
      edgelm export path/to/lora --adapter-only --base base -o lora.safetensors
      edgelm export path/to/checkpoint --target rpi5 --quant auto --max-size 350MB
      edgelm export path/to/checkpoint --target rpi5 --recipe my-bundle
      edgelm export path/to/checkpoint --target rpi5 --context 8192 --kv int8
      edgelm export path/to/checkpoint --target x86-64 --prefill int8
      edgelm export Qwen/Qwen3-Embedding-0.6B --target rpi5 --task embedding
      edgelm export path/to/checkpoint --target rpi5 --compile-prompt rules.txt
      edgelm export model-a model-b --target rpi5 --scheduler tcp://host:8786
    """
    if adapter_only and more:
        raise click.UsageError("--adapter-only takes one adapter")
    if adapter_only:
        export_file(load_export_adapter)
        return
    if base is not None:
        raise click.UsageError("--base goes with --adapter-only")
    from edgelm.target.target import load_target, target_names

    if target is None and model in (AUTO, *target_names()):
        raise OptionError(
            f"{model} is a target, not a model",
            hint=f"for the model that comes with edgelm: {suggest('export', '--target', model)}",
        )
    if target is None:
        raise click.UsageError(f"--target is missing: one of {', '.join(target_names())}, or a .toml file")
    board = load_target(target)
    if quant != AUTO:
        board.recipe(quant)  # a typing error is told before the libraries are loaded
    export = load_export()
    if model is not None and (more or scheduler is not None):
        from edgelm.cli.exports import export_many

        export_many((model, *more), board, quant, options, scheduler=scheduler, as_json=as_json)
        return
    if scheduler is not None:
        raise click.UsageError("--scheduler is for models that are named")
    started = time.perf_counter()
    with Bar(silent=as_json) as bar:
        bundle = export(model, board, quant, progress=bar, **options)
    seconds = time.perf_counter() - started
    needed, usable = memory(bundle, board)
    if as_json:
        facts = {"path": str(bundle.path), "bytes": bundle.size, "seconds": round(seconds, 3)}
        facts |= {"fits": needed <= usable, "usable_bytes": usable, "manifest": bundle.manifest.to_dict()}
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print_lines(_summary(bundle, board, seconds))
        if options["calibrate"] == "none" and _loses(bundle.manifest):
            say(
                "note",
                "not calibrated (--calibrate none): quick to make, but small models answer worse; good for trying out",
            )


def load_export_adapter() -> Callable[..., Path]:
    """The exporter of adapters; raises as `load_export` does."""
    with needing_extra():
        from edgelm.exporter.lora_adapter import export_adapter
    return export_adapter


def memory(bundle: Bundle, target: Target) -> tuple[int, int]:
    """Bytes a bundle needs with its context full, and bytes the target has for a model."""
    return bundle.manifest.memory.total_bytes, target.memory.usable_mb << 20


def _loses(manifest: Manifest) -> bool:
    """Whether a bundle answers worse for not having been calibrated."""
    body = manifest.recipe.body.spec
    return body.bits == 4 and body.rounding is None and manifest.calibration is None


def embedding_lines(manifest: Manifest) -> Iterator[str]:
    """How a bundle makes vectors of texts; nothing of one that generates them."""
    if (facts := manifest.embedding) is None:
        return
    from edgelm.bundle.embedding import POOLINGS

    scaled = ", scaled to length 1" if facts.normalized else ""
    yield fact("task", f"embedding: {manifest.graph.hidden:,} numbers, {POOLINGS[facts.pooling]}{scaled}")
    if facts.prompts:
        yield fact("prompts", ", ".join(facts.prompts))


def prompt_lines(bundle: Bundle) -> Iterator[str]:
    """What prompts may begin with for nothing."""
    if (facts := bundle.manifest.compiled_prompt) is not None:
        from edgelm.bundle.reader import PROMPT

        taken = size(bundle.files[PROMPT].bytes)
        yield fact(
            "prompt",
            f"{facts.text.name} is compiled: prompts begin with its {facts.tokens:,} tokens for nothing ({taken})",
        )


def recipe_lines(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(role, its format in words) of a manifest's recipe, and on what the scales of an int8 KV cache were found."""
    recipe, kv_calibration = manifest.recipe, manifest.kv_calibration
    for role, format in recipe.roles.items():
        spec = format.spec
        if role == "head" and manifest.embedding is not None:
            continue  # there is none
        if role == "body" and recipe.matrices:
            yield role, mixed_body(recipe.matrices)
        elif spec.op == "none":
            yield role, f"{spec.bits}-bit floats"
        elif role == "prefill":
            yield role, f"{spec.op} {spec.bits}-bit, a second set of the layers' matrices"
        elif role == "kv":
            found = f", found on {kv_calibration.text.name}" if kv_calibration else ""
            yield role, f"{spec.bits}-bit integers, scales per channel{found}"
        else:
            yield role, f"{spec}" + (f", the same bytes as the {format.shared_with}" if format.shared_with else "")


def _summary(bundle: Bundle, target: Target, seconds: float) -> Iterator[str]:
    manifest = bundle.manifest
    needed, usable = memory(bundle, target)
    yield f"{bundle.path}  ({size(bundle.size)}, made in {seconds:.1f} s)"
    yield fact("model", f"{manifest.model.id}, {parameters(manifest.model.parameters)} parameters")
    if adapter := manifest.model.adapter:
        yield fact("adapter", f"{adapter.id}, rank {adapter.rank}")
    if bundle.lora is not None:
        yield fact(
            "adapters", "make one with: " + suggest("export", "ADAPTER", "--adapter-only", "--base", bundle.path)
        )
    yield fact("target", f"{manifest.target}, {manifest.quant}")
    yield from embedding_lines(manifest)
    for role, text in recipe_lines(manifest):
        yield fact(f"  {role}", text)
    if trimmed := manifest.vocabulary:
        yield from vocabulary_lines(trimmed)
    yield from mixed_lines(manifest)
    if card := bundle.quality:
        yield fact("quality", quality_summary(card))
    yield fact("context", f"{bundle.context:,} tokens")
    yield from prompt_lines(bundle)
    yield fact("memory", f"{size(needed)} with the context full, {size(usable)} usable on {target.name}")
    yield ""
    if manifest.embedding is not None:
        yield "next: " + suggest("embed", bundle.path, "a text")
    elif bundle.chat_template:
        yield "next: " + suggest("chat", bundle.path)
    else:
        yield "next: " + suggest("run", bundle.path, "Once upon a time")
