"""A minute of 32 clients, some of whom leave: nothing lost, none mixed up, memory flat.

``EDGELM_LONG_RUN=600 python -m pytest -m slow tests/serve/test_long_run.py`` goes on for ten.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from edgelm.bundle.reader import Bundle
from edgelm.runtime.lm import load

ROOMS = ["kitchen", "bathroom", "hall", "bedroom", "attic", "cellar", "garden", "office", "garage", "nursery"]
WORDS = ["turn on the lamp in the {}", "dim the {} lamp to 30 percent", "is the {} window open", "lock the {} door"]
PROMPTS = [words.format(room) for words in WORDS for room in ROOMS]


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_32_clients_for_a_minute(home_bundle: Bundle) -> None:
    seconds = float(os.environ.get("EDGELM_LONG_RUN", "60"))
    with load(home_bundle.path, threads=1, weight_cache=False) as lm:
        messages = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
        alone = [lm.generate(each, max_tokens=32).text for each in messages]
    command = [
        sys.executable,
        "-m",
        "edgelm",
        "serve",
        str(home_bundle.path),
        "--port",
        "0",
        "-t",
        "1",
        "--no-prompt-cache",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = next(line for line in process.stderr if line.startswith("note: serving")).split(" on ")[1].split(",")[0]
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        try:
            _run(url.strip(), alone, seconds, process.pid)
        finally:
            process.terminate()
        assert process.wait(60) == 0


def _run(url: str, alone: list[str], seconds: float, pid: int) -> None:
    end, counts, wrong, memory = time.monotonic() + seconds, [0, 0], list[str](), list[int]()
    lock = threading.Lock()

    def client(seed: int) -> None:
        chance = random.Random(seed)
        with httpx.Client(timeout=120, trust_env=False) as http:
            while time.monotonic() < end:
                index = chance.randrange(len(PROMPTS))
                body = {"messages": [{"role": "user", "content": PROMPTS[index]}], "max_tokens": 32, "stream": True}
                leaves = chance.randrange(6) if chance.random() < 0.2 else None
                found = _text(http, url, body, leaves)
                with lock:
                    counts[leaves is not None] += 1
                    if leaves is None and found != alone[index]:
                        wrong.append(f"{PROMPTS[index]!r}: {found!r}, not {alone[index]!r}")

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(32)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        time.sleep(min(5, seconds / 20))
        memory.append(resident(pid))
    for thread in threads:
        thread.join(180)
        assert not thread.is_alive()
    half, rest = memory[len(memory) // 4 : len(memory) // 2], memory[len(memory) // 2 :]
    print(
        f"{counts[0]} texts, {counts[1]} left, {len(wrong)} differ, {max(half) / 1e6:.0f} then {max(rest) / 1e6:.0f} MB"
    )
    # Near ties may fall otherwise where several texts are computed in one pass.
    assert len(wrong) <= counts[0] // 200, wrong[:5]
    assert max(rest) < max(half) * 1.05 + 5e6
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    assert 'edgelm_running{model="home"} 0' in text
    assert 'edgelm_waiting{model="home"} 0' in text


def _text(http: httpx.Client, url: str, body: dict[str, object], leaves: int | None) -> str:
    """The text of an answer; the client leaves after so many lines, where it is to."""
    text = ""
    with http.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        for number, line in enumerate(answer.iter_lines()):
            if leaves is not None and number >= leaves:
                return text
            if line.startswith("data: {"):
                choices = json.loads(line.removeprefix("data: "))["choices"]
                text += choices[0]["delta"].get("content") or ""
    return text
