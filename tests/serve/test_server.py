"""Starting, listening, loading, unloading and ending."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import CLIENT, HELLO, LAMP, Running, serving

from edgelm.bundle.reader import Bundle
from edgelm.cli import main
from edgelm.errors import OptionError
from edgelm.serve.errors import ApiError
from edgelm.serve.page_files import page_routes
from edgelm.serve.pool import Pool, Served
from edgelm.serve.server import listen
from edgelm.serve.settings import Limits, Settings


def test_a_unix_socket_is_for_its_user_and_group(home_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "edgelm.sock"
    with serving(Settings(bundles=(home_bundle.path,), socket=path, threads=1)):
        assert path.stat().st_mode & 0o777 == 0o660
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            answer = client.post("http://anything/v1/chat/completions", json={"messages": HELLO}, timeout=60)
            assert answer.json()["choices"][0]["message"]["content"] == LAMP
        with pytest.raises(OptionError, match="in use"):
            listen(Settings(bundles=(home_bundle.path,), socket=path))
    left = socket.socket(socket.AF_UNIX)
    path.unlink(missing_ok=True)
    left.bind(str(path))  # as a server leaves it that was killed
    left.close()
    listening, address = listen(Settings(bundles=(home_bundle.path,), socket=path))
    listening.close()
    assert address == f"unix:{path}"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OptionError, match="--socket"):
        listen(Settings(bundles=(home_bundle.path,), socket=tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("kind", ["file", "FIFO", "dangling link", "circle"])
def test_prompts_are_kept_in_a_folder(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "prompts"
    if kind == "file":
        path.write_bytes(b"")
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere" if kind == "dangling link" else path.name)
    with pytest.raises(OptionError, match="is no folder"):
        Settings(bundles=(tmp_path,), prompt_cache=path)
    assert Settings(bundles=(tmp_path,), prompt_cache=tmp_path / "new").prompt_cache


def test_a_port_that_is_taken_is_told(home: Running, home_bundle: Bundle) -> None:
    with pytest.raises(OptionError, match=f"cannot listen on 127.0.0.1:{home.port}") as caught:
        listen(Settings(bundles=(home_bundle.path,), port=home.port))
    assert "--port" in str(caught.value.hint)
    with pytest.raises(OptionError, match="nowhere"):
        listen(Settings(bundles=(home_bundle.path,), host="nowhere.invalid", insecure=True))


def test_several_bundles_and_what_they_are_called(home_bundle: Bundle, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(home_bundle.path, other)
    given = Settings(bundles=(home_bundle.path, other), aliases=("lamps",), port=0, threads=1, idle_seconds=0.05)
    with serving(given) as running:
        props = running.get("/props").json()["models"]
        assert [(entry["id"], entry["context"], entry["target"]) for entry in props] == [
            ("lamps", 1024, "x86-64"),
            ("other", 1024, "x86-64"),
        ]
        assert running.metric('edgelm_model_loaded{model="other"}') == 0
        answer = running.post("/v1/chat/completions", {"messages": HELLO, "model": "other"}).json()
        assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("other", LAMP)
        running.wait_for('edgelm_model_loaded{model="other"}', 0)  # nobody asked for it any more
    with (
        pytest.raises(OptionError, match="two bundles are called 'a'"),
        serving(Settings(bundles=(home_bundle.path, other), aliases=("a", "a"), port=0)),
    ):
        pass


def test_a_model_makes_room_for_another() -> None:
    class Model:
        closed = False

        def close(self) -> None:
            self.closed = True

    class Described:
        class manifest:
            class memory:
                total_bytes = 60_000_000

        path = Path()

    async def scenario() -> None:
        models = [Served(name, Described()) for name in "abc"]  # type: ignore[arg-type]
        left: list[float | None] = []

        def load(path: Path, most: float | None) -> Any:
            left.append(most)
            return Model()

        with ThreadPoolExecutor(2) as executor:
            pool = Pool(models, load, executor, max_memory_mb=130)
            a, b, c = models
            async with pool.using(a):
                pass
            async with pool.using(b):
                first = a.lm
                async with pool.using(c):
                    assert (a.lm, first.closed) == (None, True)  # type: ignore[union-attr]
                    assert b.lm is not None
                    with pytest.raises(ApiError, match="leave no memory") as caught:
                        async with pool.using(a):
                            pass
                    assert caught.value.status == 503
            async with pool.using(a):
                assert b.lm is None or c.lm is None
            assert left == [130.0, 70.0, 70.0, 70.0]
            await pool.close()
            assert all(model.lm is None for model in models)

    asyncio.run(scenario())


def test_running_texts_may_end_after_a_shutdown_and_long_ones_are_cut(scripted: Callable[..., Any]) -> None:
    running, model = scripted("word " * 400, pause=0.01, limits=Limits(shutdown_seconds=0.5))
    texts: list[str] = []

    def ask() -> None:
        texts.append(running.post("/v1/chat/completions", {"messages": HELLO, "stream": True}).text)

    thread = threading.Thread(target=ask)
    thread.start()
    running.wait_for("edgelm_running", 1)
    running.server.should_exit = True
    thread.join(20)
    assert texts[0].endswith("data: [DONE]\n\n")  # it was told that it ended
    assert 0 < model.steps < 400
    with pytest.raises(httpx.ConnectError):
        running.get("/health")


def test_the_command_serves_tells_systemd_and_ends_at_a_signal(home_bundle: Bundle, tmp_path: Path) -> None:
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tmp_path / "notify"))
    told.settimeout(60)
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-sixteen\n")
    keys.chmod(0o600)
    command = [
        sys.executable,
        "-m",
        "edgelm",
        "serve",
        home_bundle.path,
        "--port",
        "0",
        "-t",
        "1",
        "--api-key-file",
        keys,
    ]
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, env=environment, text=True) as process:
        try:
            assert told.recv(100) == b"READY=1"
            assert process.stderr is not None
            lines = [process.stderr.readline(), process.stderr.readline()]
            assert "loaded home in" in lines[0]
            assert lines[1].startswith("note: serving home on http://127.0.0.1:")
            url = lines[1].split(" on ")[1].strip()
            answer = CLIENT.post(
                f"{url}/v1/chat/completions",
                json={"messages": HELLO},
                headers={"authorization": "Bearer a-key-of-sixteen"},
            )
            assert answer.json()["choices"][0]["message"]["content"] == LAMP
            assert told.recv(100) == b"WATCHDOG=1"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--host", "0.0.0.0"], "it has no key"),
        (["--cors", "example.org"], "is no origin"),
        (["--alias", "a", "--alias", "b"], "2 aliases for 1 bundles"),
        (["--api-key-file", "/nowhere/at/all"], "cannot be read"),
        (["--api-key", "short"], "an API key must have"),
        (["--install-unit", "--api-key", "a-key-of-sixteen"], "no place for a key"),
        (["--install-unit", "--host", "0.0.0.0"], "it has no key"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    home_bundle: Bundle, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["serve", str(home_bundle.path), *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error


def test_a_folder_that_is_no_bundle_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_without_its_packages_it_says_what_to_install(
    home_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert main(["serve", str(home_bundle.path)]) == 1
    assert "hint: pip install 'edgelm[serve]'" in capsys.readouterr().err
    assert main(["serve", str(home_bundle.path), "--install-unit"]) == 0
    assert "warning: the service cannot start before this: pip install 'edgelm[serve]'" in capsys.readouterr().err


def test_importing_edgelm_imports_no_server() -> None:
    code = "import sys, edgelm, edgelm.cli.group, edgelm.cli.serve; print([m for m in ('starlette', 'uvicorn', 'asyncio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_unit_is_what_systemd_takes(
    home_bundle: Bundle, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--host", "0.0.0.0", "--api-key-file", "/etc/edgelm/keys", "--max-memory", "800", "--alias", "50% off $1"]
    assert main(["serve", str(home_bundle.path), *words, "--install-unit"]) == 0
    unit = capsys.readouterr().out
    (start,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert start.startswith("ExecStart=/")
    assert f"serve {home_bundle.path}" in start
    assert "--alias '50%% off $$1'" in start
    assert start.endswith("--max-memory 800 --api-key-file ${CREDENTIALS_DIRECTORY}/keys")
    for line in (
        "Type=notify",
        "LoadCredential=keys:/etc/edgelm/keys",
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "MemoryMax=1000M",
    ):
        assert line in unit.splitlines()
    tool = shutil.which("systemd-analyze")
    if tool is not None:
        file = tmp_path / "edgelm.service"
        file.write_text(unit)
        done = subprocess.run([tool, "verify", file], capture_output=True, text=True, check=False)
        assert "edgelm.service" not in done.stderr.replace("Command /", "")


def test_the_page_is_served_under_a_strict_policy(home: Running) -> None:
    answer = home.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert home.get("/", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_files_of_the_page_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    for name in ("index.html", "app.js", "lib/x.css", ".hidden", "_private.py"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link.js").symlink_to("/etc/passwd")
    assert [route.path for route in page_routes(tmp_path)] == ["/", "/app.js", "/index.html", "/lib/x.css"]


def test_metrics_are_prometheus_text(home: Running) -> None:
    home.post("/v1/chat/completions", {"messages": HELLO})
    home.get("/no%22such%0Apath")
    lines = home.get("/metrics").text.splitlines()
    names = {line.split()[2] for line in lines if line.startswith("# TYPE ")}
    for line in lines:
        if not line.startswith("#"):
            head, _, value = line.rpartition(" ")
            float(value)
            assert head.partition("{")[0].removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") in names
    assert home.metric("edgelm_completion_tokens_total") >= 9
    assert home.metric('edgelm_requests_total{path="other",status="404"}') >= 1
    assert home.metric("edgelm_time_to_first_token_seconds_count") >= 1


def test_every_text_is_as_alone_whoever_leaves(home: Running) -> None:
    """32 clients at once, some of which leave in the middle."""
    import random

    rooms = ["kitchen", "bathroom", "hall", "bedroom", "attic", "cellar", "garden", "office"]
    prompts = [f"turn on the lamp in the {room}" for room in rooms]

    def ask(prompt: str) -> str:
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 48}
        return str(home.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"])

    alone = {prompt: ask(prompt) for prompt in prompts}
    wrong: list[tuple[str, str]] = []

    def client(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(2):
            prompt = chance.choice(prompts)
            if chance.random() < 0.3:
                leave(home, prompt, chance.random() * 0.05)
            elif (text := ask(prompt)) != alone[prompt]:
                wrong.append((prompt, text))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong
    home.wait_for("edgelm_running", 0)
    home.wait_for("edgelm_waiting", 0)


def leave(running: Running, prompt: str, seconds: float) -> None:
    """Ask, and be gone after a while."""
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", running.port)) as plain:
        plain.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        plain.sendall(body)
        time.sleep(seconds)
