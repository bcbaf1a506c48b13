"""Servers that many tests share."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from serving import Running, Scripted, serving

from edgelm.bundle.reader import Bundle
from edgelm.runtime.lm import LM
from edgelm.runtime.text.tokenizer import Tokenizer
from edgelm.serve.settings import Settings


@pytest.fixture(scope="session")
def home_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded model."""
    from edgelm.exporter.pipeline import export

    return export(None, "x86-64", "fp32", output=tmp_path_factory.mktemp("bundles") / "home", card="none")


@pytest.fixture(scope="session")
def home(home_bundle: Bundle) -> Iterator[Running]:
    """A server of the embedded model, without a key."""
    with serving(Settings(bundles=(home_bundle.path,), port=0, threads=1)) as running:
        yield running


@pytest.fixture
def scripted(home_bundle: Bundle, tmp_path: Path) -> Iterator[Callable[..., tuple[Running, Scripted]]]:
    """text, special tokens to know of, settings -> a server whose model says the text, and the model."""
    with contextlib.ExitStack() as stack:

        def make(
            text: str,
            special: Sequence[str] = (),
            *,
            pause: float = 0.0,
            size: int = 1,
            buffer: int | None = None,
            **settings: Any,
        ) -> tuple[Running, Scripted]:
            table = json.loads(home_bundle.tokenizer_path.read_text())
            first = max([*table["model"]["vocab"].values(), *(t["id"] for t in table["added_tokens"])]) + 1
            form = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            table["added_tokens"] += [{"id": first + i, "content": name, **form} for i, name in enumerate(special)]
            file = tmp_path / "tokenizer.json"
            file.write_text(json.dumps(table))
            model = Scripted(Tokenizer.open(file, bos=None, add_bos=None), text, pause, size)
            given = Settings(bundles=(home_bundle.path,), port=0, **settings)
            loaded: Callable[[Settings, Path, float | None], LM] = lambda *_: model  # type: ignore[assignment,return-value]  # noqa: E731
            return stack.enter_context(serving(given, buffer, load_model=loaded)), model

        yield make
