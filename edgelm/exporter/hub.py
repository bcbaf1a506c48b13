"""Where a checkpoint comes from: the embedded default, a local folder, or the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgelm import demo
from edgelm.errors import CheckpointError, DependencyError

# Weights as safetensors, and the text files that describe them; no pickles, no other frameworks' copies.
_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "tokenizer.model", "README.md", "LICENSE*"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """A checkpoint at hand: its folder, the id it is known by, and the hub's commit where it came from there."""

    path: Path
    id: str
    revision: str | None = None


def resolve(model: str | None) -> Source:
    """Find a checkpoint: None is the embedded default, a path is a folder, ``owner/name`` is fetched from the hub.

    Raises:
        CheckpointError: no such folder, or the hub cannot give it.
    """
    if model is None:
        return Source(demo.path(), demo.NAME)
    path = Path(model).expanduser()
    if path.exists() or not _HUB_ID.fullmatch(model):
        if not path.exists():
            raise CheckpointError(
                f"checkpoint {model} does not exist",
                hint="give a folder, a hub id such as owner/name, or nothing for the embedded default",
            )
        return Source(path, path.resolve().name)
    return _download(model)


def _download(model: str) -> Source:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ImportError:
        raise DependencyError(
            "a model from the hub needs huggingface-hub", hint="pip install 'edgelm[export]'"
        ) from None
    try:
        path = Path(snapshot_download(model, allow_patterns=_PATTERNS))
    except GatedRepoError:
        raise CheckpointError(
            f"model {model} is gated", hint="accept its licence on its page, then: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"no folder {model}, and no model of that name on the hub",
            hint="check the spelling; a private model needs: hf auth login",
        ) from None
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"no folder {model}, and the hub cannot be reached", hint="check the path or the network"
        ) from None
    except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's errors
        raise CheckpointError(
            f"cannot download {model}: {str(error).splitlines()[0]}", hint="run the command again: the download resumes"
        ) from None
    return Source(path, model, path.name)  # the cache names a snapshot's folder by its commit
