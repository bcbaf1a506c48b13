"""The program around the commands: help, typing errors, exit codes, one line for every failure."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import warnings

import click
import pytest

from edgelm.cli import group, main
from edgelm.errors import BundleError, EdgeLMError, PromptCacheError
from edgelm.version import __version__

HEAVY = ("numpy", "onnxruntime", "tokenizers", "jinja2", "onnx_ir", "torch", "huggingface_hub")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Makes `edgelm run` raise what it is given."""

    def fail(error: BaseException) -> None:
        @click.command("run")
        def command() -> None:
            raise error

        monkeypatch.setattr(group.Commands, "get_command", lambda self, ctx, name: command)

    return fail


def test_help_lists_every_command_and_has_an_example(edgelm):
    ended = edgelm("--help")
    assert ended.code == 0
    assert all(re.search(rf"^  {name} +{re.escape(text)}$", ended.out, re.M) for name, text in group.COMMANDS.items())
    assert "edgelm export --target rpi5" in ended.out


def test_no_arguments_are_a_call_for_help(edgelm):
    assert edgelm() == edgelm("--help")


@pytest.mark.parametrize("name", group.COMMANDS)
def test_help_of_every_command_has_an_example(edgelm, name):
    ended = edgelm(name, "--help")
    assert ended.code == 0
    assert re.search(rf"Examples:\n(.*\n)*.*edgelm {name}", ended.out)


def test_help_of_every_command_loads_nothing_heavy(start):
    script = (
        "import sys\nfrom edgelm.cli import main, group\n"
        "codes = [main([*name, '--help']) for name in [[], *([n] for n in group.COMMANDS if n != 'doctor')]]\n"
        f"sys.exit(any(codes) or ', '.join({{name for name in {HEAVY!r} if name in sys.modules}}) or None)"
    )
    process = start("-c", script)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.decode()) == (0, "")


def test_version(edgelm):
    assert edgelm("--version") == (0, f"edgelm {__version__}\n", "")


def test_it_runs_as_a_module(start):
    out, err = start("-m", "edgelm", "--version").communicate(timeout=60)
    assert (out.decode(), err.decode()) == (f"edgelm {__version__}\n", "")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["exprot"], "error: no command 'exprot': did you mean export?\nhint: see: edgelm --help\n"),
        (["run"], "error: missing argument 'BUNDLE'\nhint: see: edgelm run --help\n"),
        (
            ["run", "b", "--max-tokens", "x"],
            "error: invalid value for '-n' / '--max-tokens': 'x' is not a valid integer\n",
        ),
        (["run", "b", "--sead", "1"], "error: no such option '--sead'\nhint: did you mean --seed"),
        (["--foo"], "error: no such option '--foo'\nhint: see: edgelm --help\n"),
    ],
)
def test_wrong_usage_is_told_in_a_line_with_exit_code_2(edgelm, args, said):
    ended = edgelm(*args)
    assert (ended.code, ended.out) == (2, "")
    if "Did you mean" not in said:  # which click words differently from version to version
        assert ended.err.startswith(said)


def test_an_expected_error(edgelm, failing):
    failing(BundleError("model.onnx is\ntruncated", hint="copy it again"))
    assert edgelm("run") == (1, "", "error: model.onnx is truncated\nhint: copy it again\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError("division by zero"), "error: internal: ZeroDivisionError: division by zero\nhint: run again with EDGELM_DEBUG=1"),
        (MemoryError(), "error: not enough memory\nhint: "),
        (PermissionError(13, "Permission denied", "/some/file"), "error: /some/file: Permission denied\n"),
        (OSError(28, "No space left on device"), "error: No space left on device\n"),
        (ModuleNotFoundError("No module named 'numpy'"), "error: a library cannot be loaded: No module named 'numpy'\nhint: see: edgelm doctor\n"),
    ],
)  # fmt: skip
def test_an_unexpected_error_is_a_line_too(edgelm, failing, error, said):
    failing(error)
    ended = edgelm("run")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(said)
    assert "Traceback" not in ended.err


def test_a_traceback_on_request(edgelm, failing, monkeypatch):
    failing(ZeroDivisionError("division by zero"))
    monkeypatch.setenv("EDGELM_DEBUG", "1")
    ended = edgelm("run")
    assert ended.err.startswith("Traceback (most recent call last):\n")
    assert "\nerror: internal: ZeroDivisionError: division by zero\n" in ended.err


def test_ctrl_c_says_nothing(edgelm, failing):
    failing(KeyboardInterrupt())
    assert edgelm("run") == (130, "", "")


def test_ctrl_c_in_the_midst_of_an_import(edgelm, failing):
    error = ImportError("initialization failed")  # what pybind11 makes of it
    error.__cause__ = KeyboardInterrupt()
    failing(error)
    assert edgelm("run") == (130, "", "")


@pytest.mark.parametrize(("status", "code"), [(None, 0), (3, 3), ("gone", 1)])
def test_sys_exit_keeps_its_code(edgelm, failing, status, code):
    failing(SystemExit(status))
    assert edgelm("run").code == code


