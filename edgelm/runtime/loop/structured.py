"""Constrained decoding: a JSON schema, a regular expression, or one of some strings, through llguidance.

llguidance (https://github.com/guidance-ai/llguidance) tells before each token which ones may come, and which must.
What must come is not sampled but read together with the next pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgelm.bundle.answer_grammar import EXTRA, KINDS, PACKAGE
from edgelm.bundle.json_table import shown
from edgelm.errors import DependencyError, EdgeLMError, OptionError
from edgelm.json_text import json_value
from edgelm.runtime.loop.generate import Drafter
from edgelm.runtime.sample.sampling import Floats
from edgelm.runtime.text.tokenizer import Tokenizer
from edgelm.runtime.text.tokenizer_file import guarded

if TYPE_CHECKING:
    import llguidance

_STUCK = {"NoExtensionBias": "no token of the vocabulary can come next"}  # llguidance's words → ours
# JSON as models know it, on one line or indented, and not blanks for ever; a schema's own "x-guidance" counts more.
_JSON = {"whitespace_pattern": r"( |\n[ \t]{0,32})?"}

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_ONES = ("items", "additionalItems", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames")
_CONSTRAINTS = """
    $ref $dynamicRef $recursiveRef type enum const format pattern minLength maxLength minimum maximum exclusiveMinimum
    exclusiveMaximum multipleOf minItems maxItems uniqueItems minContains maxContains required minProperties maxProperties
    dependencies dependentRequired unevaluatedItems unevaluatedProperties
"""
# JSON Schema's words that constrain a value, drafts 4 to 2020-12. Others only describe it, or hold parts to refer to.
_CONSTRAINING = frozenset((*_MAPS, *_LISTS, *_ONES, *_CONSTRAINTS.split())) - {"$defs", "definitions"}
# Formats of strings that the standard knows; another one, such as OpenAPI's password, says nothing about the value.
_FORMATS = frozenset(
    [
        "date-time",
        "date",
        "time",
        "duration",
        "email",
        "idn-email",
        "hostname",
        "idn-hostname",
        "ipv4",
        "ipv6",
        "uri",
        "uri-reference",
        "iri",
        "iri-reference",
        "uuid",
        "uri-template",
        "json-pointer",
        "relative-json-pointer",
        "regex",
    ]
)
# Other vocabularies mark their words: @type, ui:type, _type.
_LIKE_A_WORD = re.compile(r"\$?[A-Za-z][A-Za-z_-]*")
_HARMLESS = frozenset(["discriminator", "deprecated", "definition"])  # words that are, although near to one that is not


class Grammar:
    """Says which tokens may come next, and follows those that do.

    Args:
        matcher: gives that of the grammar, at its start; is called with the first token.
        eos: ids that end the text; they are never forced.
        forces: whether tokens without an alternative are given out without being sampled.
        tries: whether the token that would come without the grammar is tried first, and the others are told apart only
            where it must not come: a text that is of the grammar anyway is then the one that comes without it, also of a
            seed.
        hint: what to do where it cannot be followed.
    """

    def __init__(
        self,
        matcher: Callable[[], llguidance.LLMatcher],
        eos: Collection[int],
        *,
        forces: bool = True,
        tries: bool = False,
        hint: str = "simplify the schema or expression",
    ) -> None:
        self._begin, self._eos, self._forces, self._hint = matcher, eos, forces, hint
        self.tries = tries

    @cached_property
    def _matcher(self) -> llguidance.LLMatcher:
        return self._begin()

    @property
    def finished(self) -> bool:
        """Whether nothing more may come."""
        return self._matcher.is_stopped()

    def mask(self, logits: Floats) -> Floats:
        """The logits [V], -inf for tokens that must not come."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(bits, count=logits.size, bitorder="little").view(bool)
        masked: Floats = np.where(allowed, logits, logits.dtype.type(-np.inf))
        return masked

    def follow(self, token: int) -> list[int]:
        """The token that came, and those that must come after it."""
        self._matcher.consume_token(token)
        self._check()
        forced = self._matcher.compute_ff_tokens() if self._forces and not self.finished else []
        forced = forced[: next((i for i, t in enumerate(forced) if t in self._eos), len(forced))]
        if forced:
            self._matcher.consume_tokens(forced)
            self._check()
        return [token, *forced]

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        return bool(self._matcher.validate_tokens([token]) == 1)

    def possible(self, tokens: list[int]) -> list[int]:
        """As many of the tokens as may come one after the other."""
        return tokens[: self._matcher.validate_tokens(tokens)]

    def _check(self) -> None:
        if self._matcher.is_error():
            raise EdgeLMError(
                f"constrained decoding failed: {_STUCK.get(found := _line(self._matcher.get_error()), found)}",
                hint=self._hint,
            )


