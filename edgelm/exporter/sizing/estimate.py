"""The estimate for a checkpoint, from its config.json alone."""

from __future__ import annotations

from edgelm.errors import OptionError, UnsupportedModelError
from edgelm.exporter import families
from edgelm.exporter.checkpoint.config import Config, read_json
from edgelm.exporter.checkpoint.hub import fetch_config, name_of
from edgelm.exporter.checkpoint.prequantized import read_scheme
from edgelm.exporter.recipe import Choices
from edgelm.exporter.sizing import footprint, workload
from edgelm.exporter.sizing.context import choose_context
from edgelm.exporter.sizing.preflight import Plan, misfit
from edgelm.forecast.cost_model import forecast
from edgelm.forecast.estimate import Estimate, default_context
from edgelm.target.target import Target


def of_model(
    model: str | None,
    target: Target,
    quant: str | None = None,
    *,
    context: int | None = None,
    threads: int | None = None,
    revision: str | None = None,
    vocab: int | None = None,
    kv: str | None = None,
    prefill: str | None = None,
) -> Estimate:
    """What to expect of a model in one of the target's recipes; no weights are read, or fetched.

    Args:
        model: a folder with a config.json, a hub id (of which config.json alone is fetched), or None for the model
            that comes with edgelm.
        target: the board.
        quant: the recipe; None is the target's default.
        context: in tokens; None has room for all depths that are told, where the model has.
        threads: None takes the board's.
        revision: branch, tag or commit on the hub.
        vocab: how many tokens are left where the vocabulary is trimmed; None for all.
        kv: type of the KV cache, ``float`` or ``int8``; None is the recipe's choice.
        prefill: the prefill graph, ``same`` or ``int8``; None is the recipe's choice.

    Raises:
        CheckpointError: config.json is missing or wrong, or the hub cannot give it.
        UnsupportedModelError: no native family describes it.
        TargetError, OptionError, ExportError: recipe, threads or context are not possible.
    """
    path = fetch_config(model, revision)
    config = Config(read_json(path), path)
    try:
        decoder = families.describe(config)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"{error}; its speed cannot be told from config.json",
            hint="edgelm inspect MODEL tells its memory; after an export: edgelm estimate BUNDLE",
        ) from None
    if vocab is not None:
        if not 1 <= vocab <= decoder.vocab:
            raise OptionError(f"--vocab must be from 1 to the model's {decoder.vocab:,} tokens, not {vocab:,}")
        decoder = decoder.with_vocab(vocab)
    scheme = read_scheme(config)
    quant = quant or target.default
    limit = decoder.context_limit
    length = choose_context(context, target, limit) if context is not None else default_context(target, limit)
    choices = Choices(kv, prefill)
    plan = Plan(name_of(model), target, lambda spec: footprint.of_decoder(decoder, spec, target, scheme), choices)
    work = workload.of_decoder(decoder, choices.of(target.recipe(quant), target), target, scheme)
    need = plan.need(quant, length)
    return Estimate(
        model=plan.name,
        target=target.name,
        quant=quant,
        context=length,
        memory=need.device.to_dict(),
        usable_bytes=need.usable,
        bundle_bytes=need.footprint.bundle,
        misfit=misfit(plan, need),
        forecast=forecast(work, target, context=length, threads=threads),
    )
