"""A model for a target, its recipe yet to be chosen: what `edgelm.export`, `edgelm inspect` and `edgelm estimate` share."""

from __future__ import annotations

from dataclasses import dataclass

from edgelm.exporter import native
from edgelm.exporter.checkpoint.hub_model import Source
from edgelm.exporter.checkpoint.prequantized import Scheme
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.progress import Progress
from edgelm.exporter.recipe import Choices, GraphPlan
from edgelm.exporter.routes import Route
from edgelm.exporter.sizing import footprint
from edgelm.exporter.sizing.context import choose_context
from edgelm.exporter.sizing.preflight import Sizes
from edgelm.exporter.tokenizer.text_files import Text, TextFiles, text_files
from edgelm.target.target import RecipeSpec, Target

_TOKEN = 50  # bytes of a token in tokenizer.json, where that is not at hand: of 49,152 and 151,936 tokens, counted


@dataclass(frozen=True)
class ModelPlan:
    """A model for a target.

    Attributes:
        source: where it comes from.
        route: how it becomes a graph.
        context: longest prompt plus answer in tokens.
        text: tokenizer, template and settings.
        sizes: what it takes, recipe by recipe.
        lora_ready: whether adapters have a place.
    """

    source: Source
    route: Route
    context: int
    text: TextFiles
    sizes: Sizes
    lora_ready: bool = False


def plan_model(
    source: Source,
    route: Route,
    text: Text,
    choices: Choices,
    *,
    context: int | None = None,
    lora_ready: bool = False,
    progress: Progress,
) -> ModelPlan:
    """Decide all that does not depend on the recipe.

    Args:
        source: where the checkpoint comes from.
        route: its path to a graph for the target.
        text: what it says about text.
        choices: made whatever the recipe.
        context: in tokens; None is the target's choice, at most what the model was made for.
        lora_ready: whether adapters are to have a place.
        progress: is told what a user should know of the files.

    Raises:
        EdgeLMError: this model cannot be exported so; see `Route.expect` and `choose_context`.
    """
    route.expect(choices, progress)
    for remark in text.remarks:
        progress.say(remark)
    target, files = route.target, text_files(text)
    length = choose_context(context, target, route.context_limit)
    if route.decoder is None:
        sizes = Sizes(source.id, target, route.footprint, choices, text=files.nbytes)
    else:
        sizes = decoder_sizes(source.id, route.decoder, route.checkpoint.scheme, target, choices, files, lora_ready)
    return ModelPlan(source, route, length, files, sizes, lora_ready)


def decoder_sizes(
    name: str,
    decoder: Decoder,
    scheme: Scheme | None,
    target: Target,
    choices: Choices,
    text: TextFiles | None = None,
    lora_ready: bool = False,
) -> Sizes:
    """What a model of a native family takes; `scheme` is how it is quantised already, `text` what is known of its
    tokenizer.
    """

    def taken(spec: RecipeSpec) -> footprint.Footprint:
        return footprint.of_decoder(decoder, spec, target, scheme)

    def weigh(spec: RecipeSpec, context: int) -> int:
        plan = GraphPlan(decoder, spec, target, context, lora_ready)
        return native.weigh(plan) + around if text is None else native.graph_size(plan, text) + around

    around = _TOKEN * decoder.vocab if text is None else text.nbytes
    if scheme is not None:  # zero points are stored where a matrix has them, which its codes tell
        return Sizes(name, target, taken, choices, text=around)
    return Sizes(name, target, taken, choices, weigh)
