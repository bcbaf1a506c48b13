"""How the commands tell what quantisation costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgelm.cli.show import fact, table

_METHODS = {"gptq": "GPTQ", "smoothquant": "SmoothQuant"}
_WORST = 5  # matrices that are listed


def quality_summary(card: Mapping[str, Any]) -> str:
    """A card in a line."""
    same, kld = card["same_top"]["value"], card["kld"]["mean"]
    return f"top-1 agreement {same:.1%} with the original, KLD {kld:.4f} (text: {card['text']['name']})"


def divergence_lines(found: Mapping[str, Any], base: str) -> Iterator[str]:
    """A table of what was measured, as in a card; `base` names the other model."""
    ppl, kld, same = found["perplexity"], found["kld"], found["same_top"]
    rows = [
        ("", "value", "±"),
        (f"perplexity of {base}", f"{ppl['base']['value']:.4f}", f"{ppl['base']['stderr']:.4f}"),
        ("perplexity", f"{ppl['quantised']['value']:.4f}", f"{ppl['quantised']['stderr']:.4f}"),
        ("  ratio", f"{ppl['ratio']:.4f}", ""),
        ("KLD, mean", f"{kld['mean']:.5f}", f"{kld['stderr']:.5f}"),
        ("  median", f"{kld['median']:.5f}", ""),
        *((f"  {name[1:]} %", f"{value:.5f}", "") for name, value in kld.items() if name.startswith("p")),
        ("  largest", f"{kld['max']:.5f}", ""),
        ("top-1 agreement", f"{same['value']:.2%}", f"{same['stderr']:.2%}"),
        ("RMS of delta p", f"{found['rms_delta_p']:.2%}", ""),
        *([("P of trimmed tokens", f"{found['outside_vocabulary']:.2%}", "")] if "outside_vocabulary" in found else []),
    ]
    yield from table(rows)


def card_lines(card: Mapping[str, Any]) -> Iterator[str]:
    """A whole card, for `inspect`."""
    text = card["text"]
    yield fact("quality", f"against {card['base']['id']} in {card['base']['quant']}")
    yield fact("  text", f"{text['name']} (SHA-256 {text['sha256'][:12]}), {card['tokens']:,} tokens scored")
    if calibration := card.get("calibration"):
        yield fact("  calibrated", calibration_line(calibration))
    yield from (f"    {line}" for line in divergence_lines(card, card["base"]["quant"]))
    yield from _worst_lines(card.get("matrices", {}))


def calibration_line(calibration: Mapping[str, Any]) -> str:
    """How matrices were calibrated."""
    text, method = calibration["text"], _METHODS.get(calibration["method"], calibration["method"])
    smoothed = f", {calibration['smoothed']} smoothed" if calibration.get("smoothed") else ""
    return (
        f"{method}, {calibration['matrices']} matrices{smoothed}, {calibration['tokens']:,} tokens of "
        f"{text['name']} (SHA-256 {text['sha256'][:12]})"
    )


def _worst_lines(matrices: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The matrices that lost most: of their products where that is known, else of their weights."""
    by = "output" if matrices and all("output" in facts for facts in matrices.values()) else "weight"
    worst = sorted(matrices, key=lambda name: -matrices[name][by])[:_WORST]
    if not worst:
        return
    yield ""
    rows = [(name, matrices[name]["format"], f"{matrices[name][by]:.3%}") for name in worst]
    yield from table(
        [(f"largest of {len(matrices)} errors ({by}s)", "format", "share"), *rows], left=(0, 1), indent="    "
    )
