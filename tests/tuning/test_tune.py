"""`edgelm.tune` with a real bundle, and its command."""

from __future__ import annotations

import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgelm
from edgelm.bundle.reader import Bundle
from edgelm.cli import main
from edgelm.errors import DeviceError, OptionError, ProfileError
from edgelm.machine.host import read_cpu
from edgelm.profile.settings import Settings
from edgelm.profile.store import Profiles, profile_for
from edgelm.tuning import candidates
from edgelm.tuning.advice import advice
from edgelm.tuning.rig import Rig, Turn
from edgelm.tuning.search import Hooks

FROZEN = Path(__file__).parents[1] / "frozen" / "format1"


@pytest.fixture
def bundle() -> Bundle:
    return Bundle.open(FROZEN)


def test_a_profile_is_made_and_taken(quick: Path, bundle: Bundle) -> None:
    found = edgelm.tune(FROZEN)
    assert found.path is not None
    assert found.path.parent == quick
    assert profile_for(bundle.manifest) == found.profile
    assert set(found.profile.gains) == {"decode", "prefill"}
    assert {(each.phase, each.stage) for each in found.tried} >= {
        ("decode", "threads"),
        ("decode", "spinning"),
        ("prefill", "threads"),
        ("prefill", "passes"),
    }
    assert all(reading.rate > 0 for each in found.tried for reading in each.readings)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["profile"]["goal"] == "speed"
    with edgelm.load(FROZEN) as lm:
        assert lm.engine.model.threads == found.profile.settings.threads


