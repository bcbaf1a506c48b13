"""What `make demo` shows: a model exported for a Raspberry Pi 5, asked something, and timed on this computer."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BUNDLE = Path("bundles/edgelm-home-rpi5-int4")
QUESTION = "dim the bedroom lamp to 30 percent and lock the front door"


def main() -> int:
    say("edgelm puts small language models on small computers. Nothing of what follows leaves this one.")
    say("\n1. Export. The model that comes with edgelm understands commands to a home; it is stored in 4 bits,")
    say("   as suits a Raspberry Pi 5. Such a folder is all that the device needs.")
    bundle = edgelm("export", "--target", "rpi5", "--card", "none", "--overwrite", "-o", str(BUNDLE), "--json")
    parameters = bundle["manifest"]["model"]["parameters"]
    say(f"   {BUNDLE}: {parameters / 1e6:.1f} million parameters in {bundle['bytes'] / 1e6:.1f} MB")
    say("\n2. Ask. It answers with JSON that a program can act on.")
    answer = edgelm("run", str(BUNDLE), "-p", QUESTION, "--json")
    say(f"   {answer['text']}")
    say("\n3. How fast that is on this computer. A token is a piece of a word, about four letters.")
    speed = edgelm("bench", str(BUNDLE), "-r", "2", "-o", "json")
    for line in figures(speed):
        say(f"   {line}")
    if any(row["unreliable"] for row in speed["results"]):
        say("   (these vary: something else runs on this computer, too)")
    say(f"\nNext: edgelm chat {BUNDLE}, or a model of your own: README.md")
    say("      (. .venv/bin/activate first, so that the shell finds edgelm)")
    return 0


def say(text: str) -> None:
    print(text, flush=True)


def edgelm(*arguments: str) -> Any:
    """Show a command as one would type it, run it, and return its JSON; SystemExit where it fails."""
    hidden = ("-o", "--card", "--json", "--overwrite")  # for this program alone, and behind all others
    shown = list(itertools.takewhile(lambda word: word not in hidden, arguments))
    say("   $ edgelm " + " ".join(f'"{word}"' if " " in word else word for word in shown))
    done = subprocess.run([sys.executable, "-m", "edgelm", *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


def figures(report: Any) -> list[str]:
    """The lines of a benchmark in words."""
    speeds = {row["test"]: row["avg_ts"] for row in report["results"]}
    return [
        f"reads a prompt at {speeds['pp512']:,.0f} tokens a second",
        f"writes an answer at {speeds['tg128']:,.0f} tokens a second",
        f"takes {report['memory']['peak'] / 1e6:,.0f} MB of memory, Python included",
    ]


if __name__ == "__main__":
    sys.exit(main())
