"""What is wrong with an answer: one that acts in a wrong place does more harm than one that refuses."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from .other import REFUSAL
from .schema import actions_of

VERDICTS = ("right", "wrong place", "acted", "refused", "no answer", "other")
_STATE = re.compile(r"(The|No|All) [^{}\n]+\.")


def verdict(expected: str, answer: str) -> str:
    """One of VERDICTS.

    ``wrong place``: an action in a room, or in none, where none of the expected actions is. ``acted``: an action where
    there should be none. ``refused``: the refusal where there is an answer. ``no answer``: neither actions of the schema
    nor a sentence about the state nor the refusal. ``other``: a wrong value, device or state.
    """
    if answer == expected:
        return "right"
    actions = actions_of(answer)
    if actions is None:
        if answer == REFUSAL:
            return "refused"
        return "other" if _STATE.fullmatch(answer) else "no answer"
    wanted = actions_of(expected)
    if wanted is None:
        return "acted"
    places = {a.get("room") for a in wanted}
    return "other" if {a.get("room") for a in actions} <= places else "wrong place"


def count(results: Iterable[tuple[Iterable[str], str, str]]) -> dict[str, Counter[str]]:
    """(groups, expected, answer) of each item → group → how often each verdict; "all" is over all."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for groups, expected, answer in results:
        name = verdict(expected, answer)
        for group in ("all", *groups):
            found[group][name] += 1
    return dict(found)


def table(columns: dict[str, dict[str, Counter[str]]], groups: Iterable[str]) -> list[str]:
    """Markdown: a row for each group, a column of percent right for each model, then what the last one did wrong."""
    lines = [f"| | {' | '.join(columns)} | wrong place | acted | refused | no answer | of |"]
    lines.append("|---|" + "---:|" * (len(columns) + 5))
    last = list(columns.values())[-1]
    for group in groups:
        cells = [f"{100 * c[group]['right'] / c[group].total():.1f}" for c in columns.values()]
        cells += [str(last[group][name]) for name in VERDICTS[1:5]]
        lines.append(f"| {group} | {' | '.join(cells)} | {last[group].total()} |")
    return lines
