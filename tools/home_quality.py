"""How good a home model is, through the runtime: every set of edgelm/demo, by kind, and what it does wrong.

python tools/home_quality.py BUNDLE...             # edgelm-home's bundles: fp32, int8, int4
python tools/home_quality.py BUNDLE --schema 5000  # answers of so many requests that are not of the schema
python tools/home_quality.py BUNDLE --free         # as without edgelm[structured]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from demo_data.conversations import training
from demo_data.verdict import count, table, verdict

from edgelm import demo
from edgelm.evaluate.task import read_task, run_task
from edgelm.runtime.lm import LM, load

SETS = ("heldout", "stranger", "speakers", "kinds", "visitors", "guests", "talk")


def answers(lm: LM, path: Path, show: int, grammar: bool) -> list[tuple[list[str], str, str]]:
    """(groups, expected, answer) of every item of a file; `show` wrong ones are printed."""
    outcomes = run_task(lm, read_task(path), answer_grammar=grammar).outcomes
    for outcome in [o for o in outcomes if not o.correct][:show]:
        kind = verdict(outcome.expected, outcome.answered)
        print(f"{kind}: {outcome.asked}\n   want {outcome.expected}\n   got  {outcome.answered}", flush=True)
    return [(sorted(o.groups.values()), o.expected, o.answered.strip()) for o in outcomes]


def off_schema(lm: LM, size: int, grammar: bool) -> list[str]:
    """What is no answer at all, to `size` requests drawn from the generator with a seed that training never has."""
    rng, wrong = random.Random("schema"), []
    for _ in range(size):
        made = training(rng)
        got = lm.generate(made.messages, max_tokens=200, temperature=0, answer_grammar=grammar).text.strip()
        if verdict(made.answer, got) == "no answer":
            wrong.append(f"{made.messages[-1]['content']} -> {got}")
    return wrong


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N wrong answers of each set")
    parser.add_argument("--schema", type=int, default=0, metavar="N", help="count answers that are of no form, of N")
    parser.add_argument("--free", action="store_true", help="hold answers to no grammar")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all counts there")
    args = parser.parse_args()
    columns: dict[str, dict[str, dict[str, Counter[str]]]] = {name: {} for name in args.sets}
    strange: dict[str, Any] = {}
    for bundle in args.bundles:
        with load(bundle) as lm:
            for name in args.sets:
                columns[name][bundle.name] = count(answers(lm, getattr(demo, name)(), args.show, not args.free))
            if args.schema:
                strange[bundle.name] = off_schema(lm, args.schema, not args.free)
                print(f"{bundle.name}: {len(strange[bundle.name])} of {args.schema} answers of no form", flush=True)
    for name, found in columns.items():
        print(f"\n{name}", *table(found, next(iter(found.values()))), sep="\n", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"sets": columns, "no form": strange}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
