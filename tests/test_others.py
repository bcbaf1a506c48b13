"""What other programs take of the processors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgelm.device.doctor import busy_findings
from edgelm.machine import others
from edgelm.machine.host import read_cpu
from edgelm.machine.others import Others

TICKS = os.sysconf("SC_CLK_TCK")


def written(root: Path, busy: float, idle: float) -> None:
    """A kernel's count: busy seconds of users and the system, guests among them, and idle ones."""
    (root / "proc").mkdir(exist_ok=True)
    user, rest = int(busy / 2 * TICKS), int(idle / 2 * TICKS)
    (root / "proc/stat").write_text(f"cpu  {user} 0 {user} {rest} {rest} 0 0 0 {user} 0\ncpu0 1 2 3 4\n")


def test_others_are_what_is_busy_beside_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(others.time, "monotonic", lambda: now[0])
    written(tmp_path, 100, 300)
    watch = Others.watch(tmp_path)
    now[0], _ = 14.0, written(tmp_path, 106, 302)
    taken = watch.cpus()
    assert taken is not None
    assert taken == pytest.approx(1.5, abs=0.1)  # this process worked for some milliseconds meanwhile


def test_a_kernel_that_does_not_tell(tmp_path: Path) -> None:
    assert Others.watch(tmp_path).cpus() is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  x 0\n")
    assert Others.watch(tmp_path).cpus() is None


def test_doctor_names_a_busy_machine() -> None:
    (finding,) = busy_findings(1.24, read_cpu())
    assert (finding.level, finding.what) == ("warn", "load")
    assert finding.detail.startswith("other programs take 1.2 of ")
    assert [f.level for f in busy_findings(0.1, read_cpu())] == ["ok"]
    assert busy_findings(None, read_cpu()) == []
