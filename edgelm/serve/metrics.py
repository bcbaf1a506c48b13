"""What a server did so far, as Prometheus reads it."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from edgelm.runtime.loop.results import Timings
from edgelm.serve.pool import Served
from edgelm.version import __version__

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # seconds


class Metrics:
    """Counts; called from the event loop alone.

    Args:
        models: of the server.
        temperature: gives the machine's, in °C, or None.

    Attributes:
        paths: those of the server's routes; requests for others are counted together.
    """

    def __init__(self, models: Iterable[Served], temperature: Callable[[], float | None]) -> None:
        self._models, self._temperature = list(models), temperature
        self.paths: frozenset[str] = frozenset()
        self._started = time.time()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._ended: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._seconds = {"prefill": 0.0, "decode": 0.0}
        self._ttft = [0] * (len(_BUCKETS) + 1)
        self._ttft_sum = 0.0

    def answered(self, path: str, status: int) -> None:
        """A request was answered."""
        self._requests[path if path in self.paths else "other", status] += 1

    def first_token(self, seconds: float) -> None:
        """The first token of a text came so long after the request."""
        self._ttft[bisect_left(_BUCKETS, seconds)] += 1
        self._ttft_sum += seconds

    def ended(self, reason: str, timings: Timings) -> None:
        """A text ended."""
        self._ended[reason] += 1
        self._tokens["prompt"] += timings.prompt_tokens
        self._tokens["cached"] += timings.cached_tokens
        self._tokens["completion"] += timings.completion_tokens
        self._seconds["prefill"] += timings.prefill_seconds
        self._seconds["decode"] += timings.decode_seconds
        self._tokens["decoded"] += max(0, timings.completion_tokens - 1)

    def text(self) -> str:
        """All of it, in Prometheus' text format."""
        return "\n".join([*self._server(), *self._texts(), *self._of_models()]) + "\n"

    def _server(self) -> Iterator[str]:
        yield from _metric("edgelm_info", "gauge", "This edgelm.", [(f'version="{__version__}"', 1)])
        yield from _metric("edgelm_start_time_seconds", "gauge", "When it started.", [("", round(self._started, 3))])
        counts = [(f'path="{path}",status="{status}"', n) for (path, status), n in sorted(self._requests.items())]
        yield from _metric("edgelm_requests_total", "counter", "Answers by path and status.", counts)
        if (resident := resident_bytes()) is not None:
            yield from _metric("edgelm_resident_memory_bytes", "gauge", "Of the process.", [("", resident)])
        if (degrees := self._temperature()) is not None:
            yield from _metric("edgelm_temperature_celsius", "gauge", "Of the machine.", [("", degrees)])

    def _texts(self) -> Iterator[str]:
        ended = [(f'reason="{reason}"', n) for reason, n in sorted(self._ended.items())]
        yield from _metric("edgelm_texts_total", "counter", "Texts that ended, by reason.", ended)
        for kind, what in (
            ("prompt", "of prompts"),
            ("cached", "of prompts that were in the KV cache"),
            ("completion", "generated"),
        ):
            yield from _metric(f"edgelm_{kind}_tokens_total", "counter", f"Tokens {what}.", [("", self._tokens[kind])])
        for kind in ("prefill", "decode"):
            total = round(self._seconds[kind], 6)
            yield from _metric(f"edgelm_{kind}_seconds_total", "counter", f"Time in {kind}.", [("", total)])
        computed = self._tokens["prompt"] - self._tokens["cached"]
        for kind, tokens in (("prefill", computed), ("decode", self._tokens["decoded"])):
            speed = tokens / self._seconds[kind] if self._seconds[kind] else 0.0
            name = f"edgelm_{kind}_tokens_per_second"
            yield from _metric(name, "gauge", f"Mean speed of {kind} since the start.", [("", round(speed, 3))])
        yield from self._histogram()

    def _histogram(self) -> Iterator[str]:
        yield "# HELP edgelm_time_to_first_token_seconds From a request's arrival to its first token."
        yield "# TYPE edgelm_time_to_first_token_seconds histogram"
        total = 0
        for bound, count in zip((*_BUCKETS, "+Inf"), self._ttft, strict=True):
            total += count
            yield f'edgelm_time_to_first_token_seconds_bucket{{le="{bound}"}} {total}'
        yield f"edgelm_time_to_first_token_seconds_sum {self._ttft_sum:.6f}"
        yield f"edgelm_time_to_first_token_seconds_count {total}"

    def _of_models(self) -> Iterator[str]:
        labels = {model.name: f'model="{_escaped(model.name)}"' for model in self._models}
        loaded = [(labels[model.name], int(model.lm is not None)) for model in self._models]
        yield from _metric("edgelm_model_loaded", "gauge", "Whether the model is in memory.", loaded)
        stats = {labels[m.name]: m.lm.scheduler_stats() if m.lm is not None else None for m in self._models}
        for name, what in (
            ("running", "Texts that are being computed."),
            ("waiting", "Requests that wait for a place."),
            ("kv_bytes", "Keys and values in memory, those of earlier prompts included."),
        ):
            values = [(label, 0 if found is None else getattr(found, name)) for label, found in stats.items()]
            yield from _metric(f"edgelm_{name}", "gauge", what, values)
        for name, what in (  # what was computed, for whoever left as well
            ("cancelled", "Texts whose client left, or that were cut off."),
            ("decode_passes", "Passes that computed the next token of each text under way."),
            ("decode_tokens", "Tokens computed by those."),
            ("prefill_tokens", "Tokens of prompts that were read."),
            ("prefix_tokens_reused", "Tokens of prompts that another text had at its start."),
        ):
            values = [(label, 0 if found is None else getattr(found, name)) for label, found in stats.items()]
            yield from _metric(f"edgelm_model_{name}_total", "counter", what, values)


def resident_bytes(path: Path = Path("/proc/self/statm")) -> int | None:
    """What this process has in memory; None where that is not known."""
    try:
        return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _metric(name: str, kind: str, what: str, samples: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP {name} {what}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
