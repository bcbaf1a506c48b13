"""Plans: what counts for a board, and what is refused with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgelm.errors import FleetError
from edgelm.fleet.jobs import jobs_of
from edgelm.fleet.plan import read_plan

BUNDLE = Path(__file__).parents[1] / "frozen" / "format1"

WHOLE = """\
name = "winter"
parallel = 2
retries = 1
retry_delay = 0.5
timeout = "20m"
bundles = ["BUNDLE"]
runs = 2

[settings.quick]
n_prompt = 64
n_gen = [16, 32]
repetitions = 3
sensors = false

[settings.two-threads]
threads = 2
profile = false
tune = "speed"
tune_time = "90s"

[groups.pi]
use = ["two-threads"]
keep = true

[groups.new]
runs = 1

[boards.kitchen]
place = "ssh:pi@kitchen"
groups = ["pi", "new"]

[boards."hall 2"]
place = "emulate:rpi5#2"
use = ["quick"]

[boards.desk]
place = "here"
"""


def test_a_board_over_its_groups_over_the_plan(write_plan):
    plan = read_plan(write_plan(WHOLE))
    assert (plan.name, plan.parallel, plan.retries, plan.retry_delay, plan.timeout) == ("winter", 2, 1, 0.5, 1200)
    kitchen, hall, desk = plan.boards
    assert [s.name for s in kitchen.settings] == ["two-threads"]
    assert (kitchen.runs, kitchen.keep, hall.runs, hall.keep) == (1, True, 2, False)
    assert [s.name for s in desk.settings] == ["quick", "two-threads"]
    tune, bench = next(job for job in jobs_of(plan) if job.board == "kitchen").steps()
    where, bundle = ["--on", "ssh:pi@kitchen", "--keep"], str(BUNDLE)
    assert tune == ["tune", bundle, "--for", "speed", "--time", "90s", "--json", *where]
    assert bench == ["bench", bundle, "--no-profile", "--threads", "2", "--output", "json", *where]
    assert hall.settings[0].args() == ["--no-sensors", "--n-prompt", "64", "--n-gen", "16,32", "--repetitions", "3"]
    assert desk.bundles[0].manifest.model.id == "tiny-llama"


def test_names_stand_for_bundles_that_are_kept(write_plan):
    where = read_plan(write_plan('bundles = ["BUNDLE"]\n[boards.a]\nplace = "here"\n')).boards[0].bundles[0].path
    path = write_plan('bundles = ["smollm"]\n[boards.a]\nplace = "here"\n')
    assert read_plan(path, lambda name: where if name == "smollm" else None).boards[0].bundles[0].path == where


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = 3\n", ":1: boards is missing"),
        ("x = = 1", ":1: invalid value"),
        ('bundles = ["BUNDLE"]\nboard = 1\n[boards.a]\nplace = "here"', ":2: board is not a key of a plan"),
        ('bundles = ["BUNDLE"]\n[boards.a]\nplace = "http://x"', ":3: boards.a.place names no board"),
        ('bundles = ["BUNDLE"]\n[boards.a]\n\nplace = 1', ":4: boards.a.place must be a string"),
        ('[boards.a]\nplace = "here"', ":1: boards.a.bundles is missing"),
        ('bundles = ["no/such"]\n[boards.a]\nplace = "here"', ":1: bundles has 'no/such'"),
        ('bundles = []\n[boards.a]\nplace = "here"', ":1: bundles is empty"),
        ('bundles = ["BUNDLE"]\n[boards.a]\nplace = "here"\ngroups = ["pi"]', ":4: boards.a.groups has 'pi'"),
        ('bundles = ["BUNDLE"]\nuse = ["x"]\n[boards.a]\nplace = "here"', ":2: use has 'x'"),
        (
            'bundles = ["BUNDLE"]\n[settings.s]\nn_gen = [1, -1]\n[boards.a]\nplace = "here"',
            ":3: settings.s.n_gen must be a whole number of tokens",
        ),
        (
            'bundles = ["BUNDLE"]\n[settings.s]\nsustained = "soon"\n[boards.a]\nplace = "here"',
            ":3: settings.s.sustained is no time",
        ),
        (
            'bundles = ["BUNDLE"]\n[boards.a]\nplace = "ssh:x"\n[boards.b]\nplace = "ssh:x"',
            ":5: boards.b.place is that of a, too",
        ),
        (
            'bundles = ["BUNDLE"]\n[settings.s]\ntune = "fast"\n[boards.a]\nplace = "here"',
            ":3: settings.s.tune must be 'speed', 'energy' or 'sustained'",
        ),
        (
            'bundles = ["BUNDLE"]\n[settings.s]\ntune_time = "90s"\n[boards.a]\nplace = "here"',
            ":3: settings.s.tune_time is for tune, which is missing",
        ),
        ('retries = -1\nbundles = ["BUNDLE"]\n[boards.a]\nplace = "here"', ":1: retries must be from 0"),
        ('bundles = ["BUNDLE"]\nwheels = "no"\n[boards.a]\nplace = "here"', ":2: wheels is no folder"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(write_plan, text, said):
    with pytest.raises(FleetError) as error:
        read_plan(write_plan(text))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_plan_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(FleetError, match="cannot be read: No such file"):
        read_plan(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FleetError, match="is not a text file"):
        read_plan(tmp_path / "binary.toml")


def test_the_plan_of_the_documentation(tmp_path: Path):
    page = (Path(__file__).parents[2] / "docs/how-to/fleet.md").read_text()
    (text,) = re.findall("^```toml\n(.*?)^```", page, re.M | re.S)
    path = tmp_path / "boards.toml"
    path.write_text(text)
    for name in re.findall(r'"(bundles/[^"]*)"', text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(BUNDLE)
    plan = read_plan(path)
    assert [(b.name, b.bundles[0].path.name, len(b.settings), b.runs) for b in plan.boards] == [
        ("kitchen", "home-rpi5-int4", 2, 1),
        ("hall", "home-rpi4-int8", 1, 1),
        ("pc", "home-rpi5-int4", 2, 1),
        ("desk", "home-rpi5-int4", 2, 2),
    ]
