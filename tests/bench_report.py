"""A report as edgelm bench makes it."""

from __future__ import annotations

from typing import Any

REPORT: dict[str, Any] = {
    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "target": "rpi5",
    "quant": "int4",
    "cpu": "Raspberry Pi 5 Model B Rev 1.0",
    "arch": "aarch64",
    "cores": 4,
    "emulated": False,
    "bundle_sha256": "ab" * 32,
    "adapter": None,
    "threads": 3,
    "prefill_threads": 4,
    "provider": "CPU",
    "onnxruntime": "1.32.0",
    "edgelm": "0.1.0",
    "python": "3.11.2",
    "packed": True,
    "load_seconds": 0.5,
    "memory": {"peak": 200_000_000, "anonymous": 50_000_000},
    "sensors": {
        "power_source": "PMIC: rails",
        "idle_watts": 2.05,
        "temperature_celsius": {"start": 50.0, "end": 61.5, "max": 62.0},
        "throttled_share": 0.0,
    },
    "results": [
        {
            "test": "pp512",
            "n_prompt": 512,
            "n_gen": 0,
            "n_depth": 0,
            "repetitions": 5,
            "avg_ts": 200.0,
            "stddev_ts": 2.0,
            "unreliable": False,
            "ttft_seconds": 2.6,
            "joules_per_token": 0.02,
        },
        {"test": "tg128", "n_prompt": 0, "n_gen": 128, "n_depth": 0, "repetitions": 5, "avg_ts": 50, "stddev_ts": 0.5},
    ],
}
