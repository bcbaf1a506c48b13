"""Where a checkpoint comes from: the embedded default, a local folder, a name of the catalogue, or the Hugging Face hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgelm import demo
from edgelm.catalogue import models as catalogue
from edgelm.catalogue.store import mirrored
from edgelm.errors import CheckpointError, EdgeLMError, OptionError, near
from edgelm.exporter.checkpoint.gguf import files as gguf
from edgelm.exporter.checkpoint.hub_model import HubModel, Source
from edgelm.exporter.progress import Progress
from edgelm.files import expanded, is_there, real_path

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_GGUF_ID = re.compile(rf"({_HUB_ID.pattern}):([\w.-]+)")  # as llama.cpp's users write it: owner/name:Q4_K_M
_ADDRESS = re.compile(
    rf"(?:https?://)?[\w-]+\.[\w.-]+/({_HUB_ID.pattern})(?::([\w.-]+))?(?:/(?:resolve|blob)/[^/]+/([^?#]+))?.*"
)
_OLLAMA = re.compile(r"(?:ollama://)?(?:library/)?[a-z][\w.-]*:[\w.-]+")


@dataclass(frozen=True)
class Wanted:
    """What a MODEL means: a path or an id (None for the embedded default), and of an id which revision and GGUF file."""

    model: str | None
    revision: str | None = None
    file: str | None = None


def meant(model: str | None, revision: str | None = None, file: str | None = None) -> Wanted:
    """What a MODEL means: a path that is there is that path; names of the catalogue and addresses of the hub's pages
    become ids.
    """
    if model is None or is_there(expanded(model)):
        return Wanted(model, revision, file)
    if (known := catalogue.find(model)) is not None:
        return Wanted(None if known.embedded else known.id, revision, file)
    if (page := _page(model)) is not None:
        return Wanted(page.model, revision or page.revision, file or page.file)
    return Wanted(model, revision, file)


def _page(model: str) -> Wanted | None:
    """What an address means that is one of the hub's pages; None for anything else."""
    if "://" not in model and not _ADDRESS.fullmatch(model):
        return None
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    address = urlsplit(model if "://" in model else f"https://{model}")
    parts = address.path.strip("/").split("/")
    if address.netloc != urlsplit(constants.ENDPOINT).netloc or len(parts) < 2:
        return None
    owner, name, *rest = parts
    kind, _, gguf_type = name.partition(":")
    revision = rest[1] if len(rest) > 1 and rest[0] in ("tree", "blob", "resolve") else None
    last = rest[-1] if len(rest) > 2 and rest[-1].lower().endswith(gguf.SUFFIX) else None
    return Wanted(f"{owner}/{kind}" + (f":{gguf_type}" if gguf_type else ""), revision, last)


def name_of(model: str | None, file: str | None = None) -> str:
    """What the model is called, without a look at the hub: its name in the catalogue, its id, or that of its file."""
    if model is None:
        return demo.NAME
    path = expanded(model)
    if is_there(path):
        return gguf.stem(real_path(path).name)
    if (known := catalogue.find(model)) is not None and "/" not in model:
        return known.name
    wanted = meant(model, None, file)
    if wanted.model is None:
        return demo.NAME
    if not _on_hub(wanted.model):
        return gguf.stem(real_path(path).name)
    return wanted.model if wanted.file is None else f"{wanted.model}:{gguf.stem(Path(wanted.file).name)}"


def _on_hub(model: str) -> bool:
    """Whether it is an id of the hub, and no path of a file that is missing."""
    return not model.lower().endswith(gguf.SUFFIX) and bool(_HUB_ID.fullmatch(model) or _GGUF_ID.fullmatch(model))


def is_id(model: str) -> bool:
    """Whether it is an id of the hub, ``owner/name`` or ``owner/name:TYPE``, as far as its form tells."""
    return _on_hub(model)


