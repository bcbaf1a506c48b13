"""The estimate for a model that is not exported yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgelm.catalogue.models import Model, find
from edgelm.catalogue.store import mirrored
from edgelm.errors import CheckpointError, OptionError, UnsupportedModelError
from edgelm.exporter import families
from edgelm.exporter.checkpoint import claims
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.config import Config, read_json
from edgelm.exporter.checkpoint.gguf.header import is_gguf
from edgelm.exporter.checkpoint.hub import described, name_of
from edgelm.exporter.checkpoint.prequantized import read_scheme
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.plan.model import decoder_sizes
from edgelm.exporter.recipe import AS_IT_IS, Choices, keeping_codes
from edgelm.exporter.sizing import workload
from edgelm.exporter.sizing.context import choose_context
from edgelm.exporter.sizing.preflight import misfit
from edgelm.exporter.tokenizer.text_files import TextFiles, read_text, text_files
from edgelm.files import expanded, is_there
from edgelm.forecast.cost_model import forecast
from edgelm.forecast.estimate import Estimate
from edgelm.target.target import Target


@dataclass(frozen=True)
class HubOptions:
    """What is taken of a model on the hub.

    Attributes:
        revision: branch, tag or commit; None is the main branch.
        file: a GGUF file; None takes the checkpoint.
    """

    revision: str | None = None
    file: str | None = None


def of_model(
    model: str | None,
    target: Target,
    quant: str | None = None,
    *,
    context: int | None = None,
    threads: int | None = None,
    vocab: int | None = None,
    hub: HubOptions = HubOptions(),
    choices: Choices = AS_IT_IS,
) -> Estimate:
    """What to expect of a model in one of the target's recipes; no weights are read, or fetched.

    Args:
        model: a folder with a config.json, a GGUF file, a name of the catalogue (whose shape is known here), a hub id (of which
            config.json alone is fetched), or None for the model that comes with edgelm.
        target: the board.
        quant: the recipe; None is the target's default.
        context: in tokens; None is what an export takes.
        threads: None takes the board's.
        vocab: how many tokens are left where the vocabulary is trimmed; None for all.
        hub: which revision of a model on the hub, and which GGUF file of it, of which only the headers are fetched.
        choices: made whatever the recipe.

    Raises:
        CheckpointError: config.json is missing or wrong, or the hub cannot give it.
        UnsupportedModelError: no native family describes it.
        TargetError, OptionError, ExportError: recipe, threads or context are not possible.
    """
    named = None if model is None else _named(model, hub)
    if named is not None:
        config, text = Config(dict(named.shape), Path(named.id) / "config.json"), None
        whole = _decoder(config)
    else:
        with described(model, hub.revision, hub.file, config_alone=True) as found:
            config, checkpoint = _config(found.path)
            whole = _decoder(config)
            text = _text(found.path, config) if vocab is None else None
            if checkpoint is not None:
                choices = keeping_codes(choices, checkpoint, whole)
    decoder = whole if vocab is None else _cut(whole, vocab)
    scheme, quant = read_scheme(config), quant or target.default
    spec = choices.of(target.recipe(quant), target)
    length = choose_context(context, target, decoder.context_limit)
    sizes = decoder_sizes(name_of(model, hub.file), decoder, scheme, target, choices, text)
    need = sizes.weighed(quant, length)
    return Estimate(
        model=sizes.name,
        target=target.name,
        quant=quant,
        context=length,
        memory=need.device.to_dict(),
        usable_bytes=need.usable,
        bundle_bytes=need.footprint.bundle,
        misfit=misfit(sizes, need),
        forecast=forecast(workload.of_decoder(decoder, spec, target, scheme), target, context=length, threads=threads),
    )


def _named(model: str, hub: HubOptions) -> Model | None:
    """The model of the catalogue that a name means, whose shape is known without a network; None for anything else."""
    if is_there(expanded(model)) or hub != HubOptions():
        return None
    found = find(model)
    return None if found is None or found.embedded or "/" in model or mirrored(found.id) else found


def _config(source: Path) -> tuple[Config, Checkpoint | None]:
    """config.json, and the checkpoint, whose headers complete it, where its weights are there: of a model on the hub none are
    fetched.
    """
    if not is_gguf(source) and not source.is_dir():
        raise CheckpointError(f"checkpoint {source} is not a folder", hint="give the folder that holds config.json")
    if is_gguf(source) or any(source.glob("*.safetensors")):
        checkpoint = Checkpoint(source)
        checkpoint.expect_generator()
        return checkpoint.config, checkpoint
    config = Config(read_json(source / "config.json"), source / "config.json")
    claims.expect_generator(config, {})
    return config, None


def _decoder(config: Config) -> Decoder:
    try:
        return families.describe(config)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"{error}; its speed cannot be told from config.json",
            hint="edgelm inspect MODEL tells its memory; after an export: edgelm estimate BUNDLE",
        ) from None


def _cut(decoder: Decoder, vocab: int) -> Decoder:
    if not 1 <= vocab <= decoder.vocab:
        raise OptionError(f"--vocab must be from 1 to the model's {decoder.vocab:,} tokens, not {vocab:,}")
    return decoder.with_vocab(vocab)


def _text(source: Path, config: Config) -> TextFiles | None:
    """Tokenizer and template where they are there."""
    try:
        return text_files(read_text(source, config))
    except (CheckpointError, UnsupportedModelError):
        return None
