"""What must be in quality.json and lora.json, so that whoever shows or uses them finds it."""

from __future__ import annotations

from edgelm.bundle.json_table import SIZE, JsonTable
from edgelm.bundle.origins import Calibration, Text


def expect_quality(card: JsonTable) -> None:
    """A quality card; BundleError names the key that is wrong."""
    base = card.table("base")
    for key in ("id", "quant"):
        base.text(key)
    Text.read(card.table("text"))
    card.integer("tokens", *SIZE)
    if card.has("calibration"):
        Calibration.read(card.table("calibration"))
    perplexity, kld, same = (card.table(key) for key in ("perplexity", "kld", "same_top"))
    for table in (perplexity.table("base"), perplexity.table("quantised"), same):
        _numbers(table, ("value", "stderr"))
    _numbers(perplexity, ("ratio",))
    _numbers(kld, ("mean", "stderr", "median", "max", *(key for key in kld.data if key.startswith("p"))))
    _numbers(card, ("rms_delta_p", *(["outside_vocabulary"] if "outside_vocabulary" in card.data else [])))
    for facts in (card.each("matrices") if "matrices" in card.data else {}).values():
        facts.text("format")
        _numbers(facts, ("weight", *(["output"] if "output" in facts.data else [])))


def expect_lora(table: JsonTable) -> None:
    """The places of adapters; BundleError names the key that is wrong."""
    table.text("base")
    table.text("activations", ("float32", "float16"))
    for place in table.tables("places"):
        place.text("name")
        place.number("scale")
        place.tables("sources")
        for key in ("inputs", "outputs"):
            place.integer(key, *SIZE)


def _numbers(table: JsonTable, keys: tuple[str, ...]) -> None:
    """Each is there, and a number; one that is infinite is one, too: a model may be that bad."""
    for key in keys:
        value = table.data.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            table.wrong(key, "a number")
