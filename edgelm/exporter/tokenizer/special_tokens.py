"""Which ids begin, end and fill a text: generation_config.json, config.json, its part on text, and the tokenizer say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from edgelm.bundle.manifest import SpecialTokens
from edgelm.exporter.checkpoint.config import Config


def vocabulary_size(config: Config) -> int | None:
    """Number of embeddings, where config.json says it."""
    sizes = [table.get("vocab_size") for table in _tables(config)]
    return next((size for size in sizes if isinstance(size, int) and not isinstance(size, bool)), None)


def special_tokens(
    config: Config, generation: Mapping[str, Any], names: Mapping[str, str], tokenizer: Tokenizer
) -> tuple[SpecialTokens, list[str]]:
    """The ids, and what should be told of them.

    The first file that names an id counts, and the tokenizer's own name where none does. A text ends with each of the ids
    that the first file names, with the tokenizer's EOS, and with what other files name where the tokenizer has it as a
    special token: end-of-turn tokens stand in one file and not in another, while config.json's EOS may also be a class's
    default that means another token here.
    """
    size = vocabulary_size(config)
    special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    remarks: list[str] = []

    def ids(key: str) -> list[list[int]]:
        """Those of each file that names any."""
        found = []
        for table in (generation, *(table.values for table in _tables(config))):
            value = table.get(key)
            values = value if isinstance(value, list) else [value]
            known = [v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0]
            if size is not None and (beyond := [v for v in known if v >= size]):
                remarks.append(f"{key} {beyond[0]} is passed over: the model has {size:,} tokens")
                known = [v for v in known if v < size]
            found.append(known)
        return [known for known in found if known]

    def named(key: str) -> list[int]:
        found = tokenizer.token_to_id(names[key]) if key in names else None
        return [found] if found is not None and (size is None or found < size) else []

    def first(key: str) -> int | None:
        return next((i for known in (*ids(f"{key}_token_id"), named(f"{key}_token")) for i in known), None)

    files = ids("eos_token_id")
    others = [i for known in files[1:] for i in known if i in special]
    eos = list(dict.fromkeys([*(files[0] if files else []), *named("eos_token"), *others]))
    if not eos:
        remarks.append("no file says how a text ends: every answer goes on to --max-tokens or a stop string")
    return SpecialTokens(first("bos"), tuple(eos), first("pad")), list(dict.fromkeys(remarks))


def _tables(config: Config) -> list[Config]:
    """config.json, and its part on the text model where there is one."""
    inner = config.values.get("text_config")
    return [config, *([Config(inner, config.path)] if isinstance(inner, dict) else [])]
