"""What stands around emulation: finding a mirror, refusing where it cannot work, and the board a guest is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgelm.cli.emulate import command
from edgelm.emulate import Board, Sandbox, debian, sandbox
from edgelm.errors import DependencyError, DeviceError, OptionError
from edgelm.machine.host import EMULATED
from edgelm.target.target import load_target

CORES = ("cortex-a53", "cortex-a72", "cortex-a76", "cortex-a710", "max")


def program(folder: Path, name: str, body: str) -> None:
    """A shell script in the place of a tool."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def fake(tmp_path: Path) -> Sandbox:
    """A sandbox whose QEMU only lists its cores, and says how it was called."""
    made = Sandbox(tmp_path / "cache" / "aarch64-0")
    made.root.mkdir(parents=True)
    listing = "\\n".join(f"  {core}" for core in CORES)
    program(
        made.folder, "qemu-aarch64", f'[ "$2" = help ] && printf "Available CPUs:\\n{listing}\\n" && exit 1\necho "$@"'
    )
    return made


# --- the mirror ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "mirror"),
    [
        ("bookworm main http://mirror.example/debian/", "http://mirror.example/debian/"),
        ("bookworm-security main http://security.example/\ntrixie main file:/srv/debian/", "file:/srv/debian/"),
        ("bookworm stable https://docker.example/\nstable main http://mirror.example/", "http://mirror.example/"),
    ],
)
def test_the_mirror_is_the_one_that_apt_uses(tools: Path, listed: str, mirror: str) -> None:
    program(tools, "apt-get", f"echo '{listed}'")
    assert debian.find_mirror() == mirror


@pytest.mark.parametrize("listed", ["", "noble main http://ubuntu.example/ubuntu/", "noise", "bookworm main"])
def test_without_a_debian_mirror_one_is_asked_for(tools: Path, listed: str) -> None:
    program(tools, "apt-get", f"echo '{listed}'")
    with pytest.raises(DeviceError, match="no Debian mirror") as caught:
        debian.find_mirror()
    assert "--mirror" in (caught.value.hint or "")


@pytest.mark.parametrize("mirror", ["debian", "http://a b/", "", "http://x/\ndeb evil"])
def test_a_mirror_must_be_an_address(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(DeviceError, match="no address of a mirror"):
        debian._configure(tmp_path, mirror)
    assert not list(tmp_path.iterdir())


def test_missing_keys_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_KEYRINGS", (str(tmp_path / "none"),))
    with pytest.raises(DeviceError, match="archive keys") as caught:
        debian._configure(tmp_path, "http://mirror.example/debian")
    assert caught.value.hint == "apt install debian-archive-keyring"


def test_apt_works_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").touch()
    monkeypatch.setattr(debian, "_KEYRINGS", (str(tmp_path / "keys"),))
    debian._configure(tmp_path / "work", "http://mirror.example/debian")
    written = (tmp_path / "work/apt.conf").read_text()
    for key in ("Dir::State ", "Dir::State::lists", "Dir::State::status", "Dir::Cache", "Dir::Etc::sourcelist"):
        assert f'{key.strip()} "{tmp_path}' in written
    source = f"deb [arch=amd64,arm64 signed-by={tmp_path}/keys] http://mirror.example/debian trixie main\n"
    assert (tmp_path / "work/sources.list").read_text() == source


def test_what_apt_says_last_is_the_error(tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").touch()
    monkeypatch.setattr(debian, "_KEYRINGS", (str(tmp_path / "keys"),))
    program(tools, "dpkg-deb", "exit 0")
    program(tools, "apt-get", "echo 'W: first' >&2; echo 'E: no route to mirror' >&2; exit 100")
    with pytest.raises(DeviceError, match="package lists of Debian cannot be read: E: no route to mirror"):
        debian.unpack(tmp_path / "work", "http://mirror.example/debian", tmp_path / "qemu", tmp_path / "root")


def test_a_package_without_the_emulator_is_refused(tmp_path: Path, tools: Path) -> None:
    empty = "\\0" * 10240
    program(tools, "dpkg-deb", f"printf '{empty}'")
    with pytest.raises(DeviceError, match="has no usr/bin/qemu-aarch64"):
        debian._extract(tmp_path / "qemu-user.deb", "usr/bin/qemu-aarch64", tmp_path / "qemu")
    assert not (tmp_path / "qemu").exists()


# --- the sandbox --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "machine", "problem"),
    [
        ("linux", "aarch64", "is an ARM machine itself"),
        ("darwin", "x86_64", "needs Linux on x86-64, not darwin"),
        ("linux", "riscv64", "needs Linux on x86-64, not linux on riscv64"),
        ("linux", "x86_64", "no apt-get and no dpkg-deb here"),
    ],
)
def test_where_it_cannot_work(
    tools: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, problem: str
) -> None:
    monkeypatch.setattr(sandbox.sys, "platform", system)
    monkeypatch.setattr(sandbox.platform, "machine", lambda: machine)
    with pytest.raises(DeviceError, match=problem):
        sandbox.prepare()


def test_the_versions_are_those_installed_here() -> None:
    pins = sandbox.requirements()
    assert {"onnxruntime", "numpy", "tokenizers", "click", "jinja2"} <= {pin.partition("==")[0] for pin in pins}
    assert all("==" in pin for pin in pins)


def test_edgelm_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> list[str]:
        raise sandbox.metadata.PackageNotFoundError

    monkeypatch.setattr(sandbox.metadata, "requires", missing)
    with pytest.raises(DependencyError, match="not installed"):
        sandbox.requirements()


def test_what_goes_wrong_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[Path]:
        raise DeviceError("the mirror is away")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sandbox, "unsupported", lambda: None)
    monkeypatch.setattr(debian, "unpack", fail)
    with pytest.raises(DeviceError, match="the mirror is away"):
        sandbox.prepare()
    assert [path.name for path in (tmp_path / "edgelm/emulate").iterdir()] == ["lock"]


