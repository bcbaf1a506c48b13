"""Any options and any stop strings: no crash, no partial stop string, no broken character; and no growth of memory."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from fake_engine import FakeEngine, logits_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lm import TOKENIZER, make_lm
from test_speculation import Free

import edgelm
from edgelm.bundle.reader import Bundle

TEXT = TOKENIZER.encode("añ😀b", special=False)  # bytes that often make characters, and often do not


def texts(ids: Any) -> Any:
    """Logits that mostly say the bytes of a few characters, one and many bytes long."""
    row = logits_of(ids[-3:])
    row[TEXT] += 6
    return row


options = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(1, 60),
        "temperature": st.sampled_from([0.0, 1e-9, 0.5, 1.0, 50.0]),
        "top_k": st.integers(0, 300),
        "top_p": st.floats(1e-9, 1),
        "min_p": st.floats(0, 1),
        "repetition_penalty": st.floats(0.1, 10),
        "frequency_penalty": st.floats(-50, 50),
        "presence_penalty": st.floats(-50, 50),
        "logit_bias": st.dictionaries(st.integers(0, 250), st.floats(-100, 10) | st.just(float("-inf")), max_size=3),
        "seed": st.none() | st.integers(0, 2**70),
        "stop": st.lists(st.text("añ😀b�", min_size=1, max_size=4), max_size=3),
        "speculate": st.sampled_from(["auto", "off"]),
        "top_logprobs": st.none() | st.integers(0, 5),
    }
)


@given(prompt=st.text("añ😀b", max_size=8), options=options)
@settings(max_examples=150, deadline=None)
def test_the_text_is_the_tokens_up_to_the_first_stop_string(prompt: str, options: dict[str, Any]) -> None:
    lm = make_lm(FakeEngine(context=80, logits=texts))
    lm._scheduler.cost = Free()
    chunks = list(lm.stream(prompt, **options))
    tokens = [token for chunk in chunks for token in chunk.tokens]
    text, whole = "".join(chunk.text for chunk in chunks), TOKENIZER.decode(tokens)
    ends = [whole.find(stop) + len(stop) for stop in options["stop"] if stop in whole]
    if ends:
        longest = max(len(stop) for stop in options["stop"] if whole[: min(ends)].endswith(stop))
        assert chunks[-1].finish_reason == "stop"
        assert text == whole[: min(ends) - longest]
    else:
        assert text == whole
    shown = ""
    for chunk in chunks[:-1]:  # what was shown was never taken back, nor a character cut in two
        shown += chunk.text
        assert whole.startswith(shown)
    assert len(tokens) <= options["max_tokens"]


def test_memory_does_not_grow(tiny_bundle: Bundle) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "soak.py"
    spec = importlib.util.spec_from_file_location("soak", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module
    spec.loader.exec_module(module)
    with edgelm.load(tiny_bundle.path, threads=1) as lm:
        result = module.soak(lm, 80, seed=1)
    assert result["sound"]
    assert result["grown_mb"] < module.LIMIT_MB
    assert sum(result["endings"].values()) == 80
    assert len(result["endings"]) >= 3