class GrammarDrafter:
    """A drafter's draft tokens, as far as the grammar allows them."""

    def __init__(self, drafter: Drafter, grammar: Grammar) -> None:
        self._drafter, self._grammar = drafter, grammar
        self.checked, self.passed = drafter.checked, drafter.passed

    def draft(self, history: Sequence[int], limit: int) -> list[int]:
        """The draft, cut short."""
        guess = self._drafter.draft(history, limit)
        return self._grammar.possible(guess) if guess else guess


class Grammars:
    """Makes grammars for one model; the tokenizer is prepared once, at the first.

    Args:
        tokenizer: the model's.
        eos: ids that end a text.
        vocab_size: of the model.
    """

    def __init__(self, tokenizer: Tokenizer, eos: Collection[int], vocab_size: int) -> None:
        self._tokenizer, self.eos, self.vocab_size = tokenizer, sorted(eos), vocab_size
        self._prepared: llguidance.LLTokenizer | None = None

    def grammar(
        self,
        *,
        json_schema: Mapping[str, Any] | bool | str | None = None,
        regex: str | None = None,
        choice: Sequence[str] | None = None,
        forces: bool = True,
    ) -> Grammar:
        """A grammar for one generation.

        Args:
            json_schema: a JSON schema, parsed or not.
            regex: a regular expression for the whole text, in the syntax of Rust's regex crate.
            choice: strings of which the text is one.
            forces: see `Grammar`.

        Raises:
            OptionError: not just one of them; invalid; or with a part that is not supported.
            DependencyError: llguidance is not installed.
        """
        matcher = self.matcher({"json_schema": json_schema, "regex": regex, "choice": choice})
        return Grammar(lambda: matcher, self.eos, forces=forces)

    def answers(self, matcher: Callable[[], llguidance.LLMatcher], hint: str) -> Grammar:
        """A grammar for one answer, of what a matcher will be made of; nothing is forced, so that ids stay what they are."""
        return Grammar(matcher, self.eos, forces=False, tries=True, hint=hint)

    def matcher(self, given: Mapping[str, Any]) -> llguidance.LLMatcher:
        """What follows a text of the one grammar that is not None in `given`; raises as `grammar` does."""
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            raise OptionError(f"{' and '.join(names)} exclude each other: a text has one grammar")
        try:
            import llguidance
        except ImportError:
            raise DependencyError(
                f"{names[0]} needs {PACKAGE}", hint=f"install it with: pip install '{EXTRA}'"
            ) from None

        grammar = _grammar(llguidance.LLMatcher, **{name: given.get(name) for name in KINDS})
        prepared = self.tokens(names[0])
        try:
            with guarded():
                matcher = llguidance.LLMatcher(prepared, grammar, log_level=0)
                problems = [matcher.get_error()] if matcher.is_error() else matcher.get_grammar_warnings()
        except ValueError as error:
            raise OptionError(f"{names[0]} cannot be used: {error}") from None
        if problems:
            raise OptionError(f"{names[0]} cannot be used: {_line(problems[0])}")
        return matcher

    def tokens(self, name: str) -> llguidance.LLTokenizer:
        """The tokenizer as llguidance knows it, for the grammar that is called so."""
        if self._prepared is None:
            from llguidance import LLTokenizer

            # Ids that the tokenizer knows and the model does not are cut from the mask; no text ends with the reverse.
            known = self._tokenizer.vocab_size
            eos = [token for token in self.eos if token < known]
            try:
                self._prepared = LLTokenizer(
                    self._tokenizer.to_json(), n_vocab=max(self.vocab_size, known), eos_token=eos or None
                )
            except ValueError as error:
                raise EdgeLMError(
                    f"{name} cannot be used with this tokenizer: {_line(str(error))}",
                    hint="generate without it, or export a model with a tokenizer that says how a text ends",
                ) from None
        return self._prepared


