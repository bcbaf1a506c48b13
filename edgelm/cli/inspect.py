"""``edgelm inspect``: what is in a bundle or a checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgelm.bundle.answer_grammar import EXTRA, installed
from edgelm.bundle.json_table import plain
from edgelm.bundle.manifest import Memory, SpecialTokens
from edgelm.bundle.reader import MANIFEST, Bundle
from edgelm.by_name import load_export
from edgelm.cli.adapter_file import adapter_facts, adapter_lines
from edgelm.cli.bundles import find_bundle, model_named, stored_bundle
from edgelm.cli.export import embedding_lines, prompt_lines, recipe_lines
from edgelm.cli.mixed import mixed_lines
from edgelm.cli.options import file_option, is_gguf_name, json_option
from edgelm.cli.quality import calibration_line, card_lines
from edgelm.cli.show import fact, parameters, print_lines, size, table
from edgelm.cli.vocabulary import vocabulary_lines
from edgelm.files import open_regular
from edgelm.machine.host import read_memory
from edgelm.target.target import Target, load_target

if TYPE_CHECKING:  # they are there only with edgelm[export]
    from edgelm.exporter.checkpoint.checkpoint import Checkpoint
    from edgelm.exporter.checkpoint.hub_model import Source
    from edgelm.exporter.model.decoder import Decoder
    from edgelm.exporter.plan.model import ModelPlan
    from edgelm.exporter.recipe import Choices

_OF_MODEL = ("target", "context", "kv", "prefill", "file")  # options that ask for a checkpoint's table


@click.command("inspect")
@click.argument("path", metavar="BUNDLE|MODEL|ADAPTER")
@click.option(
    "--target",
    default="rpi5",
    show_default=True,
    metavar="NAME|FILE",
    help="For which to tell what a checkpoint needs.",
)
@click.option(
    "-c", "--context", type=int, metavar="N", help="Longest prompt plus answer in tokens.  [default: the target's]"
)
@click.option("--kv", type=click.Choice(["float", "int8"]), help="KV cache of a MODEL.  [default: the recipe's]")
@click.option(
    "--prefill", type=click.Choice(["same", "int8"]), help="The prefill graph of a MODEL.  [default: the recipe's]"
)
@file_option
@json_option
def command(
    path: str,
    target: str,
    context: int | None,
    kv: str | None,
    prefill: str | None,
    file: str | None,
    as_json: bool,
) -> None:
    """Show what is in a bundle, in a checkpoint that could become one, or in an adapter's file.

    MODEL is a folder, a GGUF file, or a Hugging Face hub id, which is downloaded. For a checkpoint the table tells, for each of a
    target's recipes, what the bundle takes, what memory it needs there with the context full, and what memory and
    disk its export needs here. Nothing is exported, no weight is read.

    \b
    Examples:
      edgelm inspect bundles/edgelm-home-rpi5-int4
      edgelm inspect path/to/checkpoint --target rpi4 --context 1024
      edgelm inspect model-Q4_K_M.gguf
      edgelm inspect my-bundle --json
    """
    asked = any(
        click.get_current_context().get_parameter_source(name) == ParameterSource.COMMANDLINE for name in _OF_MODEL
    )
    stored = None if asked else stored_bundle(path)
    folder = Path(path) if stored is None else stored
    if folder.is_file() and not _is_checkpoint(folder, path):
        facts, lines = adapter_facts(folder), adapter_lines(folder)
    elif _is_checkpoint(folder, path):
        facts = _checkpoint(path, target, context, kv, prefill, file)
        lines = _checkpoint_lines(facts)
    else:
        bundle = Bundle.open(folder if folder.exists() else find_bundle(path, make=False))
        facts = {"path": path, "bytes": bundle.size, "chat_template": bundle.chat_template is not None}
        facts |= {"answer_grammar": _answers(bundle)} if bundle.answer_grammar is not None else {}
        facts |= {"quality": bundle.quality, "lora": bundle.lora, "manifest": bundle.manifest.to_dict()}
        lines = _bundle_lines(bundle)
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print_lines(lines)


def _is_checkpoint(folder: Path, typed: str) -> bool:
    """Is it a folder with a config.json, a GGUF file, or may it be a name, or a hub id? Without the exporter nothing can be
    a hub id.
    """
    if is_gguf_name(str(folder)):
        return True
    if folder.is_file():
        return _is_gguf(folder)
    if folder.exists():
        return not (folder / MANIFEST).exists() and (folder / "config.json").exists()
    return model_named(typed) is not None


def _is_gguf(file: Path) -> bool:
    """By its name or its first bytes, as the exporter does, which need not be there for an adapter's file."""
    if file.suffix.lower() == ".gguf":
        return True
    with open_regular(file) as opened:
        return bool(opened.read(4) == b"GGUF")


