"""``edgelm fleet``, from a plan to a page."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edgelm.cli.fleet import _held
from edgelm.cli.live import board_lines
from edgelm.fleet.jobs import Job
from edgelm.fleet.plan import Settings
from edgelm.fleet.progress import Standing

pytest.importorskip("pyinfra")

PLAN = """\
retries = 0
bundles = ["{bundle}"]
[settings.quick]
n_prompt = 8
n_gen = 4
repetitions = 2
threads = 1
sensors = false
[boards.desk]
place = "here"
"""


@pytest.fixture
def fleet(tiny_bundle, monkeypatch, tmp_path):
    """The plan's file, with results of its own."""
    monkeypatch.setenv("EDGELM_RESULTS", str(tmp_path / "results.sqlite3"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "desk.toml"
    path.write_text(PLAN.format(bundle=tiny_bundle.path))
    return path


def test_from_a_plan_to_a_page(edgelm, fleet, tiny_bundle):
    listed = json.loads(edgelm("fleet", fleet, "--list", "--json").out)["jobs"]
    assert [(job["board"], job["settings"], job["done"]) for job in listed] == [("desk", "quick", False)]
    ended = edgelm("fleet", fleet)
    assert ended.code == 0, ended.err
    assert "desk: " in ended.err
    assert ended.out.splitlines()[-1] == f"page: {fleet.with_suffix('.html')}"
    assert "All jobs are done." in fleet.with_suffix(".html").read_text()
    again = json.loads(edgelm("fleet", fleet, "--json").out)
    assert (again["done"], again["left"]) == (1, 0)
    (job,) = again["results"]
    assert [row["test"] for row in job["results"]] == ["pp8", "tg4"]
    assert job["bundle_sha256"] == tiny_bundle.digest
    rows = json.loads(edgelm("results", "list", "--json").out)["results"]
    assert len(rows) == 2  # the second call measured nothing
    assert {(row["place"], row["bundle"]) for row in rows} == {("here", tiny_bundle.digest)}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "place", [pytest.param("here", marks=pytest.mark.slow), pytest.param("emulate:rpi5", marks=pytest.mark.board)]
)
def test_a_board_is_tuned_before_it_is_measured(edgelm, fleet, monkeypatch, tmp_path, place):
    monkeypatch.setenv("EDGELM_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.delenv("XDG_CACHE_HOME")  # where the emulator is
    plan = fleet.read_text().replace("threads = 1\n", 'tune = "speed"\ntune_time = "5s"\n')
    fleet.write_text(plan.replace('"here"', f'"{place}"'))
    ended = edgelm("fleet", fleet, "--json")
    assert ended.code == 0, ended.err
    (job,) = json.loads(ended.out)["results"]
    (profile,) = (tmp_path / "profiles").iterdir()
    assert {row["profile"] for row in job["results"]} == {json.loads(profile.read_text())["id"]}
    assert [row["test"] for row in job["results"]] == ["pp8", "tg4"]


def test_a_job_that_fails(edgelm, fleet):
    fleet.write_text(fleet.read_text().replace("n_prompt = 8", "n_prompt = 1000"))
    ended = edgelm("fleet", fleet, "--json")
    assert ended.code == 1
    facts = json.loads(ended.out)
    assert (facts["done"], facts["left"]) == (0, 1)
    assert "1000" in facts["results"][0]["error"].replace(",", "")
    assert ended.err.splitlines()[0] == "error: 1 of 1 jobs are not done, on desk"
    assert "1000" in fleet.with_suffix(".html").read_text().replace(",", "")


def test_what_is_refused_before_anything_is_done(edgelm, fleet, monkeypatch):
    assert "did you mean desk?" in edgelm("fleet", fleet, "--board", "dest").err
    assert edgelm("fleet", fleet.with_name("none.toml")).err.startswith("error: ")
    monkeypatch.setenv("EDGELM_RESULTS", "off")
    assert edgelm("fleet", fleet).err.startswith("error: no results are kept")


def test_a_board_is_for_one_fleet_at_a_time(edgelm, fleet, tmp_path):
    with _held([Job("desk", "desk", "here", fleet, "", Settings("quick"), 1, False, None)]):
        ended = edgelm("fleet", fleet)
    assert (ended.code, ended.out) == (1, "")
    assert "error: board desk (here) is measured by another edgelm fleet" in ended.err


def test_without_pyinfra_it_says_what_to_install(fleet):
    code = "import sys; sys.modules['pyinfra'] = None; from edgelm.cli import main; sys.exit(main(sys.argv[1:]))"
    ended = subprocess.run([sys.executable, "-c", code, "fleet", fleet], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-2:] == [
        "error: edgelm fleet needs pyinfra",
        "hint: pip install 'edgelm[fleet]'",
    ]


def test_the_live_table_has_room_for_those_at_work():
    standings = [Standing(f"b{i}", f"ssh:b{i}", 2, 2, state="done", since=0) for i in range(30)]
    standings[20] = Standing("b20", "ssh:b20", 2, 1, 1, "measuring", "job", "bench: 50%", 100)
    all_lines = board_lines(standings, 40, 103.4)
    assert len(all_lines) == 31
    assert all_lines[21].split() == ["b20", "measuring", "1/2", "1", "3", "s", "job:", "bench:", "50%"]
    few = board_lines(standings, 10, 103.4)
    assert len(few) == 10
    assert few[1].startswith("b20")
    assert few[-1] == "and 22 more; 59 of 60 jobs are done"