def _grammar(matcher: type[llguidance.LLMatcher], json_schema: object, regex: object, choice: object) -> str:
    """Llguidance's grammar of the one that is given; OptionError where there is none."""
    if regex is not None and not isinstance(regex, str):
        raise OptionError(f"regex must be a str, not {type(regex).__name__}")
    try:
        with guarded():
            if json_schema is not None:
                return matcher.grammar_from_json_schema(_schema(json_schema), _JSON)  # type: ignore[arg-type]
            if regex is not None:
                return matcher.grammar_from_regex(regex)
            return matcher.grammar_from_lark(_alternatives(choice))
    except ValueError as error:
        raise OptionError(str(error)) from None


def _schema(schema: object) -> str:
    """The schema as JSON."""
    if isinstance(schema, str):
        try:
            schema = json_value(schema)
        except ValueError as error:
            raise OptionError(f"json_schema is not valid JSON: {error}") from None
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}  # what true and false stand for
    if not isinstance(schema, Mapping):
        raise OptionError(f"json_schema must be a JSON schema, an object, not {type(schema).__name__}")
    for path, word in _words(schema, ""):
        if near := _misspelt(word):
            raise OptionError(f"json_schema: unknown word {word!r} at {path or '/'}", hint=f"did you mean {near}?")
    try:
        json.dumps(schema, ensure_ascii=False).encode()  # no lone surrogates
        return json.dumps(_known_formats(schema), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(f"json_schema is not valid JSON: {error}") from None


def _misspelt(word: str) -> str | None:
    """The constraint that a word was meant to be. Another unknown word says nothing, by the standard."""
    if word in _CONSTRAINING or word in _HARMLESS or word.startswith("x-") or not _LIKE_A_WORD.fullmatch(word):
        return None
    known = {each.lower(): each for each in _CONSTRAINING if each.startswith("$") == word.startswith("$")}
    near = get_close_matches(word.replace("_", "").replace("-", "").lower(), known, n=1, cutoff=0.82)
    return known[near[0]] if near else None


def _inner(schema: Mapping[str, Any]) -> Iterator[tuple[str, str | int | None, Any]]:
    """(Word, name or place below it, schema) of each schema in a schema."""
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, Mapping):
            yield from ((key, name, inner) for name, inner in value.items())
        elif (key in _LISTS and isinstance(value, Sequence) and not isinstance(value, str)) or (
            key == "items" and isinstance(value, list)
        ):
            yield from ((key, index, inner) for index, inner in enumerate(value))
        elif key in _ONES:
            yield key, None, value


def _words(schema: object, path: str) -> Iterator[tuple[str, str]]:
    """Where in a schema there is a word, and the word."""
    if not isinstance(schema, Mapping):
        return
    for key in schema:
        if isinstance(key, str):
            yield path, key
    for key, below, inner in _inner(schema):
        yield from _words(inner, f"{path}/{key}" if below is None else f"{path}/{key}/{below}")


def _known_formats(schema: Any) -> Any:
    """The schema without formats that the standard does not know."""
    if not isinstance(schema, Mapping):
        return schema
    copy: dict[str, Any] = {
        key: value
        for key, value in schema.items()
        if key != "format" or not isinstance(value, str) or value in _FORMATS
    }
    for key, below, inner in _inner(schema):
        if below is None:
            copy[key] = _known_formats(inner)
        else:
            if copy[key] is schema[key]:
                copy[key] = dict(schema[key]) if isinstance(schema[key], Mapping) else list(schema[key])
            copy[key][below] = _known_formats(inner)
    return copy


def _alternatives(choice: object) -> str:
    """A grammar in Lark's syntax, whose strings are JSON's."""
    strings = isinstance(choice, Sequence) and not isinstance(choice, str | bytes)
    if not strings or not choice or not all(isinstance(text, str) and text for text in choice):  # type: ignore[attr-defined]
        raise OptionError(f"choice must be one or more strings, none of them empty, not {shown(choice)}")
    return "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in choice)  # type: ignore[attr-defined]


def _line(message: str) -> str:
    """What a message of several lines says: after a picture of the place there is a line with the error itself."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (told or lines or ["unknown"])[0]