def _bundle_lines(bundle: Bundle) -> Iterator[str]:
    manifest = bundle.manifest
    model, graph = manifest.model, manifest.graph
    yield f"{bundle.path}  ({size(bundle.size)})"
    yield fact("model", f"{model.id} ({model.type}, {model.exporter} export)")
    if model.revision:
        yield fact("revision", model.revision)
    yield fact("licence", model.licence or "not stated in the checkpoint")
    yield fact("parameters", parameters(model.parameters))
    cache = f"KV cache of {graph.kv_heads} heads of {graph.head_dim}"
    yield fact("shape", f"{graph.layers} layers, hidden size {graph.hidden:,}, vocabulary {graph.vocab:,}, {cache}")
    if trimmed := manifest.vocabulary:
        yield from vocabulary_lines(trimmed)
    if (lora := bundle.lora) is not None:
        yield fact("adapters", f"LoRA at run time, beside {len(lora['places'])} matrices; base {lora['base'][:12]}…")
    yield fact("target", f"{manifest.target}, {manifest.quant}, {manifest.provider}")
    yield from embedding_lines(manifest)
    for role, text in recipe_lines(manifest):
        yield fact(f"  {role}", text)
    yield from mixed_lines(manifest)
    yield fact("context", f"{bundle.context:,} tokens")
    yield from prompt_lines(bundle)
    yield from _memory_lines(manifest.memory)
    yield fact(
        "template", "chat template" if bundle.chat_template else "none: the model continues text, it does not chat"
    )
    if (answers := bundle.answer_grammar) is not None:
        here = "" if installed() else f"; free here: {EXTRA} is not installed"
        yield fact("answers", f"{answers}{here}")
    yield fact("tokens", _special(manifest.special_tokens))
    yield fact("needs", ", ".join(f"{name} {version}" for name, version in manifest.minimum_runtime.items()))
    if card := bundle.quality:
        yield from card_lines(card)
    elif calibration := manifest.calibration:
        yield fact("calibrated", calibration_line(plain(calibration)))
    yield ""
    rows = [(name, size(entry.bytes), entry.sha256[:12]) for name, entry in sorted(bundle.files.items())]
    yield from table([("file", "size", "SHA-256"), *rows], left=(0, 2), indent="  ")


def _answers(bundle: Bundle) -> dict[str, Any]:
    """What answers may be, and whether they can be held to it here."""
    assert bundle.answer_grammar is not None
    return {"kind": bundle.answer_grammar.kind, "words": str(bundle.answer_grammar), "held": installed()}


def _memory_lines(memory: Memory) -> Iterator[str]:
    yield fact("memory", f"{size(memory.total_bytes)} in all with the context full")
    yield fact("  weights", f"{size(memory.packed_bytes + memory.table_bytes)} as prepacked by onnxruntime")
    if whole := memory.prefill_bytes:
        at_once = memory.passing_bytes or whole
        yield fact(
            "  prefill", f"{size(at_once)} resident of the {size(whole)} of the prefill graph's matrices, mapped"
        )
    yield fact("  per token", f"{size(memory.weights_bytes)} of weights are read")
    full = f"{size(memory.kv_bytes)} when full"
    yield fact("  KV cache", f"{size(memory.kv_bytes_per_token * 1000)} per 1,000 tokens, {full}")
    if memory.window_bytes:
        yield fact("  windows", f"{size(memory.window_bytes)}, of layers that keep their last tokens alone")
    if memory.state_bytes:
        yield fact("  states", f"{size(memory.state_bytes)}, of layers without a KV cache")
    rest = memory.runtime_bytes + memory.logits_bytes + memory.activations_bytes
    yield fact("  runtime", f"{size(rest)}: onnxruntime, Python, activations, logits")


