"""answer_grammar.json: what a model's answers may be, as its checkpoint says and its bundle keeps.

An object of one key, ``regex``, ``json_schema`` or ``choice``, with what the option of that name takes (`LM.stream`), and,
where the strings of a JSON key may only name what the user said, of ``grounded``: see `Grounding`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.bundle.json_table import parse_json, read_data, shown
from edgelm.errors import BundleError, EdgeLMError

PACKAGE, EXTRA = "llguidance", "edgelm[structured]"  # what holds answers to it, and what brings that
FILE = "answer_grammar.json"
KINDS = ("json_schema", "regex", "choice")
_GROUNDED = "grounded"
_A_GROUNDING = (
    "an object of key, a string, values, lists of words by name, and perhaps not_first and not_last, lists of words"
)
_ENDS = ("not_first", "not_last")
_LONGEST = 1 << 20  # bytes of the file
_HINT = "copy the bundle again, or export it again"


@dataclass(frozen=True)
class Grounding:
    """What the strings of one key of JSON answers may be: words that the user said, and names for them.

    Attributes:
        key: such as ``room``.
        values: a name, such as ``attic``, to what the user may say for it: ``attic``, ``loft``.
        not_first: words with which no name of the user's own words begins: ``in``, ``and``.
        not_last: words with which none ends: ``please``.
    """

    key: str
    values: Mapping[str, Sequence[str]]
    not_first: Sequence[str] = ()
    not_last: Sequence[str] = ()

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        names = {"values": {name: list(words) for name, words in self.values.items()}}
        ends = {"not_first": list(self.not_first), "not_last": list(self.not_last)}
        return {"key": self.key, **names, **{key: words for key, words in ends.items() if words}}


@dataclass(frozen=True)
class AnswerGrammar:
    """The grammar of a model's answers, its shape checked; whether it compiles tells llguidance alone.

    Attributes:
        kind: one of `KINDS`.
        value: the expression, the schema, or the strings.
        grounding: of one of its strings, or None.
    """

    kind: str
    value: Any
    grounding: Grounding | None = None

    @classmethod
    def read(cls, path: Path, *, error: type[EdgeLMError] = BundleError, hint: str = _HINT) -> AnswerGrammar:
        """From the file `path`.

        Raises:
            EdgeLMError: of the kind `error`: it cannot be read, is larger than 1 MiB, or holds no grammar.
        """
        data = read_data(path, error=error, hint=hint)
        if len(data) > _LONGEST:
            raise error(f"{path} is larger than {_LONGEST >> 20} MiB, which no grammar of answers is", hint=hint)
        found = parse_json(data, path, error=error, hint=hint)
        grounded = found.pop(_GROUNDED, None)
        if len(found) != 1 or next(iter(found)) not in KINDS:
            raise error(f"{path} must hold just one of {', '.join(KINDS)}, and may hold {_GROUNDED}", hint=hint)
        ((kind, value),) = found.items()
        if problem := _problem(kind, value):
            raise error(f"{path}: key '{kind}' must be {problem}, not {shown(value)}", hint=hint)
        if grounded is None:
            return cls(kind, value)
        if not _is_grounding(grounded):
            raise error(f"{path}: key '{_GROUNDED}' must be {_A_GROUNDING}, not {shown(grounded)}", hint=hint)
        return cls(kind, value, Grounding(**grounded))

    @property
    def options(self) -> Mapping[str, Any]:
        """As `LM.stream` takes it."""
        return {self.kind: self.value}

    def facts(self) -> dict[str, Any]:
        """As the file has it."""
        return {**self.options, **({} if self.grounding is None else {_GROUNDED: self.grounding.facts()})}

    def __str__(self) -> str:
        """In words."""
        return self._words() + ("" if self.grounding is None else f", its {self.grounding.key} from what was said")

    def _words(self) -> str:
        if self.kind == "regex":
            return f"a regular expression of {len(self.value):,} characters"
        return "a JSON schema" if self.kind == "json_schema" else f"one of {len(self.value):,} strings"


def installed() -> bool:
    """Whether there is what holds answers to a grammar."""
    return importlib.util.find_spec(PACKAGE) is not None


def _is_grounding(found: object) -> bool:
    """Whether JSON has the shape of a `Grounding`."""
    if not isinstance(found, dict) or not {"key", "values"} <= set(found) <= {"key", "values", *_ENDS}:
        return False
    if not isinstance(found["values"], dict):
        return False
    words = [found["key"], *found["values"]]
    for said in [*found["values"].values(), *(found.get(end, []) for end in _ENDS)]:
        if not isinstance(said, list):
            return False
        words += said
    return all(isinstance(word, str) and word for word in words)


def _problem(kind: str, value: object) -> str | None:
    """What a value should have been; None where it is."""
    if kind == "regex":
        return None if isinstance(value, str) and value and "\0" not in value else "a regular expression"
    if kind == "json_schema":
        return None if isinstance(value, dict) else "a JSON schema, an object"
    texts = isinstance(value, list) and value and all(isinstance(text, str) and text for text in value)
    return None if texts else "a list of strings, none of them empty"