def slug(name: str) -> str:
    """A model's id as part of a file's name: its last part, in letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name.rsplit("/", 1)[-1]).strip("-.") or "model"


def resolve(
    model: str | None,
    revision: str | None = None,
    progress: Progress | None = None,
    *,
    what: str = "checkpoint",
    file: str | None = None,
) -> Source:
    """Find a checkpoint or an adapter.

    None is the embedded default; a path is a folder or a GGUF file; a name is one of the catalogue; ``owner/name`` is on
    the hub, ``owner/name:Q4_K_M`` the GGUF file of that type there, and so are addresses of the hub's pages. A copy in
    ``$EDGELM_MIRROR`` goes before the hub.

    What the hub gives is kept in huggingface_hub's cache: a download that was interrupted resumes, and what is whole
    in the cache needs no network. Only safetensors and text files are fetched, or one GGUF file with all its parts.

    Args:
        model: which.
        revision: branch, tag or commit on the hub; None is its main branch.
        progress: where it is `visible`, huggingface_hub's own bars are shown.
        what: it is called in errors.
        file: of a model on the hub, the GGUF file.

    Raises:
        CheckpointError: no such folder, or the hub cannot give it.
        OptionError: a revision or file of something that is not on the hub.
        DependencyError: huggingface-hub is not installed.
    """
    wanted = meant(model, revision, file)
    model, revision, file = wanted.model, wanted.revision, wanted.file
    path = expanded(model) if model is not None else demo.path()
    if model is not None and not is_there(path):
        if _on_hub(model) and _HUB_ID.fullmatch(model):
            if revision is None and file is None and (copy := mirrored(model)) is not None:
                return Source(copy, gguf.stem(copy.name) if copy.is_file() else model)
            hub = HubModel(model, revision, progress or Progress())
            return hub.fetch() if file is None else hub.fetch_gguf(file=file)
        if named := _GGUF_ID.fullmatch(model):
            if file is not None:
                raise OptionError(f"{model} names a GGUF file by its type, --file {file} by its name: give one of them")
            return HubModel(named[1], revision, progress or Progress()).fetch_gguf(kind=named[2])
        raise _not_there(model, what)
    for option, value in (("--revision", revision), ("--file", file)):
        if value is not None:
            raise OptionError(
                f"{option} {value} is for models on the hub, and {model or demo.NAME} is {_here(path)} on this machine"
                if model is not None
                else f"{option} {value} is for models on the hub, not for the one that comes with edgelm"
            )
    return Source(path, name_of(model))


def _here(path: Path) -> str:
    return "a folder" if path.is_dir() else "a file"


def _not_there(model: str, what: str) -> CheckpointError:
    """The error for what is no path, and no id of the hub."""
    if address := _ADDRESS.fullmatch(model):
        name, kind, file = address.groups()
        known = f"{name}:{kind}" if kind else f"{name} --file {file}" if file and file.endswith(".gguf") else name
        return CheckpointError(
            f"{model} is an address: edgelm takes paths and ids of the hub", hint=f"give {known}, or download it"
        )
    if "://" not in model and model.lower().endswith(gguf.SUFFIX):
        return CheckpointError(f"{model} does not exist", hint="give the path of a *.gguf file on this machine")
    if _OLLAMA.fullmatch(model):
        return CheckpointError(
            f"{model} is a name of Ollama's, whose models edgelm cannot fetch",
            hint="give the same model on the hub, as owner/name or owner/name:Q4_K_M, or the path of a *.gguf file",
        )
    if what != "checkpoint":
        return CheckpointError(f"{what} {model} does not exist", hint="give a folder, or a hub id such as owner/name")
    known = near(model, catalogue.names()) if "/" not in model else ""
    return CheckpointError(
        f"{what} {model} does not exist",
        hint=f"{known} see: edgelm models"
        if known.startswith("did you mean")
        else "give a folder, a *.gguf file, a hub id such as owner/name, or a name that `edgelm models` lists",
    )


@contextmanager
def described(
    model: str | None, revision: str | None = None, file: str | None = None, *, config_alone: bool = False
) -> Iterator[Source]:
    """A checkpoint as `resolve` finds it, for whoever reads no weights, until the context is left.

    Of a GGUF file on the hub that is not in the cache only the headers are fetched; with `config_alone`, of a checkpoint
    there only config.json.

    Raises:
        CheckpointError, OptionError, DependencyError: see `resolve`.
    """
    wanted = meant(model, revision, file)
    model, revision, file = wanted.model, wanted.revision, wanted.file
    elsewhere = model is not None and not is_there(expanded(model)) and _on_hub(model)
    named = None if model is None else _GGUF_ID.fullmatch(model)
    plain = named is None and file is None
    if not elsewhere or model is None or (named is not None and file is not None):
        yield resolve(model, revision, file=file)
    elif plain and config_alone and (revision is not None or mirrored(model) is None):
        yield HubModel(model, revision, Progress()).fetch_config()
    elif plain:
        yield resolve(model, revision)
    else:
        with tempfile.TemporaryDirectory(prefix="edgelm-") as folder:
            hub = HubModel(model if named is None else named[1], revision, Progress())
            try:
                yield hub.gguf_headers(Path(folder), kind=None if named is None else named[2], file=file)
            except EdgeLMError as error:  # a file is named by its place on the hub, not by that of its stand-in
                raise type(error)(str(error).replace(folder, hub.model), hint=error.hint) from None
