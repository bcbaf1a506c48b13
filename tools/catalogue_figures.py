"""What `edgelm models` says of every model on every board, by `edgelm estimate` of the shapes in models.toml.

python tools/catalogue_figures.py            # compare with edgelm/catalogue/figures.json
python tools/catalogue_figures.py --write    # write it anew, about a minute
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

import edgelm.catalogue
from edgelm.catalogue.models import Model, models
from edgelm.exporter.plan.estimate import of_model
from edgelm.target.target import Target, load_all

FILE = Path(edgelm.catalogue.__file__).parent / "figures.json"


@click.command(help=__doc__)
@click.option("--write", is_flag=True, help="Write the file anew.")
def main(write: bool) -> None:
    found = {model.name: {target.name: figures(model, target) for target in load_all()} for model in models()}
    if write:
        rows = ",\n".join(f"{json.dumps(name)}: {{\n{_lines(figures)}\n}}" for name, figures in found.items())
        FILE.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
    elif json.loads(FILE.read_text(encoding="utf-8")) != found:
        raise click.ClickException(f"{FILE} is not what the models' shapes give: --write writes it anew")


def figures(model: Model, target: Target) -> dict[str, Any]:
    """Of one model on one board, as `edgelm.catalogue.models.Expected` takes them."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(dict(model.shape)))
        found = of_model(None if model.embedded else folder, target)
    speed = found.forecast
    return {
        "quant": found.quant,
        "context": found.context,
        "decode": _rounded(speed.decode[0].tokens_per_second),
        "prefill": _rounded(speed.prefill.tokens_per_second),
        "memory": found.memory["total_bytes"],
        "bundle": found.bundle_bytes,
        "fits": found.fits,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _lines(figures: dict[str, Any]) -> str:
    return ",\n".join(f"  {json.dumps(target)}: {json.dumps(found)}" for target, found in figures.items())


if __name__ == "__main__":
    main()
