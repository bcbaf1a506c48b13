"""What is asked of an export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Literal

from edgelm.errors import expect_flags, expect_type
from edgelm.exporter.checkpoint.hub import meant, name_of, slug
from edgelm.exporter.recipe import Choices
from edgelm.exporter.routes import Exporter
from edgelm.exporter.tokenizer.vocabulary import Wanted
from edgelm.files import path_argument
from edgelm.target.target import Target

Task = Literal["generate", "embedding"]
Name = str | os.PathLike[str]


@dataclass(frozen=True)
class ExportOptions:
    """The arguments of `edgelm.export`, which says what they mean."""

    model: Name | None = None
    target: Name | Target = "rpi5"
    quant: str | None = None
    revision: str | None = None
    file: str | None = None
    adapter: Name | None = None
    context: int | None = None
    output: Name | None = None
    exporter: Exporter = "auto"
    trim_vocab: Wanted = None
    kv: Literal["float", "int8"] | None = None
    prefill: Literal["same", "int8"] | None = None
    calibrate: Name | None = None
    language: str | None = None
    card: Name | None = None
    max_size: int | str | None = None
    max_kld: float | None = None
    recipe: Name | None = None
    overwrite: bool = False
    force: bool = False
    lora_ready: bool = False
    task: Task = "generate"
    compile_prompt: Name | None = None

    def __post_init__(self) -> None:
        for name in ("model", "adapter", "output", "calibrate", "card", "recipe", "compile_prompt"):
            if (value := getattr(self, name)) is not None:
                path_argument(name, value)
        if not isinstance(self.target, Target):
            path_argument("target", self.target)
        expect_flags(overwrite=self.overwrite, force=self.force, lora_ready=self.lora_ready)
        for name in ("quant", "revision", "file", "exporter", "kv", "prefill", "language", "task"):
            if (value := getattr(self, name)) is not None:
                expect_type(name, value, str, "a str")
        if self.context is not None:
            number = None if isinstance(self.context, bool) else self.context
            expect_type("context", number, Integral, "a whole number")
            object.__setattr__(self, "context", int(self.context))
        if self.max_size is not None:
            expect_type("max_size", self.max_size, (int, str), "bytes, or a str such as 350MB")
        wanted = self.trim_vocab
        if wanted is not None and not isinstance(wanted, str | os.PathLike):
            expect_type("trim_vocab", wanted, Sequence, "a file, or a list of files and languages")
            for each in wanted:
                path_argument("trim_vocab", each)
        if self.model is not None and meant(os.fspath(self.model)).model is None:  # the embedded model, by its name
            object.__setattr__(self, "model", None)

    @property
    def choices(self) -> Choices:
        """Those made whatever the recipe."""
        return Choices(self.kv, self.prefill)

    def folder(self, target: Target, quant: str) -> Path:
        """Of the bundle."""
        if self.output is not None:
            return Path(self.output)
        names = [name_of(None if self.model is None else os.fspath(self.model), self.file)]
        names += [] if self.adapter is None else [name_of(os.fspath(self.adapter))]
        task = ["embedding"] if self.task == "embedding" else []
        return Path("bundles") / "-".join([*map(slug, names), target.name, quant, *task, *self.choices.names])
