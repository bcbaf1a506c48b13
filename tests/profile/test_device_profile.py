"""Device profiles: written, found, damaged, and taken by what loads a bundle."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgelm
from edgelm.bench.report import BenchOptions, benchmark, render
from edgelm.bundle.reader import Bundle
from edgelm.device import profile_check
from edgelm.errors import EdgeLMWarning, ProfileError
from edgelm.machine.host import read_cpu
from edgelm.profile import store
from edgelm.profile.profile import Gain, Profile, machine_key, shape_key
from edgelm.profile.settings import Settings, shown
from edgelm.profile.store import Profiles, default_folder, profile_for
from edgelm.runtime.engine import Engine
from edgelm.runtime.kv.prefill import PREFILL_CHUNK
from edgelm.runtime.ort.options import LoadOptions

FROZEN = Path(__file__).parents[1] / "frozen" / "format1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELM_PROFILES", str(tmp_path / "profiles"))
    return tmp_path / "profiles"


@pytest.fixture
def bundle() -> Bundle:
    return Bundle.open(FROZEN)


def made(bundle: Bundle, **settings: Any) -> Profile:
    best = Settings(**{"threads": 1, "prefill_threads": 2, "spinning": False, "prefill_chunk": 64, **settings})
    return Profile(
        goal="speed",
        machine=machine_key(read_cpu()),
        shape=shape_key(bundle.manifest),
        board="A board",
        model=bundle.manifest.model.id,
        quant=bundle.manifest.quant,
        bundle=bundle.digest,
        edgelm="0.1.0",
        onnxruntime="1.32.0",
        at="2026-01-01T00:00:00+00:00",
        settings=best,
        before=Settings(2, 2, prefill_chunk=256),
        gains={"decode": Gain(12.0, 10.0, 1.2, 1.1, 1.3), "prefill": Gain(100.0, 100.0)},
        seconds=12.5,
        tried=7,
    )


def test_a_profile_comes_back(folder: Path, bundle: Bundle) -> None:
    assert profile_for(bundle.manifest) is None
    cpus = tuple(sorted(read_cpu().allowed))
    profile = made(bundle, cpus=cpus, threads=len(cpus))
    path = Profiles(folder).save(profile)
    assert path.parent == folder
    assert profile_for(bundle.manifest) == profile
    assert list(Profiles(folder).all()) == [(path, profile)]
    assert json.loads(path.read_text())["id"] == profile.id
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
    assert Profiles(folder).forget(bundle.manifest, read_cpu()) == path
    assert Profiles(folder).forget(bundle.manifest, read_cpu()) is None
    assert profile_for(bundle.manifest) is None


def test_another_machine_and_another_shape_have_none(folder: Path, bundle: Bundle) -> None:
    Profiles(folder).save(made(bundle))
    cpu = read_cpu()
    for other in (replace(cpu, model="Another"), replace(cpu, allowed=frozenset({99})), replace(cpu, quota=1.5)):
        assert machine_key(other) != machine_key(cpu)
        assert profile_for(bundle.manifest, other) is None
    manifest = replace(bundle.manifest, graph=replace(bundle.manifest.graph, layers=77))
    assert profile_for(manifest) is None
    same = replace(bundle.manifest, context=64, model=replace(bundle.manifest.model, id="a fine-tune"))
    assert profile_for(same) is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (b"", "is not valid JSON"),
        (b"[]", "holds list"),
        (b"\xff", "is not valid JSON"),
        ({"version": 2}, "of a newer edgelm"),
        ({"version": "1"}, "version"),
        ({"goal": "fun"}, "goal"),
        ({"settings": {"threads": 0}}, "settings.threads"),
        ({"settings": {"threads": True}}, "settings.threads"),
        ({"settings": {"threads": 2, "prefill_threads": 2, "cpus": [0], "spinning": True}}, "settings.cpus"),
        ({"settings": {"threads": 1, "prefill_threads": 1, "cpus": [0, 0], "spinning": True}}, "settings.cpus"),
        ({"settings": {"threads": 1, "prefill_threads": 1, "spinning": 1}}, "settings.spinning"),
        ({"settings": {"threads": 1, "prefill_threads": 1, "spinning": True, "prefill_chunk": 1}}, "prefill_chunk"),
        ({"gains": []}, "gains"),
        ({"machine": "0" * 12}, "of another machine"),
        ({"settings": {"threads": 1, "prefill_threads": 1, "cpus": [8000], "spinning": True}}, "may not use"),
    ],
)
def test_a_damaged_profile_is_passed_over_with_one_line(folder: Path, bundle: Bundle, change: Any, said: str) -> None:
    path = Profiles(folder).save(made(bundle))
    path.write_bytes(
        change if isinstance(change, bytes) else json.dumps(json.loads(path.read_text()) | change).encode()
    )
    with pytest.warns(EdgeLMWarning, match="passed over") as caught:
        assert profile_for(bundle.manifest) is None
    (line,) = [str(warning.message) for warning in caught]
    assert said in line
    assert "\n" not in line
    (finding,) = profile_check.bundle_findings(bundle.manifest, read_cpu(), "1.32.0")
    assert finding.level == "warn"


def test_where_profiles_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Bundle) -> None:
    monkeypatch.setenv("EDGELM_PROFILES", "off")
    assert default_folder() is None
    assert store.folders() == []
    with pytest.raises(ProfileError, match="no profiles are kept"):
        Profiles.default()
    monkeypatch.delenv("EDGELM_PROFILES")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(store, "SYSTEM", tmp_path / "etc")
    assert store.folders() == [tmp_path / "config/edgelm/profiles", tmp_path / "etc"]
    Profiles(tmp_path / "etc").save(made(bundle))
    assert profile_for(bundle.manifest) == made(bundle)  # of all users, where there is none of one's own
    own = made(bundle, threads=2)
    Profiles.default().save(own)
    assert profile_for(bundle.manifest) == own
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".config/edgelm/profiles"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProfileError, match="cannot be written to"):
        Profiles(tmp_path / "file" / "below").save(made(bundle))


def test_load_takes_it_and_explicit_options_win(folder: Path, bundle: Bundle) -> None:
    Profiles(folder).save(made(bundle))
    with edgelm.load(FROZEN) as lm:
        model = lm.engine.model
        assert (model.threads, model.prefill_threads, model.prefill_chunk) == (1, 2, 64)
    with edgelm.load(FROZEN, threads=2) as lm:
        assert (lm.engine.model.threads, lm.engine.model.prefill_threads) == (2, 2)
        assert lm.engine.model.prefill_chunk == 64
    with edgelm.load(FROZEN, profile=False) as lm:
        assert lm.engine.model.prefill_chunk == PREFILL_CHUNK
    with edgelm.load(FROZEN, parallel=2) as lm:
        assert lm.engine.model.threads == 1
        one, two = lm.batch(["lamp", "light"], max_tokens=3)
        assert one.tokens
        assert two.tokens


def test_texts_are_those_without_a_profile(folder: Path, bundle: Bundle) -> None:
    def said() -> str:
        with edgelm.load(FROZEN) as lm:
            return lm.generate("Turn on the lamp in the kitchen", max_tokens=16, temperature=0).text

    plain, cpus = said(), (min(read_cpu().allowed),)
    Profiles(folder).save(made(bundle, cpus=cpus, prefill_cpus=cpus, prefill_threads=1, prefill_chunk=64))
    assert said() == plain


def test_a_damaged_one_does_not_stop_load(folder: Path, bundle: Bundle) -> None:
    Profiles(folder).save(made(bundle)).write_text("{")
    with pytest.warns(EdgeLMWarning, match="passed over"), edgelm.load(FROZEN) as lm:
        assert lm.engine.model.prefill_chunk == PREFILL_CHUNK


def test_bench_names_the_profile(folder: Path, bundle: Bundle) -> None:
    profile = made(bundle)
    small = BenchOptions(prompts=[4], generations=[2], repetitions=1)
    report = benchmark(bundle, replace(small, profile=profile))
    assert (report.profile, report.threads, report.prefill_threads) == (profile.id, 1, 2)
    assert report.settings == profile.settings.to_dict()
    assert f"- profile: {profile.id}" in render(report, "md")
    assert report.rows()[0]["profile"] == profile.id
    plain = benchmark(bundle, small)
    assert (plain.profile, plain.settings) == (None, None)
    assert "profile" not in render(plain, "md")


def test_a_limit_of_memory_bounds_the_passes(bundle: Bundle) -> None:
    wide = Settings(1, 1, prefill_chunk=512)
    assert Engine.load(bundle, settings=wide).model.prefill_chunk == 512
    assert Engine.load(bundle, settings=wide, max_memory_mb=4000).model.prefill_chunk == PREFILL_CHUNK


@pytest.mark.skipif(len(read_cpu().allowed) < 2, reason="one CPU")
def test_threads_run_where_they_should(bundle: Bundle) -> None:
    cpus = sorted(read_cpu().allowed)[:2]
    before, mine = os.sched_getaffinity(0), set(os.listdir("/proc/self/task"))

    def started() -> list[set[int]]:
        return [os.sched_getaffinity(int(task)) for task in set(os.listdir("/proc/self/task")) - mine]

    own = Settings(2, 2, cpus=(cpus[0], cpus[1]), prefill_cpus=(cpus[0], cpus[1]))
    engine = Engine.load(bundle, LoadOptions(settings=replace(own, threads=1, prefill_threads=1, cpus=(cpus[1],))))
    engine.forward([5])
    assert os.sched_getaffinity(0) == before  # the caller's own thread is where it was
    engine.close()
    mine = set(os.listdir("/proc/self/task"))
    engine = Engine.load(bundle, LoadOptions(settings=own))
    assert started() == [set(cpus)] * len(engine.model._sessions.opened)  # prompts may have one of their own
    engine.close()


def test_threads_that_are_asked_for_and_do_not_fit_run_anywhere(bundle: Bundle) -> None:
    cpu = min(read_cpu().allowed)
    own = Settings(1, 1, cpus=(cpu,), prefill_cpus=(cpu,))
    mine = set(os.listdir("/proc/self/task"))
    engine = Engine.load(bundle, LoadOptions(threads=2, settings=own))
    tasks = set(os.listdir("/proc/self/task")) - mine
    assert [os.sched_getaffinity(int(task)) for task in tasks] == [os.sched_getaffinity(0)] * len(
        engine.model._sessions.opened
    )  # prompts may have one of their own
    engine.close()


def test_doctor_tells(folder: Path, bundle: Bundle) -> None:
    cpu = read_cpu()
    (finding,) = profile_check.bundle_findings(bundle.manifest, cpu, "1.32.0")
    assert (finding.level, finding.detail.split(":")[0]) == ("ok", "none")
    assert profile_check.machine_findings(cpu) == []
    profile = made(bundle)
    Profiles(folder).save(profile)
    (finding,) = profile_check.bundle_findings(bundle.manifest, cpu, "1.32.0")
    assert finding.detail == (f"{profile.id}: decode 1 thread, prefill 2 threads in passes of 64, spinning off")
    (finding,) = profile_check.bundle_findings(bundle.manifest, cpu, "1.33.0")
    assert (finding.level, finding.todo) == ("warn", "tune again: edgelm tune BUNDLE")
    (finding,) = profile_check.machine_findings(cpu)
    assert profile.id in finding.detail
    assert profile_check.machine_findings(replace(cpu, model="Another")) == []


def test_numbers_of_cpus_read_as_the_kernel_writes_them() -> None:
    assert shown([0, 1, 2, 3, 6, 8, 7]) == "0-3,6-8"
    assert shown([4]) == "4"


def test_no_warning_without_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Bundle) -> None:
    monkeypatch.setenv("EDGELM_PROFILES", str(tmp_path / "none"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert profile_for(bundle.manifest) is None