def test_a_warning_is_one_line(edgelm, monkeypatch):
    @click.command("run")
    def command() -> None:
        warnings.warn("this is\nslow", RuntimeWarning, stacklevel=1)

    monkeypatch.setattr(group.Commands, "get_command", lambda self, ctx, name: command)
    assert edgelm("run") == (0, "", "warning: this is slow\n")


@pytest.mark.parametrize("args", ["--help", "targets", "targets --json", "run --help"])
def test_a_closed_pipe_is_quiet(args):
    shell = f"set -o pipefail; {sys.executable} -m edgelm {args} | head -c 10"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=60)
    assert len(ended.stdout) == 10
    assert ended.stderr == b""
    assert ended.returncode in (0, 141)  # 0 where all of it was in the pipe before head left


def test_a_reader_who_leaves_at_once(start):
    process = start("-c", "import sys, time; time.sleep(0.5); from edgelm.cli import main; sys.exit(main(['targets']))")
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, b"")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")
def test_a_full_disk_behind_stdout():
    shell = f"{sys.executable} -m edgelm targets > /dev/full"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (1, b"error: No space left on device\n")


def test_a_closed_stdout(edgelm):
    shell = f"{sys.executable} -m edgelm targets >&-"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_ctrl_c_at_any_time_leaves_no_traceback(start):
    for seconds in (0.05, 0.15, 0.25):
        process = start("-c", "import sys; from edgelm.cli import main; sys.exit(main(['doctor', '--json']))")
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (130, 0, 1, -signal.SIGINT)  # the last while Python itself starts
        assert b"edgelm/cli" not in err


def test_shell_completion(start, monkeypatch):
    monkeypatch.setenv("_EDGELM_COMPLETE", "bash_source")
    ended = subprocess.run([sys.executable, "-m", "edgelm"], capture_output=True, timeout=60)
    assert b"_EDGELM_COMPLETE=bash_complete" in ended.stdout


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("export --target rp", ["plain,rpi-zero2w", "plain,rpi4", "plain,rpi5", "file,rp"]),
        ("export --target rpi4 --quant int", ["plain,int4", "plain,int8"]),
        ("export smollm2-1", ["plain,smollm2-135m", "plain,smollm2-1.7b", "file,smollm2-1"]),
        ("estimate bund", ["plain,bundles/mine", "file,bund"]),
        ("run bund", ["plain,bundles/mine", "dir,bund"]),
        ("chat --draft bund", ["plain,bundles/mine", "dir,bund"]),
        ("targets jet", ["plain,jetson-orin-nano", "file,jet"]),
        ("models smollm3", ["plain,smollm3-3b"]),
        ("bench my-bundle --on emulate:rpi5", ["plain,emulate:rpi5"]),
        ("sweep --target rpi4 --recipe int8-", ["plain,int8-smooth"]),
        ("results --calibrate rpi5", ["plain,rpi5", "file,rpi5"]),
        ("eval my-bundle --task ho", ["plain,home", "file,ho"]),
        ("rm x", []),
        ("tun", ["plain,tune"]),
    ],
)
def test_what_a_shell_completes(monkeypatch, capsys, tmp_path, words, found):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGELM_MODELS", str(tmp_path / "none"))
    (tmp_path / "bundles/mine").mkdir(parents=True)
    (tmp_path / "bundles/mine/manifest.json").write_text("{}")
    monkeypatch.setenv("_EDGELM_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"edgelm {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    assert main([]) == 0
    assert sorted(capsys.readouterr().out.split()) == sorted(found)


@pytest.mark.parametrize("kind", [EdgeLMError, BundleError, PromptCacheError])
def test_an_error_is_one_line_that_a_terminal_shows_whatever_it_names(failing, edgelm, kind):
    error = kind("a\nb is missing: \x1b]0;mine\x07 \ud800\u202e names it", hint="look\rinto it")
    assert str(error) == "a b is missing: \\x1b]0;mine\\x07 \\ud800\\u202e names it"
    assert error.hint == "look into it"
    assert len(str(kind("x" * 10**6))) < 5000
    assert str(kind("größer als 模型 😀")) == "größer als 模型 😀"
    failing(error)
    assert edgelm("run").err == f"error: {error}\nhint: look into it\n"


def test_a_file_where_a_folder_belongs(failing, edgelm):
    failing(FileExistsError(17, "File exists", "/home/x/.cache/edgelm"))
    ended = edgelm("run")
    assert ended.err == "error: /home/x/.cache/edgelm: a file is in the place of a folder\nhint: move it away\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (IsADirectoryError(21, "Is a directory", "/x/out.csv"), "/x/out.csv: a folder is in the place of a file"),
        (
            IsADirectoryError(21, "Is a directory", "/x/.out", None, "/x/out"),
            "/x/out: a folder is in the place of a file",
        ),
        (IsADirectoryError(21, "Is a directory"), "a folder is in the place of a file"),
    ],
)
def test_a_folder_where_a_file_belongs(failing, edgelm, error, said):
    failing(error)
    assert edgelm("run").err == f"error: {said}\nhint: move it away\n"
