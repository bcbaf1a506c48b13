"""Commands that tell how keys and values are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from command_line import Ended

from edgelm.bundle.reader import Bundle


def test_an_int8_cache_is_told_everywhere(
    edgelm: Callable[..., Ended], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint, bundle = tiny_checkpoint(), tmp_path / "b"
    code, out, _ = edgelm("export", checkpoint, "--target", "rpi5", "--kv", "int8", "-o", bundle)
    assert code == 0
    assert "8-bit integers, scales per channel, found on builtin" in out
    assert "8-bit integers, scales per channel, found on builtin" in edgelm("inspect", bundle).out
    needs = [
        json.loads(edgelm("inspect", checkpoint, "--json", *more).out)["needs"]["quants"]["int4"]["memory"]
        for more in ((), ("--kv", "int8"))
    ]
    assert needs[1]["kv_bytes"] * 4 == needs[0]["kv_bytes"]
    told = json.loads(edgelm("estimate", checkpoint, "--target", "rpi5", "--kv", "int8", "--json").out)
    assert told["memory"]["kv_bytes_per_token"] == Bundle.open(bundle).manifest.memory.kv_bytes_per_token


def test_a_bundle_has_its_own(edgelm: Callable[..., Ended], tiny_bundle: Bundle) -> None:
    code, _, err = edgelm("estimate", tiny_bundle.path, "--kv", "int8")
    assert code == 1
    assert "--kv is for a MODEL" in err
