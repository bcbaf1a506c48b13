"""What tensors of a text model are called, in whatever wrapping a checkpoint or an adapter was saved.

Beside the parts for images the text model is ``model.language_model.…`` in newer files and ``language_model.model.…`` in
older ones; a model saved without its head has lost its first component (GPT-2's own checkpoint is one).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight")
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
_WRAPPINGS = ("model", "language_model", "text_model", "transformer", "gpt_neox")


def spellings(name: str) -> Iterator[str]:
    """What a tensor of the text model may be called in the file, the most likely first."""
    first, _, rest = name.partition(".")
    yield name
    yield rest  # in a checkpoint of the bare model, saved without its head: GPT-2's is one
    yield f"language_model.{name}"  # beside the parts for images
    if first == "model":
        yield f"model.language_model.{rest}"


def bare(name: str) -> str:
    """The name without any wrapping: the same for all spellings of one tensor."""
    first, _, rest = name.partition(".")
    return bare(rest) if first in _WRAPPINGS and rest else name


def by_bare_name(names: Iterable[str]) -> dict[str, str]:
    """Bare name → name, where only one of the `names` has it."""
    found: dict[str, str | None] = {}
    for name in names:
        key = bare(name)
        found[key] = None if key in found else name
    return {key: name for key, name in found.items() if name is not None}


def head_of(names: Iterable[str]) -> str | None:
    """The tensor that makes the logits; None where none is stored."""
    return next((name for name in names if bare(name) in HEADS), None)


def embedding_of(names: Iterable[str]) -> str | None:
    """The table of token embeddings; None where it is not found."""
    return next((name for name in names if bare(name).removeprefix("decoder.") in EMBEDDINGS), None)
