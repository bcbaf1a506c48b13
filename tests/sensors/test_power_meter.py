"""A power meter that is the user's own program."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import pytest

from edgelm.errors import OptionError
from edgelm.machine.sensors.meter import Meter
from edgelm.machine.sensors.source import Missing


def program(folder: Path, text: str) -> str:
    path = folder / "meter.py"
    path.write_text(text)
    return shlex.join([sys.executable, str(path)])


def settled(meter: Meter, watts: float) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if meter.read(0) == watts:
            return True
        time.sleep(0.02)
    return False


def test_one_that_goes_on(tmp_path):
    text = "import time\nfor i in range(10**6): print(f'12:00:{i:02} power {3 + i} W', flush=True); time.sleep(0.1)"
    meter = Meter(program(tmp_path, text.replace("power {3 + i} W", "{3 + min(i, 2)}")))
    assert settled(meter, 5.0)
    process = meter._process
    meter.close()
    assert process.returncode is not None


def test_one_that_prints_once_is_asked_again(tmp_path):
    count = tmp_path / "count"
    count.write_text("0")
    text = f"p = {str(count)!r}\nn = int(open(p).read()) + 1\nopen(p, 'w').write(str(n))\nprint('watts:', n)"
    meter = Meter(program(tmp_path, text))
    assert settled(meter, 3.0)
    meter.close()
    assert not meter._thread.is_alive()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; sys.exit(3)", "ended with 3"),
        ("print('no plug found')", "prints no number within"),
        ("print('nan'); import sys; sys.exit(1)", "ended with 1"),
        ("print('-3 W')", "prints -3, which is not from 0 to 10,000 watts"),
        ("print(1e9)", "prints 1000000000.0, which is not"),
    ],
)
def test_one_that_does_not_work(tmp_path, monkeypatch, text, said):
    monkeypatch.setattr("edgelm.machine.sensors.meter._FIRST", 1.5)
    with pytest.raises(OptionError, match=said):
        Meter(program(tmp_path, text))


@pytest.mark.parametrize("text", ["while True: print('7.5 W')", "while True: print('power: 7.5 W\\n--')"])
def test_one_that_floods_takes_no_time(tmp_path, text):
    meter = Meter(program(tmp_path, text))
    assert settled(meter, 7.5)
    spent = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - spent < 0.2
    meter.close()
    assert not meter._thread.is_alive()


def test_a_line_that_does_not_end(tmp_path):
    meter = Meter(program(tmp_path, "import time\nprint('x' * 300000 + ' 4.25', end='', flush=True)"))
    assert settled(meter, 4.25)
    meter.close()


@pytest.mark.parametrize("command", ["", "'open", "/no/such/program --watts"])
def test_one_that_cannot_be_started(command):
    with pytest.raises(OptionError, match="--power-meter"):
        Meter(command)


def test_one_that_fails_in_the_middle_gives_no_figure(tmp_path):
    meter = Meter(program(tmp_path, "print(4.5, flush=True); import sys; sys.exit(7)"))
    meter._thread.join(10)
    assert meter.source().check() == Missing("--power-meter ended with 7")
    meter.close()
