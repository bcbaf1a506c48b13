"""Where a checkpoint comes from: the embedded default, a local folder, a name of the catalogue, or the Hugging Face hub."""

from __future__ import annotations

import contextlib
import errno
import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from edgelm import demo
from edgelm.catalogue import models as catalogue
from edgelm.catalogue.store import mirrored
from edgelm.errors import CheckpointError, DependencyError, OptionError, near
from edgelm.exporter.checkpoint.checkpoint import pickles, weight_files
from edgelm.exporter.checkpoint.gguf import files as gguf
from edgelm.exporter.checkpoint.gguf.header import is_gguf
from edgelm.exporter.progress import Progress

# The text files that describe a model or an adapter; of the weights `_weights` chooses.
_TEXTS = ("*.json", "*.jinja", "merges.txt", "tokenizer.model", "README.md", "LICENSE*")
_GGUF_TEXTS = ("README.md", "LICENSE*")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_GGUF_ID = re.compile(rf"({_HUB_ID.pattern}):([\w.-]+)")  # as llama.cpp's users write it: owner/name:Q4_K_M
_ADDRESS = re.compile(
    rf"(?:https?://)?[\w-]+\.[\w.-]+/({_HUB_ID.pattern})(?::([\w.-]+))?(?:/(?:resolve|blob)/[^/]+/([^?#]+))?.*"
)
_OLLAMA = re.compile(r"(?:ollama://)?(?:library/)?[a-z][\w.-]*:[\w.-]+")
_PATIENCE = 20  # seconds until the hub counts as out of reach
_RESUME = "run the command again: the download resumes where it stopped"
_NETWORK = ("requests", "urllib3", "httpx", "httpcore")  # what the hub's client uses, by version


@dataclass(frozen=True)
class Source:
    """A checkpoint at hand: its folder or GGUF file, its id, and the hub's commit where it came from there."""

    path: Path
    id: str
    revision: str | None = None


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
    if model is None or Path(model).expanduser().exists():
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
    path = Path(model).expanduser()
    if path.exists():
        return gguf.stem(path.resolve().name)
    if (known := catalogue.find(model)) is not None and known.name == model.lower():
        return known.name
    wanted = meant(model, None, file)
    if wanted.model is None:
        return demo.NAME
    if not _on_hub(wanted.model):
        return gguf.stem(path.resolve().name)
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
    path = Path(model).expanduser() if model is not None else demo.path()
    if model is not None and not path.exists():
        if _on_hub(model) and _HUB_ID.fullmatch(model):
            if revision is None and file is None and (copy := mirrored(model)) is not None:
                return Source(copy, gguf.stem(copy.name) if copy.is_file() else model)
            hub = _Hub(model, revision, progress or Progress())
            return hub.fetch() if file is None else hub.fetch_gguf(file=file)
        if named := _GGUF_ID.fullmatch(model):
            if file is not None:
                raise OptionError(f"{model} names a GGUF file by its type, --file {file} by its name: give one of them")
            return _Hub(named[1], revision, progress or Progress()).fetch_gguf(kind=named[2])
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


def fetch_config(model: str | None, revision: str | None = None, file: str | None = None) -> Path:
    """The config.json of a model, found as `resolve` finds it, or its GGUF file; of a checkpoint on the hub nothing else is
    fetched.

    Raises:
        CheckpointError, OptionError, DependencyError: see `resolve`.
    """
    wanted = meant(model, revision, file)
    model, revision, file = wanted.model, wanted.revision, wanted.file
    plain = model is not None and file is None and _on_hub(model) and _HUB_ID.fullmatch(model)
    away = model is not None and plain and not Path(model).expanduser().exists()
    if model is not None and away and (revision is not None or mirrored(model) is None):
        return _Hub(model, revision, Progress()).fetch_config()
    path = resolve(model, revision, file=file).path
    if is_gguf(path):
        return path
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} is not a folder", hint="give the folder that holds config.json")
    return path / "config.json"


