"""One model on the Hugging Face hub: its files, fetched into the cache or found there, and what its client says when it fails."""

from __future__ import annotations

import contextlib
import errno
import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from edgelm.catalogue.store import MIRROR
from edgelm.errors import CheckpointError, DependencyError, EdgeLMError
from edgelm.exporter.checkpoint.checkpoint import pickles, weight_files
from edgelm.exporter.checkpoint.gguf import files as gguf
from edgelm.exporter.checkpoint.gguf.remote import write_stub
from edgelm.exporter.progress import Progress

# The text files that describe a model or an adapter; of the weights `_weights` chooses.
_TEXTS = ("*.json", "*.jinja", "merges.txt", "tokenizer.model", "README.md", "LICENSE*")
_GGUF_TEXTS = ("README.md", "LICENSE*")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_PATIENCE = 20  # seconds until the hub counts as out of reach
_PIECE = 1 << 16  # bytes of a download read at once
_RESUME = "run the command again: the download resumes where it stopped"
_NETWORK = ("requests", "urllib3", "httpx", "httpcore")  # what the hub's client uses, by version


@dataclass(frozen=True)
class Source:
    """A checkpoint at hand: its folder or GGUF file, its id, and the hub's commit where it came from there; `headers_alone` of
    a GGUF file whose weights are left there.
    """

    path: Path
    id: str
    revision: str | None = None
    headers_alone: bool = False


class _WholeFilesOnly(Exception):
    """A hub that gives no part of a file."""


class HubModel:
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
        return Source(path / parts[0], self._gguf_id(parts, kind), path.name)

    def _gguf_id(self, parts: list[str], kind: str | None) -> str:
        return f"{self.model}:{kind or gguf.stem(Path(parts[0]).name)}"

    def gguf_headers(self, folder: Path, *, kind: str | None = None, file: str | None = None) -> Source:
        """Stand-ins for a GGUF file and its parts, in `folder`: their headers, and holes in place of weights; or the files
        themselves where they are in the cache, or the hub gives no part of a file.
        """
        with _quiet(bars=False):
            try:
                names, commit = self._named(folders=True)
            except Exception as error:
                return self._gguf_from_cache(kind, file, self._told(error, _away(self.model)))
            parts = gguf.choose(self.model, names, kind=kind, file=file)
            cached = [self._client.try_to_load_from_cache(self.model, part, revision=commit) for part in parts]
            if not all(isinstance(found, str) for found in cached):
                try:
                    for part in parts:
                        (folder / part).parent.mkdir(parents=True, exist_ok=True)
                        write_stub(partial(self._range, part, commit), folder / part)
                except _WholeFilesOnly:
                    return self.fetch_gguf(kind=kind, file=file)
                except EdgeLMError:
                    raise
                except Exception as error:
                    raise self._told(error, _cut_off(self.model)) from None
                return Source(folder / parts[0], self._gguf_id(parts, kind), commit, headers_alone=True)
        return self.fetch_gguf(kind=kind, file=file)

    def _range(self, name: str, commit: str, first: int, count: int) -> tuple[bytes, int]:
        """Bytes of a file, and its size; see `remote.Read`."""
        from huggingface_hub import utils

        session: Any = utils.get_session()
        url = self._client.hf_hub_url(self.model, name, revision=commit)
        headers = {**utils.build_hf_headers(), "Range": f"bytes={first}-{first + count - 1}"}
        if callable(getattr(session, "stream", None)):  # httpx, of huggingface_hub 1; before that it was requests
            opened = session.stream("GET", url, headers=headers, timeout=_PATIENCE, follow_redirects=True)
        else:
            opened = contextlib.closing(session.get(url, headers=headers, timeout=_PATIENCE, stream=True))
        with opened as response:
            utils.hf_raise_for_status(response)
            told = response.headers.get("Content-Range", "").rpartition("/")[2] if response.status_code == 206 else ""
            size = told or ("" if first else response.headers.get("Content-Length", ""))
            if not size.isdecimal():
                raise _WholeFilesOnly
            data = bytearray()
            for piece in response.iter_bytes() if hasattr(response, "iter_bytes") else response.iter_content(_PIECE):
                data += piece
                if len(data) >= count:  # more comes where a hub gives the whole file
                    break
        return bytes(data[:count]), int(size)

    def fetch_config(self) -> Source:
        """Download config.json unless it is in the cache."""
        with _quiet(bars=False):
            try:
                # With a patience of its own: the client's default is endless where a proxy swallows all.
                found = self._client.hf_hub_download(
                    self.model, "config.json", revision=self.revision, etag_timeout=_PATIENCE
                )
            except Exception as error:
                raise self._no_config(error) from None
        return self._source(Path(found).parent)

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
        return self._named(folders=folders)[0]

    def _named(self, *, folders: bool) -> tuple[list[str], str]:
        """The same, and the commit they are of."""
        info = self._client.HfApi().model_info(self.model, revision=self.revision, timeout=_PATIENCE)
        names = [file.rfilename for file in info.siblings or () if folders or "/" not in file.rfilename]
        return names, info.sha or self.revision or "main"

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
        f"no folder {model} here, and the hub cannot be reached to fetch it",
        hint=f"check the network and its proxy, or the path; {MIRROR}=DIR names a folder with copies of models",
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


@contextmanager
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
