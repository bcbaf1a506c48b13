"""``edgelm doctor``."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgelm.cli import doctor
from edgelm.device.doctor import Examination
from edgelm.device.finding import Finding
from edgelm.errors import ExportError
from edgelm.machine.host import read_cpu, read_memory
from edgelm.target.target import load_target

FINE = Finding("ok", "python", "3.12")
HOT = Finding("warn", "temperature", "84 °C: the clock goes down", "add a fan")
BROKEN = Finding("fail", "numpy", "not installed", "pip install numpy")


def run(*args: str, charset: str = "utf-8") -> Result:
    return CliRunner(charset=charset).invoke(doctor.command, list(args), catch_exceptions=False)


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch):
    """Makes the doctor find these, and keeps the bundle it was asked about."""

    def find(*these: Finding) -> dict[str, Path | None]:
        asked: dict[str, Path | None] = {}
        here = Examination(read_cpu(), read_memory(), None, None, these)
        monkeypatch.setattr(
            doctor, "examine", lambda bundle, tell: asked.update(bundle=bundle) or ([tell(f) for f in these] and here)
        )
        return asked

    return find


def test_a_report_says_what_stands_how_and_what_to_do(findings):
    findings(FINE, HOT)
    result = run()
    assert result.exit_code == 0
    assert result.output == (
        "✓ python        3.12\n"
        "! temperature   84 °C: the clock goes down\n"
        "                → add a fan\n"
        "\n"
        "ready, 1 to look at\n"
    )


def test_a_failure_gives_exit_code_1(findings):
    findings(FINE, HOT, BROKEN)
    result = run()
    assert result.exit_code == 1
    assert "✗ numpy         not installed" in result.output
    assert result.output.endswith("1 to mend before models can run here, 1 to look at\n")


def test_json(findings):
    findings(FINE, BROKEN)
    result = run("--json")
    assert result.exit_code == 1
    assert json.loads(result.output) == {
        "ok": False,
        "findings": [
            {"level": "ok", "what": "python", "detail": "3.12", "todo": None},
            {"level": "fail", "what": "numpy", "detail": "not installed", "todo": "pip install numpy"},
        ],
    }


def test_a_terminal_without_utf_8(findings):
    findings(FINE, HOT, BROKEN)
    result = run(charset="ascii")
    assert result.exit_code == 1
    assert result.output.isascii()
    assert "! temperature   84 C" in result.output


def test_the_bundle_is_passed_on(findings):
    asked = findings(FINE)
    run("--bundle", "some/bundle")
    assert asked["bundle"] == Path("some/bundle")


def test_a_target_file_is_saved_and_not_overwritten(findings, tmp_path: Path):
    findings(FINE)
    path = tmp_path / "my.toml"
    assert f"saved: {path}" in run("--save", str(path)).output
    assert load_target(path).name == "my"
    with pytest.raises(ExportError, match="exists already"):
        run("--save", str(path))
    assert json.loads(run("--save", str(path), "--overwrite", "--json").output)["saved"] == str(path)


def test_this_machine_can_be_examined():
    result = run("--json")
    assert {"python", "onnxruntime", "telemetry", "cpu", "threads"} <= {
        finding["what"] for finding in json.loads(result.output)["findings"]
    }


def test_help_has_an_example():
    assert "edgelm doctor --bundle" in run("--help").output