def _special(tokens: SpecialTokens) -> str:
    """BOS, EOS and pad by id."""
    eos = ", ".join(str(i) for i in tokens.eos) or "none"
    return f"BOS {_id(tokens.bos)}, EOS {eos}, pad {_id(tokens.pad)}"


def _id(token: int | None) -> str:
    return "none" if token is None else str(token)


def _checkpoint(
    model: str, target_name: str, context: int | None, kv: str | None, prefill: str | None, file: str | None = None
) -> dict[str, Any]:
    """What a checkpoint is, and what its exports take, for JSON; its weights are not read."""
    board = load_target(target_name)
    load_export()
    from edgelm.exporter.checkpoint.hub import described
    from edgelm.exporter.recipe import Choices

    with described(model, file=file) as source:
        return _model_facts(source, board, context, Choices(kv, prefill))


def _model_facts(source: Source, board: Target, context: int | None, choices: Choices) -> dict[str, Any]:
    from edgelm.exporter.checkpoint.checkpoint import Checkpoint
    from edgelm.exporter.plan.model import plan_model
    from edgelm.exporter.progress import Progress
    from edgelm.exporter.recipe import keeping_codes
    from edgelm.exporter.routes import choose_route
    from edgelm.exporter.tokenizer.text_files import licence, read_text

    checkpoint = Checkpoint(source.path)
    config, route = checkpoint.config, choose_route(checkpoint, "auto", board)
    text = read_text(source.path, config)
    choices = keeping_codes(choices, route.checkpoint, route.decoder)
    plan = plan_model(source, route, text, choices, context=context, progress=Progress())
    decoder = route.decoder
    shapes = [checkpoint.shape(name) for name in checkpoint.names()]
    return {
        "path": source.id if source.headers_alone else str(source.path),
        "id": source.id,
        "type": config.model_type,
        "exporter": route.name,
        "licence": licence(checkpoint),
        "dtype": _dtype(checkpoint),
        "bytes": sum(file.stat().st_size for file in checkpoint.files),
        "parameters": sum(math.prod(shape) for shape in shapes) if decoder is None else decoder.parameters,
        "context": route.context_limit if decoder is None else decoder.context,
        **({} if decoder is None else {"shape": _shape(decoder)}),
        "needs": _needs(plan),
    }


def _dtype(checkpoint: Checkpoint) -> str | None:
    """Of the weights; of a GGUF file the types of its matrices, what most of it is stored as first."""
    if checkpoint.gguf is not None:
        return ", ".join(checkpoint.gguf.types)
    dtype = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    return None if dtype is None else str(dtype)


def _shape(decoder: Decoder) -> dict[str, Any]:
    attention = decoder.attentions[0]
    return {
        "layers": len(decoder.layers),
        "hidden": decoder.hidden,
        "heads": attention.heads,
        "kv_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "vocab": decoder.vocab,
        "tied": decoder.tied,
    }


def _needs(plan: ModelPlan) -> dict[str, Any]:
    """What every recipe of the target takes, and what there is."""
    from edgelm.exporter.sizing.preflight import free_disk

    sizes, target = plan.sizes, plan.sizes.target
    found = {quant: sizes.weighed(quant, plan.context).to_dict() for quant in sizes.quants}
    return {
        "target": target.name,
        "default": target.default,
        "context": plan.context,
        "usable_bytes": target.memory.usable_mb << 20,
        "host": {"memory_bytes": read_memory().usable, "disk_bytes": free_disk(Path())},
        "quants": {quant: {**need, "calibration": _calibration(plan, quant)} for quant, need in found.items()},
    }