def test_a_whole_sandbox_is_taken_as_it_is_and_a_half_one_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sandbox, "unsupported", lambda: None)
    monkeypatch.setattr(sandbox, "_install", lambda *_: [{"name": "numpy", "version": "1", "sha256": "0"}])
    monkeypatch.setattr(sandbox, "_try", lambda _: None)
    made: list[Path] = []

    def unpack(work: Path, mirror: str | None, qemu: Path, root: Path) -> list[Path]:
        made.append(root)
        package = work / "libc6_arm64.deb"
        package.write_bytes(b"deb")
        return [package]

    monkeypatch.setattr(debian, "unpack", unpack)
    first = sandbox.prepare()
    assert first.record()["packages"][0]["file"] == "libc6_arm64.deb"
    assert len(first.record()["packages"][0]["sha256"]) == 64
    assert sandbox.prepare() == first
    assert len(made) == 1
    (first.folder / "sandbox.json").unlink()
    assert sandbox.prepare() == first
    assert len(made) == 2


# --- the board ----------------------------------------------------------------------------------------------------


def test_a_target_gives_its_core_its_name_and_its_memory(fake: Sandbox) -> None:
    board = Board.of(fake, load_target("rpi4"))
    command = board.command(["-c", "pass"])
    assert board.core == command[command.index("-cpu") + 1] == "cortex-a72"
    prefix = Path(command[command.index("-L") + 1])
    assert (prefix / "proc/device-tree/model").read_text() == "Raspberry Pi 4"
    assert "MemTotal:        4194304 kB\n" in (prefix / "proc/meminfo").read_text()
    assert (prefix / "usr").readlink() == fake.root / "usr"
    assert board.command([]) == Board.of(fake, load_target("rpi4")).command([]), "made once"


def test_a_core_that_qemu_lacks_has_a_stand_in_or_is_refused(fake: Sandbox) -> None:
    assert Board.of(fake, load_target("jetson-orin-nano")).core == "cortex-a76"
    assert Board.of(fake, core="cortex-a715").core == "cortex-a710"
    assert Board.of(fake, core="max,sme=off").core == "max,sme=off"
    with pytest.raises(DeviceError, match="QEMU has no core 'cortex-a67'") as caught:
        Board.of(fake, core="cortex-a67")
    assert "cortex-a76" in (caught.value.hint or "")
    with pytest.raises(DeviceError, match="x86-64 is x86_64, and only aarch64 is emulated"):
        Board.of(fake, load_target("x86-64"))


def test_the_guest_sees_edgelm_but_nothing_else_of_the_hosts_python(
    fake: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONHOME", "LD_PRELOAD", "QEMU_CPU", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "x")
    environment = Board.of(fake, core="max").environment()
    assert not {"PYTHONHOME", "LD_PRELOAD", "QEMU_CPU", "VIRTUAL_ENV"} & set(environment)
    assert environment[EMULATED]
    own, wheels = environment["PYTHONPATH"].split(":")
    assert Path(wheels) == fake.site
    assert {path.name for path in Path(own).iterdir()} <= {"edgelm", "targets"}
    assert (Path(own) / "edgelm/target/target.py").is_file()


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command(fake: Sandbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("edgelm.cli.emulate.prepare", lambda *_: fake)
    result = CliRunner().invoke(command, ["--target", "rpi5", "--", "edgelm", "run", "b/", "-p", "hi"])
    assert result.exit_code == 0
    assert capfd.readouterr().out.endswith("-P -m edgelm run b/ -p hi\n")
    assert CliRunner().invoke(command, []).output == f"ready: {fake.folder}\n"
    stood_in = CliRunner().invoke(command, ["--core", "cortex-a78", "--", "doctor"])
    assert "note: QEMU has no cortex-a78: cortex-a76 stands in for it" in stood_in.stderr
    wrong = CliRunner().invoke(command, ["--", "doctor"])
    assert isinstance(wrong.exception, OptionError)


@pytest.mark.parametrize(("signal", "code"), [("ILL", 132), ("KILL", 137)])
def test_a_guest_that_dies(fake: Sandbox, monkeypatch: pytest.MonkeyPatch, signal: str, code: int) -> None:
    program(fake.folder, "qemu-aarch64", f'[ "$2" = help ] && echo "  max" && exit 1\nkill -{signal} $$')
    monkeypatch.setattr("edgelm.cli.emulate.prepare", lambda *_: fake)
    result = CliRunner().invoke(command, ["--core", "max", "--", "doctor"])
    assert result.exit_code == code
    assert ("an instruction that max does not have" in result.stderr) == (signal == "ILL")
