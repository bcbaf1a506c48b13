"""Exports of many models, each a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgelm.bundle.reader import Bundle
from edgelm.exporter.pipeline import export
from edgelm.exporter.progress import Progress
from edgelm.files import expanded, is_there
from edgelm.target.target import Target

_FILES = ("adapter", "calibrate", "card", "recipe", "compile_prompt")  # options that may name a file or folder


@dataclass(frozen=True)
class Export:
    """A model to be exported.

    Attributes:
        model: a folder, a GGUF file or a hub id.
        target, quant: the board and its recipe.
        output: the bundle's folder.
        options: of `edgelm.export`, beside these.
    """

    model: str
    target: Target
    quant: str | None
    output: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's."""
        return self.model

    @property
    def inputs(self) -> tuple[str, ...]:
        """The checkpoint and the options' files, where they are files."""
        return tuple(dict.fromkeys(path for path in (self.model, *self._named()) if _exists(path)))

    def moved(self, paths: Mapping[str, str]) -> Export:
        """With its files elsewhere."""

        def there(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(there, value))
            return paths.get(str(value), value) if isinstance(value, str | Path) else value

        options = {name: there(v) if name in (*_FILES, "trim_vocab") else v for name, v in self.options.items()}
        return replace(self, model=paths.get(self.model, self.model), options=options)

    def _named(self) -> list[str]:
        values = [self.options.get(name) for name in _FILES]
        values += self.options.get("trim_vocab") or ()
        return [str(value) for value in values if isinstance(value, str | Path)]


def exported(task: Export, progress: Progress) -> str:
    """Do it; the bundle's folder. Raises as `edgelm.export`."""
    bundle: Bundle = export(
        task.model, task.target, task.quant, output=task.output, progress=progress, **dict(task.options)
    )
    return str(bundle.path)


def names_of(models: Sequence[str]) -> Mapping[str, int]:
    """How often each model is asked for."""
    return {model: models.count(model) for model in models}


def _exists(path: str) -> bool:
    return is_there(expanded(path))