def test_without_saving_nothing_is_written(quick: Path) -> None:
    assert edgelm.tune(FROZEN, save=False, seconds=10).path is None
    assert not quick.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"goal": "fun"}, "goal must be one of"),
        ({"goal": 5}, "goal must be one of"),
        ({"seconds": 1}, "seconds must be from"),
        ({"seconds": "5m"}, "seconds must be from"),
        ({"seconds": float("nan")}, "seconds must be from"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        edgelm.tune(FROZEN, **options)
    with pytest.raises(TypeError, match="path must be a path"):
        edgelm.tune(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="did you mean goal"):
        edgelm.tune(FROZEN, gaol="speed")  # type: ignore[call-arg]


def test_no_profiles_are_kept_is_told_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELM_PROFILES", "off")
    with pytest.raises(ProfileError, match="no profiles are kept"):
        edgelm.tune(FROZEN)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGELM_PROFILES", str(tmp_path / "file" / "below"))
    with pytest.raises(ProfileError, match="profiles cannot be written to"):
        edgelm.tune(FROZEN)


def test_energy_wants_a_sensor(quick: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgelm.tuning import tune as module

    meters = module.Meters
    monkeypatch.setattr(module, "Meters", lambda command, idle_seconds: meters(command, 0.0, tmp_path))
    with pytest.raises(DeviceError, match="needs watts"):
        edgelm.tune(FROZEN, "energy")
    assert list(quick.iterdir()) == []


def test_energy_by_a_meter_of_the_users(quick: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgelm.machine.sensors import sampler
    from edgelm.tuning import search
    from edgelm.tuning import tune as module

    meters = module.Meters
    monkeypatch.setattr(module, "Meters", lambda command, idle_seconds: meters(command, 0.2, tmp_path))
    monkeypatch.setattr(
        sampler.Sampler.__init__, "__kwdefaults__", sampler.Sampler.__init__.__kwdefaults__ | {"interval": 0.01}
    )
    monkeypatch.setitem(search.BUDGETS, "energy", replace(search.BUDGETS["energy"], turn=0.1))
    program, busy = tmp_path / "meter.py", tmp_path / "busy"
    program.write_text(
        "import os, sys, time\nwhile True:\n"
        "    print(5.0 if os.path.exists(sys.argv[1]) else 1.0, flush=True)\n    time.sleep(0.01)\n"
    )

    def start(stage: str, turns: int) -> None:
        if not busy.exists():
            busy.touch()
            time.sleep(0.5)  # until it is read

    meter = shlex.join([sys.executable, str(program), str(busy)])
    found = edgelm.tune(FROZEN, "energy", power_meter=meter, hooks=Hooks(start))
    gain = found.profile.gains["decode"]
    assert gain.joules is not None
    assert gain.joules == pytest.approx(4.0 / gain.rate, rel=0.5)  # 5 W, of which about 1 W is that of idling


def test_sustained_takes_long_turns(quick: Path) -> None:
    found = edgelm.tune(FROZEN, "sustained")
    assert found.profile.id.startswith("sustained-")
    assert any("temperature" in note for note in found.notes) or any(t.celsius is not None for t in found.tried)


def test_the_rig_measures_what_it_is_told_to(bundle: Bundle) -> None:
    default = candidates.default_settings(bundle.manifest, read_cpu())
    with Rig(bundle, default, weight_cache=False) as rig:
        assert 8 <= rig.prompt <= bundle.context - 1
        for settings in (default, Settings(1, 2, spinning=False, prefill_chunk=16), Settings(1, 1, cpus=(0,))):
            assert rig.possible(settings)
            assert rig.turn("decode", settings, Turn(0.0)).rate > 0
            assert rig.turn("prefill", settings, Turn(0.01, skip=0.5)).rate > 0
        assert rig.most > 3
        rig.most = 1  # as where memory is short: each is loaded when its turn comes
        for threads in (3, 4, 3):
            assert rig.turn("decode", replace(default, threads=threads), Turn(0.0)).rate > 0
            assert len(rig._engines) == 1


def command(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(arg) for arg in args])
    return code, *capsys.readouterr()


def test_the_command(quick: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle: Bundle) -> None:
    code, out, err = command(capsys, "tune", FROZEN, "-o", tmp_path / "mine.json")
    assert code == 0, err
    profile = profile_for(bundle.manifest)
    assert profile is not None
    assert out.splitlines()[0].split()[:3] == ["stage", "settings", "t/s"]
    assert f"profile {profile.id}, tuned for speed in " in out
    assert "decode: " in out
    assert json.loads((tmp_path / "mine.json").read_text())["id"] == profile.id
    assert "note: decode, threads: " in err
    code, out, _ = command(capsys, "tune", FROZEN, "--show")
    assert (code, profile.id in out) == (0, True)
    code, out, _ = command(capsys, "tune", "--show", "--json")
    (told,) = json.loads(out)
    assert (told["id"], Path(told["path"]).parent) == (profile.id, quick)
    code, out, _ = command(capsys, "bench", FROZEN, "-p", 4, "-n", 2, "-r", 1, "--no-sensors", "-o", "json")
    assert json.loads(out)["profile"] == profile.id
    code, out, _ = command(
        capsys, "bench", FROZEN, "-p", 4, "-n", 2, "-r", 1, "--no-sensors", "-o", "json", "--no-profile"
    )
    assert json.loads(out)["profile"] is None
    code, out, _ = command(capsys, "run", FROZEN, "-p", "lamp", "-n", 2)
    assert code == 0
    code, out, _ = command(capsys, "tune", FROZEN, "--forget")
    assert (code, out) == (0, f"removed {Profiles(quick).path(profile.machine, profile.shape)}\n")
    code, _, err = command(capsys, "tune", FROZEN, "--forget")
    assert (code, err.splitlines()[0]) == (1, "error: this machine has no profile for it")
    code, _, err = command(capsys, "tune", FROZEN, "--show")
    assert (code, err.splitlines()[0]) == (1, "error: this machine has no profile for it")
    assert command(capsys, "tune", "--show")[1] == "no profiles: edgelm tune BUNDLE makes one\n"


def test_the_command_for_programs(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "tune", FROZEN, "--json", "--time", "1m")
    told = json.loads(out)
    assert code == 0
    assert told["profile"]["settings"]["threads"] >= 1
    assert {"phase", "stage", "rates", "against_best"} <= set(told["tried"][0])


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["tune"], 2, "tune wants a BUNDLE"),
        (["tune", "--forget"], 2, "tune wants a BUNDLE"),
        (["tune", FROZEN, "--show", "--forget"], 2, "exclude each other"),
        (["tune", FROZEN, "--time", "soon"], 1, "'soon' is no time"),
        (["tune", FROZEN, "--for", "fun"], 2, "fun"),
        (["tune", "./none"], 1, "does not exist"),
        (["tune", FROZEN, "--power-meter", "x", "--on", "emulate:rpi5"], 1, "--power-meter does not go with --on"),
    ],
)
def test_wrong_command_lines(
    quick: Path, capsys: pytest.CaptureFixture[str], args: list[object], code: int, said: str
) -> None:
    ended, _, err = command(capsys, *args)
    assert (ended, said in err) == (code, True), err


def test_advice_names_what_may_be_set(tmp_path: Path) -> None:
    assert advice("speed", tmp_path) == []
    folder = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    for name, value in {
        "scaling_governor": "ondemand",
        "scaling_driver": "cpufreq-dt",
        "cpuinfo_max_freq": 2400000,
        "cpuinfo_min_freq": 1500000,
        "scaling_max_freq": 2400000,
        "scaling_available_frequencies": "1500000 1800000 2000000 2400000",
    }.items():
        (folder / name).write_text(f"{value}\n")
    (line,) = advice("speed", tmp_path)
    assert "the governor is ondemand" in line
    (line,) = advice("energy", tmp_path)
    assert "echo 1500000 | sudo tee" in line
    (folder / "scaling_max_freq").write_text("1500000\n")
    assert advice("energy", tmp_path) == []
    assert any("limited to 1.50 of 2.40 GHz" in line for line in advice("sustained", tmp_path))
    (folder / "scaling_governor").write_text("performance\n")
    (folder / "scaling_max_freq").write_text("2400000\n")
    assert advice("speed", tmp_path) == []
