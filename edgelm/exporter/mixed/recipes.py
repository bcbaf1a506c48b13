"""Mixed precision: for each matrix the format that serves a budget best, of those that the target's core runs well.

A matrix is a matrix of the graph: query, key and value are one, and so are gate and up. So are the embedding and the
head where they are tied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from edgelm.errors import ExportError
from edgelm.exporter import recipe
from edgelm.exporter.formats.format import Format
from edgelm.exporter.formats.registry import ANY_TABLE, TRIED
from edgelm.exporter.mixed.assignment import Frontier, frontier
from edgelm.exporter.mixed.budget import Budget, shown
from edgelm.exporter.mixed.sensitivity import Choices, Losses
from edgelm.exporter.model.decoder import Decoder, Linear
from edgelm.exporter.onnx.builder import Builder
from edgelm.exporter.onnx.store import SizedFile
from edgelm.target.target import FormatSpec, RecipeSpec, Target

AUTO = "auto"
DEFAULT = -1  # in place of a point: the target's default recipe

_TRIES = 6  # exports at most, until a limit of KLD is met
_AIM = 0.95  # of a limit of KLD: what is predicted is not quite what is measured
_CLOSE = 0.85  # of it: nearer need not be tried
_WORTH = 0.95  # of the default recipe's loss: losing hardly less is no reason for a mixture
_PAGE, _LINE = 4096, 64  # as the data file aligns large and small tensors


def formats_of(target: Target, *, floats: bool = False) -> tuple[Format, ...]:
    """The formats of matrices that a target's core runs without a fallback (docs/notes/targets.md).

    Blocks of 4 and 8 bits wherever onnxruntime has kernels for them (ARM without dot products unpacks every weight at
    every call); DynamicQuantizeMatMul where one of the target's own recipes uses it; with `floats`, weights as they are.
    """
    return tuple(format for format in TRIED if format.suits(target) and (floats or format.spec.bits < 16))


def choices(decoder: Decoder, target: Target, *, floats: bool = False) -> Choices:
    """What each matrix of a decoder may be stored in, those of fewest bytes first.

    Raises:
        ExportError: none of the formats runs well on this target.
    """
    made, hidden = formats_of(target, floats=floats), decoder.hidden
    if not any(format.spec.bits < 16 for format in made):
        raise ExportError(
            f"{target.name} has no quantised format that its core runs without a fallback", hint="choose a --quant"
        )

    def fitted(linear: Linear, every: Iterable[Format]) -> list[Format]:
        distinct = dict.fromkeys(format.fit(linear.inputs) for format in every)
        return sorted(distinct, key=lambda format: format.nbytes(linear.outputs, linear.inputs))

    heads = fitted(decoder.head, made)
    shared = [format for format in heads if format.can_gather(hidden)] if decoder.tied else []
    tables = [format.lookup.fit(hidden) for format in made]
    return Choices(
        body={linear.name: fitted(linear, made) for linear in decoder.linears},
        head=shared or heads,
        embedding=()
        if shared
        else fitted(decoder.embedding, (t for t in tables if t.can_gather(hidden))) or [ANY_TABLE],
    )


class Candidates:
    """All recipes of a model that are worth having, from the smallest to the best.

    Attributes:
        frontier: their bytes of weights and predicted losses.
    """

    def __init__(self, decoder: Decoder, target: Target, choices: Choices, losses: Losses) -> None:
        self.decoder, self.target, self.choices, self.losses = decoder, target, choices, losses
        self._formats: list[Sequence[Format]] = [*choices.body.values(), choices.head]
        self._linears = [*decoder.linears, decoder.head]
        if choices.embedding:
            self._formats.append(choices.embedding)
            self._linears.append(decoder.embedding)
        self._default = self._options(target.recipe())
        activations = "float16" if target.runtime.activations == "fp16" else "float32"
        self.frontier: Frontier = frontier(
            [
                [
                    (_stored(format, linear, activations), loss)
                    for format, loss in zip(formats, losses[linear.name], strict=True)
                ]
                for linear, formats in zip(self._linears, self._formats, strict=True)
            ]
        )

    @property
    def last(self) -> int:
        """The point of the best recipe."""
        return len(self.frontier.nbytes) - 1

    @property
    def default_loss(self) -> float | None:
        """The predicted loss of the target's default recipe; None where its formats are not on offer."""
        if self._default is None:
            return None
        return sum(self.losses[m.name][option] for m, option in zip(self._linears, self._default, strict=True))

    def recipe(self, point: int) -> RecipeSpec:
        """The recipe at a point of the frontier, or `DEFAULT`; the cache is that of the target's default."""
        picked = self._picked(point)
        chosen = {m.name: f[i].spec for m, f, i in zip(self._linears, self._formats, picked, strict=True)}
        return of_matrices(
            {linear.name: chosen[linear.name] for linear in self.decoder.linears},
            self.decoder,
            head=chosen[self.decoder.head.name],
            embedding=chosen.get(self.decoder.embedding.name) if self.choices.embedding else None,
            kv=self.target.recipe().kv,
        )

    def sensitivity(self, point: int) -> dict[str, float]:
        """Matrix → the predicted loss in its format, for the manifest: four digits."""
        picked = self._picked(point)
        return {
            linear.name: float(f"{self.losses[linear.name][option]:.4g}")
            for linear, option in zip(self._linears, picked, strict=True)
        }

    def _picked(self, point: int) -> list[int]:
        return self._default if point == DEFAULT and self._default is not None else self.frontier.choice(point)

    def _options(self, spec: RecipeSpec) -> list[int] | None:
        """The options that make up a recipe, None where one is not on offer."""
        chosen = recipe.formats(recipe.named(spec, self.decoder), self.decoder.hidden)
        own = [*(chosen.of(linear) for linear in self.decoder.linears), chosen.head]
        own += [chosen.embedding] if self.choices.embedding else []
        pairs = [([_kind(o) for o in options], _kind(f)) for options, f in zip(self._formats, own, strict=True)]
        return [kinds.index(kind) for kinds, kind in pairs] if all(kind in kinds for kinds, kind in pairs) else None