def _calibration(plan: ModelPlan, quant: str) -> dict[str, Any] | None:
    """What calibration takes in a recipe; None where it gains nothing."""
    from edgelm.exporter.calibration.quality import calibration_cost
    from edgelm.exporter.recipe import GraphPlan

    decoder, target = plan.route.decoder, plan.sizes.target
    if decoder is None:
        return None
    spec = plan.sizes.choices.of(target.recipe(quant), target)
    cost = calibration_cost(GraphPlan(decoder, spec, target, plan.context), plan.route.checkpoint)
    if cost is None:
        return None
    return {"seconds": cost.seconds, "memory_bytes": cost.memory, "by_default": cost.too_much is None}


def _checkpoint_lines(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['path']}  (checkpoint, {size(facts['bytes'])})"
    route = "native export" if facts["exporter"] == "native" else "no native family: exported through Optimum"
    yield fact("model", f"{facts['id']} ({facts['type']}, {route})")
    yield fact("licence", facts["licence"] or "not stated")
    yield fact("parameters", parameters(facts["parameters"]) + (f", {facts['dtype']}" if facts["dtype"] else ""))
    if shape := facts.get("shape"):
        heads = f"{shape['heads']} heads and {shape['kv_heads']} KV heads of {shape['head_dim']}"
        yield fact(
            "shape",
            f"{shape['layers']} layers, hidden size {shape['hidden']:,}, vocabulary {shape['vocab']:,}, {heads}",
        )
        yield fact(
            "tied", "head and embedding are one tensor" if shape["tied"] else "no: head and embedding are two tensors"
        )
    yield fact("context", f"{facts['context']:,} tokens")
    yield ""
    yield from _needs_lines(facts["needs"], exact=facts["exporter"] == "native")


def _needs_lines(needs: dict[str, Any], *, exact: bool) -> Iterator[str]:
    about = "" if exact else ", estimated"
    yield f"  exported for {needs['target']} with a context of {needs['context']:,} tokens{about}:"
    head = ("", "bundle", "weights", "KV cache", "other", "on device", "fits", "host memory", "host disk")
    rows = [head, *(_need_row(quant, need, needs["default"]) for quant, need in needs["quants"].items())]
    yield from table(rows, left=(0, 6), drop=(4, 3, 7), indent="    ")
    host = needs["host"]
    memory = "unknown" if host["memory_bytes"] is None else size(host["memory_bytes"])
    yield ""
    yield fact("for a model", f"{size(needs['usable_bytes'])} on {needs['target']}")
    yield fact("free here", f"{memory} of memory, {size(host['disk_bytes'])} of disk")
    if costs := [need["calibration"] for need in needs["quants"].values() if need["calibration"]]:
        names = ", ".join(quant for quant, need in needs["quants"].items() if need["calibration"])
        yield fact("calibration", f"of {names}: {_cost(costs[0])}")


def _cost(cost: dict[str, Any]) -> str:
    seconds = cost["seconds"]
    time = f"{seconds / 60:.0f} minutes" if seconds >= 100 else f"{max(1, round(seconds))} s"
    default = "" if cost["by_default"] else ", more than is spent without --calibrate builtin"
    return f"about {time} and {size(cost['memory_bytes'])} of memory here{default}"


def _need_row(quant: str, need: dict[str, Any], default: str) -> tuple[str, ...]:
    memory = need["memory"]
    weights, total = sum(memory[f"{part}_bytes"] for part in ("packed", "table", "passing")), memory["total_bytes"]
    other = memory["activations_bytes"] + memory["logits_bytes"] + memory["runtime_bytes"]
    figures = (need["bundle_bytes"], weights, total - weights - other, other, total)
    fits = "yes" if need["fits"] else "no"
    name = f"{quant} (default)" if quant == default else quant
    return (name, *map(size, figures), fits, size(need["host_bytes"]), size(need["disk_bytes"]))