class _Hub:
    """One model on the hub."""

    def __init__(self, model: str, revision: str | None, progress: Progress) -> None:
        try:
            import huggingface_hub
        except ImportError:
            raise DependencyError(
                "a model from the hub needs huggingface-hub", hint="pip install 'edgelm[export]'"
            ) from None
        self._client = huggingface_hub
        self.model = model
        self.revision = revision
        self.progress = progress

    def fetch(self) -> Source:
        """Download what is not in the cache yet."""
        with _quiet(bars=self.progress.visible):
            try:
                names = self._names()
            except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's errors
                reason = self._told(error, _away(self.model))
                if isinstance(error, self._client.errors.HFValidationError):
                    raise reason from None
                return self._from_cache(reason)
            wanted = self._wanted(names)
            try:
                path = self._client.snapshot_download(self.model, revision=self.revision, allow_patterns=wanted)
            except Exception as error:
                raise self._told(error, _cut_off(self.model)) from None
        return self._source(Path(path))

    def fetch_gguf(self, *, kind: str | None = None, file: str | None = None) -> Source:
        """Download a GGUF file with its parts, by its type or its name, unless it is in the cache."""
        with _quiet(bars=self.progress.visible):
            try:
                names = self._names(folders=True)
            except Exception as error:
                return self._gguf_from_cache(kind, file, self._told(error, _away(self.model)))
            parts = gguf.choose(self.model, names, kind=kind, file=file)
            texts = [name for name in names if any(fnmatchcase(name, pattern) for pattern in _GGUF_TEXTS)]
            try:
                path = self._client.snapshot_download(
                    self.model, revision=self.revision, allow_patterns=[*map(glob.escape, parts), *texts]
                )
            except Exception as error:
                raise self._told(error, _cut_off(self.model)) from None
        return self._gguf_source(Path(path), parts, kind)

    def _gguf_from_cache(self, kind: str | None, file: str | None, reason: CheckpointError) -> Source:
        try:
            path = Path(self._client.snapshot_download(self.model, revision=self.revision, local_files_only=True))
        except Exception:  # nothing of it is in the cache
            raise reason from None
        names = [str(found.relative_to(path)) for found in path.rglob(f"*{gguf.SUFFIX}")]
        try:
            parts = gguf.choose(self.model, names, kind=kind, file=file)
        except CheckpointError:
            raise reason from None
        if not all((path / part).exists() for part in parts):
            raise CheckpointError(f"{reason}; the cache holds only a part of it", hint=reason.hint)
        return self._gguf_source(path, parts, kind)

    def _gguf_source(self, path: Path, parts: list[str], kind: str | None) -> Source:
        named = f"{self.model}:{kind or gguf.stem(Path(parts[0]).name)}"
        return Source(path / parts[0], named, path.name)

    def fetch_config(self) -> Path:
        """Download config.json unless it is in the cache."""
        with _quiet(bars=False):
            try:
                # With a patience of its own: the client's default is endless where a proxy swallows all.
                found = self._client.hf_hub_download(
                    self.model, "config.json", revision=self.revision, etag_timeout=_PATIENCE
                )
            except Exception as error:
                raise self._no_config(error) from None
        return Path(found)

    def _no_config(self, error: Exception) -> CheckpointError:
        """Why config.json could not be fetched: the model is not there, or that file, or the hub itself."""
        errors = self._client.errors
        if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
            try:
                self._names()
            except Exception as reason:
                return self._told(reason, _away(self.model))
            return CheckpointError(f"{self.model} on the hub has no config.json", hint="is it a text-generation model?")
        return self._told(error, _away(self.model))

    def _source(self, path: Path) -> Source:
        return Source(path, self.model, path.name)  # the cache names a snapshot's folder by its commit

    def _names(self, *, folders: bool = False) -> list[str]:
        """The files in the model's own folder, or those in `folders` inside of it, too."""
        info = self._client.HfApi().model_info(self.model, revision=self.revision, timeout=_PATIENCE)
        return [file.rfilename for file in info.siblings or () if folders or "/" not in file.rfilename]

    def _wanted(self, names: list[str]) -> list[str]:
        weights = _weights(names)
        if not weights:
            if files := gguf.models(self._names(folders=True)):
                raise CheckpointError(
                    f"{self.model} on the hub has GGUF files, of which one must be named",
                    hint=f"give --file {files[0]}" + (f", or one of {', '.join(files[1:9])}" if files[1:] else ""),
                )
            if found := pickles(names):
                raise CheckpointError(
                    f"{self.model} on the hub has its weights as a pickle only ({found[0]}), "
                    "which can run any code when it is read; edgelm reads safetensors only",
                    hint="its page may offer safetensors as a pull request: --revision refs/pr/NUMBER; or, in a place "
                    f"you trust: AutoModelForCausalLM.from_pretrained('{self.model}').save_pretrained(DIR)",
                )
            raise CheckpointError(
                f"{self.model} on the hub has no *.safetensors file", hint="is it a text-generation model?"
            )
        return weights + [name for name in names if any(fnmatchcase(name, pattern) for pattern in _TEXTS)]

    def _from_cache(self, reason: CheckpointError) -> Source:
        """What is in the cache, or `reason` to fail where it is not whole."""
        # Not snapshot_download(local_files_only=True): whether it takes half a snapshot for a whole depends on its version.
        found = (
            self._client.try_to_load_from_cache(self.model, name, revision=self.revision)
            for name in ("config.json", "adapter_config.json")
        )
        path = next((Path(file).parent for file in found if isinstance(file, str)), None)
        if path is None:
            raise reason from None
        try:
            weight_files(path)
        except CheckpointError as error:
            if pickles([file.name for file in path.iterdir()]):
                raise error from None
            raise CheckpointError(f"{reason}; the cache holds only a part of it", hint=reason.hint) from None
        return self._source(path)

    def _told(self, error: Exception, unanswered: CheckpointError) -> CheckpointError:
        """An error of the client in one line, `unanswered` where it did not come from the hub."""
        from huggingface_hub import errors

        model, first = self.model, str(error).strip().partition("\n")[0]
        match error:
            case errors.GatedRepoError():
                return CheckpointError(
                    f"model {model} is gated", hint="accept its licence on its page, then: hf auth login"
                )
            case errors.RepositoryNotFoundError():
                return CheckpointError(
                    f"no folder {model}, and no model of that name on the hub",
                    hint="check the spelling; a private model needs: hf auth login",
                )
            case errors.RevisionNotFoundError():
                return CheckpointError(
                    f"model {model} has no revision {self.revision!r}", hint="give one of its branches, tags or commits"
                )
            case errors.HFValidationError():
                return CheckpointError(f"{model} is neither a folder nor an id of the hub: {first}")
            case errors.OfflineModeIsEnabled():
                return CheckpointError(
                    f"no folder {model}, and the hub is switched off by HF_HUB_OFFLINE",
                    hint="unset HF_HUB_OFFLINE to download it",
                )
            case OSError(errno=errno.ENOSPC):
                return CheckpointError(
                    f"disk full while downloading {model}", hint="free some space, or set HF_HOME to a larger disk"
                )
        response = getattr(error, "response", None)
        if response is not None:
            return CheckpointError(f"the hub cannot give {model}: it answers {response.status_code}", hint=_RESUME)
        # httpx raises a bare RuntimeError where the client closed its connection pool between two attempts.
        unreached = (errors.LocalEntryNotFoundError, RuntimeError)
        if isinstance(error, unreached) or type(error).__module__.startswith(_NETWORK):
            return unanswered
        if isinstance(error, OSError) and error.strerror:
            first = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        return CheckpointError(f"cannot download {model}: {first or type(error).__name__}", hint=_RESUME)


def _away(model: str) -> CheckpointError:
    return CheckpointError(
        f"no folder {model}, and the hub cannot be reached", hint="check the path, or the network and its proxy"
    )


def _cut_off(model: str) -> CheckpointError:
    return CheckpointError(f"the connection broke while {model} was downloaded", hint=_RESUME)


def _weights(names: list[str]) -> list[str]:
    """The weights among a repository's files: the model's own, not a second copy of them in another layout."""
    found = [name for name in names if name.endswith(".safetensors")]
    if "model.safetensors" in found:
        return ["model.safetensors"]
    if "model.safetensors.index.json" in names and (shards := [n for n in found if _SHARD.fullmatch(n)]):
        return shards
    return found


@contextlib.contextmanager
def _quiet(*, bars: bool) -> Iterator[None]:
    """Keep huggingface_hub's warnings, and unless they are wanted its bars, off the terminal."""
    from huggingface_hub import utils

    verbosity, hide = utils.logging.get_verbosity(), not bars and not utils.are_progress_bars_disabled()
    utils.logging.set_verbosity_error()
    if hide:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.logging.set_verbosity(verbosity)
        if hide:
            utils.enable_progress_bars()