def _kind(format: Format) -> FormatSpec:
    """What a matrix loses by, whose scales may be stored in fewer bytes."""
    return replace(format.spec, half_scales=None)


def of_matrices(
    matrices: dict[str, FormatSpec], decoder: Decoder, *, head: FormatSpec, embedding: FormatSpec | None, kv: FormatSpec
) -> RecipeSpec:
    """A recipe of formats by matrix; `body` is the one that holds most weights, and a tied embedding the head's."""
    weights: dict[FormatSpec, int] = {}
    for linear in decoder.linears:
        spec = matrices[linear.name]
        weights[spec] = weights.get(spec, 0) + linear.outputs * linear.inputs
    body = max(weights, key=lambda spec: weights[spec])
    return RecipeSpec(body, head, embedding or head, kv, matrices=matrices)


@dataclass(frozen=True)
class Attempt:
    """A written bundle: the point it stands for, its KLD where that is measured, its bytes."""

    point: int
    size: int
    kld: float | None


def search(
    candidates: Candidates, budget: Budget, weigh: Callable[[RecipeSpec], int], write: Callable[[int], Attempt]
) -> Attempt:
    """Write the recipe that serves a budget: the least KLD within its bytes, or the fewest bytes within its KLD.

    Args:
        candidates: the recipes.
        budget: without limits the bundle takes no more than one of the target's default recipe.
        weigh: exactly what a bundle of a recipe takes.
        write: writes one, and measures it where KLD is limited; the last one written stays.

    Raises:
        ExportError: no recipe keeps the budget; it says what the best one reaches.
    """
    if budget.kld is not None:
        return _within_kld(candidates, budget, _largest(candidates, budget, weigh), write)
    if budget.size is None:
        budget = replace(budget, size=max(weigh(candidates.target.recipe()), weigh(candidates.recipe(0))))
    assert budget.size is not None
    point, default = _largest(candidates, budget, weigh), candidates.default_loss
    if default is not None and float(candidates.frontier.loss[point]) > _WORTH * default:
        point = DEFAULT if weigh(candidates.recipe(DEFAULT)) <= budget.size else point
    return write(point)


def _largest(candidates: Candidates, budget: Budget, weigh: Callable[[RecipeSpec], int]) -> int:
    """The best point whose bundle keeps the limit of bytes."""
    if budget.size is None:
        return candidates.last
    smallest = weigh(candidates.recipe(0))
    if smallest > budget.size:
        loss = float(candidates.frontier.loss[0])
        raise ExportError(
            f"no recipe of {candidates.target.name} keeps --max-size {shown(budget.size)}: the smallest takes "
            f"{shown(smallest)}, with a KLD of about {loss:.2g}",
            hint=_smaller(candidates),
        )
    fits, highest = 0, candidates.last
    while fits < highest:
        point = (fits + highest + 1) // 2
        if weigh(candidates.recipe(point)) <= budget.size:
            fits = point
        else:
            highest = point - 1
    return fits


def _smaller(candidates: Candidates) -> str:
    """What to do where even the smallest recipe is too large."""
    cores = [name for name, spec in candidates.target.recipes.items() if spec.note]
    slow = f"--quant {cores[0]} is smaller, but slow on this core; or " if cores else ""
    return f"{slow}take a smaller model, or a larger --max-size"


def _within_kld(candidates: Candidates, budget: Budget, largest: int, write: Callable[[int], Attempt]) -> Attempt:
    """Bracket the limit of KLD: what was measured corrects what is predicted, from try to try."""
    assert budget.kld is not None
    aim, too_coarse, good = _AIM * budget.kld, -1, None
    made = None
    for _ in range(_TRIES):
        wanted = candidates.frontier.within_loss(aim)
        highest = largest if good is None else good.point - 1
        point = min(max(candidates.last if wanted is None else wanted, too_coarse + 1), highest)
        made = write(point)
        assert made.kld is not None
        if made.kld > budget.kld:
            if point == largest:
                raise _unreached(candidates, budget, made)
            too_coarse = point
        else:
            good = made
            if made.kld >= _CLOSE * budget.kld:
                break
        if good is not None and good.point == too_coarse + 1:
            break
        predicted = float(candidates.frontier.loss[point])
        aim = _AIM * budget.kld * (predicted / made.kld if made.kld > 0 and predicted > 0 else 2.0)
    if good is None:  # predictions do not help here: the best there is
        good = write(largest)
        if good.kld is not None and good.kld > budget.kld:
            raise _unreached(candidates, budget, good)
    return good if made is good else write(good.point)


def _unreached(candidates: Candidates, budget: Budget, best: Attempt) -> ExportError:
    within = f" within --max-size {shown(budget.size)}" if budget.size is not None else ""
    return ExportError(
        f"no recipe of {candidates.target.name} reaches --max-kld {budget.kld:g}{within}: the best, "
        f"{shown(best.size)}, has a KLD of {best.kld:.3g}",
        hint="calibrate (--calibrate TEXT), or allow more",
    )


def _stored(format: Format, linear: Linear, activations: str) -> int:
    """Bytes of a packed matrix in the data file, up to where the next tensor begins."""
    with SizedFile() as data:
        format.pack(Builder(data, activations), linear.name, linear.outputs, linear.inputs, ())
        boundary = _PAGE if data.size >= _PAGE else _LINE
        return -(-data.size // boundary) * boundary
