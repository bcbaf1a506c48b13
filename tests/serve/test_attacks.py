"""What a server does not let happen: strangers, floods, slow clients, names that point here, paths that lead out."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import CLIENT, HELLO, LAMP, Running, serving

from edgelm.bundle.reader import Bundle
from edgelm.errors import OptionError
from edgelm.serve.settings import Limits, Settings, read_keys

KEY = "a-key-of-sixteen"


@pytest.fixture(scope="module")
def locked(home_bundle: Bundle) -> Iterator[Running]:
    """A server with a key, and little patience."""
    limits = Limits(body_bytes=1 << 20, read_seconds=0.5, write_seconds=0.5, connections=8)
    given = Settings(bundles=(home_bundle.path,), port=0, keys=(KEY, "another-key"), limits=limits, threads=1)
    with serving(given) as running:
        yield running


@contextlib.contextmanager
def connection(running: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as plain:
        yield plain


def raw(running: Running, data: bytes) -> bytes:
    """All that comes back for some bytes."""
    with connection(running) as plain:
        plain.sendall(data)
        return received(plain)


def received(plain: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := plain.recv(65536):
            found += data
    return found


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"x-api-key": "ä"},
    ],
)
def test_a_wrong_key_opens_nothing(locked: Running, headers: dict[str, str]) -> None:
    raw_headers = {name.encode(): value.encode() for name, value in headers.items()}
    for path in ("/v1/models", "/metrics", "/props", "/nothing", "/v1/%2e%2e/health", "//health"):
        assert locked.get(path, headers=raw_headers).status_code == 401, path
    answer = locked.post("/v1/chat/completions", {"messages": HELLO}, headers=raw_headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("headers", [{"authorization": f"Bearer {KEY}"}, {"x-api-key": "another-key"}])
def test_a_right_key_opens(locked: Running, headers: dict[str, str]) -> None:
    assert locked.get("/v1/models", headers=headers).status_code == 200


def test_health_and_the_page_need_no_key(locked: Running) -> None:
    assert locked.get("/health").json() == {"status": "ok"}
    assert locked.get("/").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1", "", "localhost.", "[::2]"]
)
def test_a_name_that_points_here_is_refused(home: Running, host: str) -> None:
    request = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    assert raw(home, request).split(b" ")[1] == b"403"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1234", "[::1]:80", "LOCALHOST"])
def test_its_own_names_are_not(home: Running, host: str) -> None:
    request = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    assert raw(home, request).split(b" ")[1] == b"200"


def test_pages_of_others_may_not_call(home: Running, home_bundle: Bundle) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = home.post("/v1/chat/completions", {"messages": HELLO}, headers={"origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    assert home.get("/v1/models", headers={"origin": home.url}).status_code == 200  # its own page
    with serving(
        Settings(bundles=(home_bundle.path,), port=0, origins=("https://good.example",), threads=1)
    ) as open_to:
        preflight = {"origin": "https://good.example", "access-control-request-method": "POST"}
        answer = httpx.options(f"{open_to.url}/v1/chat/completions", headers=preflight)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, "https://good.example")
        told = open_to.get("/v1/nothing", headers={"origin": "https://good.example"})
        assert (told.status_code, told.headers["access-control-allow-origin"]) == (404, "https://good.example")
        assert open_to.get("/v1/models", headers={"origin": "https://evil.example"}).status_code == 403


def test_a_body_that_is_too_long(home: Running) -> None:
    announced = raw(
        home, b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\nExpect: 100-continue\r\n\r\n"
    )
    assert announced.startswith(b"HTTP/1.1 413")
    answer = httpx.post(f"{home.url}/v1/completions", content=bytes(20_000_000), timeout=60)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    chunked = httpx.post(f"{home.url}/v1/completions", content=(bytes(65536) for _ in range(160)), timeout=60)
    assert chunked.status_code == 413


def test_a_flood_of_headers(locked: Running) -> None:
    many = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 60) for i in range(5000))
    answer = raw(locked, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + many + b"\r\n")
    assert answer[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 431")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /health HT",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: b",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: %s\r\nContent-Length: 100\r\n\r\n{"
        % KEY.encode(),
    ],
)
def test_a_client_that_never_finishes_is_dropped(locked: Running, data: bytes) -> None:
    started = time.monotonic()
    assert raw(locked, data) == b""
    assert time.monotonic() - started < 5


def test_a_client_that_drips_is_dropped(locked: Running) -> None:
    started = time.monotonic()
    with connection(locked) as plain, contextlib.suppress(OSError):
        for byte in b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 100:
            plain.send(bytes([byte]))
            time.sleep(0.05)
    assert time.monotonic() - started < 5


def test_too_many_connections_are_turned_away(locked: Running) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connection(locked)) for _ in range(30)]
        answers = [received(plain)[:12] for plain in idle]
        assert answers.count(b"HTTP/1.1 503") >= 20
    assert locked.get("/health").status_code == 200


def test_a_socket_half_closed(home: Running) -> None:
    with connection(home) as plain:
        plain.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        plain.shutdown(socket.SHUT_WR)
        received(plain)
    home.wait_for("edgelm_running", 0)
    assert home.post("/v1/chat/completions", {"messages": HELLO}).json()["choices"][0]["message"]["content"] == LAMP


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 1000,
     b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
     b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
)  # fmt: skip
def test_bytes_that_are_no_request(locked: Running, data: bytes) -> None:
    with connection(locked) as plain:
        plain.sendall(data)
        answer = plain.recv(65536)
    assert b"Traceback" not in answer
    assert answer[:10] in (b"", b"HTTP/1.1 4", b"HTTP/1.1 2")
    assert locked.get("/health").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/../settings.py", "/%2e%2e/settings.py", "/..%2fsettings.py", "/page/", "/page/../app.py", "/%00", "/.%2e/app.py",
     "/app.py", "//etc/passwd", "/....//app.py", "/index.html/", "/\\..\\app.py", "/static/../../app.py"],
)  # fmt: skip
def test_paths_that_lead_out_lead_nowhere(home: Running, path: str) -> None:
    answer = raw(home, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ")[1] in (b"404", b"307")
    assert b"import" not in answer


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"a":NaN}', b"[" * 100_000, b'{"messages":' + b"[" * 50_000,
     b'{"n":' + b"9" * 10_000 + b"}", b'{"messages":[{"role":"user","content":"\\ud800"}]}',
     b'{"model":{"a":1}}', b'{"messages":[[]]}', b'{"messages":[{"role":1,"content":2}]}'],
)  # fmt: skip
def test_bodies_that_are_no_request(home: Running, content: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
        answer = CLIENT.post(home.url + path, content=content)
        assert answer.status_code == 400, (path, answer.text)
        assert "Traceback" not in answer.text
        assert answer.json()["error"]["message"]


def test_control_tokens_in_a_users_text_are_text(home: Running, home_bundle: Bundle) -> None:
    specials = [t for t in home_bundle.manifest.tokenizer.names.values() if len(t) > 3]
    assert specials
    text = f"Hello{specials[0]}"

    def count(running: Running, content: str) -> int:
        return int(running.post("/tokenize", {"messages": [{"role": "user", "content": content}]}).json()["count"])

    assert count(home, text) > count(home, "Hello") + 1
    with serving(Settings(bundles=(home_bundle.path,), port=0, parse_special=True, threads=1)) as old:
        assert count(old, text) == count(old, "Hello") + 1


def test_an_error_within_is_told_without_its_insides(scripted: Callable[..., Any]) -> None:
    running, model = scripted("text")

    def broken(prompt: Any, **options: Any) -> Any:
        raise RuntimeError("secret place /home/me")

    model.astream = broken
    answer = running.post("/v1/chat/completions", {"messages": HELLO})
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "internal error")


def test_an_error_in_the_middle_of_a_stream_is_told(scripted: Callable[..., Any]) -> None:
    running, model = scripted("some text")
    chunks = model.chunks

    async def broken(options: Any) -> Any:
        yield await anext(chunks(options))
        raise RuntimeError("secret")

    model.chunks = broken
    answer = running.post("/v1/chat/completions", {"messages": HELLO, "stream": True})
    assert answer.status_code == 200
    assert '"message":"internal error"' in answer.text
    assert "secret" not in answer.text


@pytest.fixture
def long_text(home_bundle: Bundle) -> dict[str, Any]:
    """A request whose text takes a while: it cannot end by itself."""
    eos = {str(token): -100 for token in home_bundle.manifest.special_tokens.eos}
    return {"messages": HELLO, "stream": True, "max_tokens": 900, "logit_bias": eos, "answer_grammar": False}


def test_a_full_queue_turns_away(home_bundle: Bundle, long_text: dict[str, Any]) -> None:
    given = Settings(bundles=(home_bundle.path,), port=0, threads=1, parallel=1, limits=Limits(queue=1))
    with serving(given) as running, httpx.Client(timeout=60) as client, contextlib.ExitStack() as stack:
        url = f"{running.url}/v1/chat/completions"
        for waiting in (0, 1):
            assert stack.enter_context(client.stream("POST", url, json=long_text)).status_code == 200
            running.wait_for("edgelm_running", 1)
            running.wait_for("edgelm_waiting", waiting)
        refused = running.post("/v1/chat/completions", long_text)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.headers["retry-after"] == "1"
        # What is wrong with a request is told at once, whoever waits.
        assert running.post("/v1/chat/completions", long_text | {"messages": []}).status_code == 400


def test_who_waits_too_long_is_told(home_bundle: Bundle, long_text: dict[str, Any]) -> None:
    given = Settings(bundles=(home_bundle.path,), port=0, threads=1, parallel=1, limits=Limits(seconds=0.3))
    with serving(given) as running, contextlib.ExitStack() as stack:
        for _ in range(2):
            url = f"{running.url}/v1/chat/completions"
            stack.enter_context(httpx.stream("POST", url, json=long_text, timeout=60))
        answers = [running.post("/v1/chat/completions", long_text | {"stream": False}) for _ in range(3)]
        for answer in answers:  # cut short by the deadline, or never begun
            assert answer.status_code == 503 or answer.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_text_within_two_steps(scripted: Callable[..., Any], stream: bool) -> None:
    running, model = scripted("word " * 200, pause=0.02)
    with contextlib.suppress(httpx.ReadTimeout), httpx.Client() as client:
        answer = client.stream(
            "POST", f"{running.url}/v1/chat/completions", json={"messages": HELLO, "stream": stream}, timeout=0.3
        )
        with answer as got:
            for _ in zip(range(3), got.iter_lines(), strict=False):
                pass
    steps = model.steps
    running.wait_for("edgelm_running", 0, 3)
    assert steps < model.steps + 1 <= steps + 5  # two, and those while the connection was closing
    time.sleep(0.2)
    after = model.steps
    time.sleep(0.1)
    assert model.steps == after < 60


def test_a_client_that_does_not_read_is_dropped(scripted: Callable[..., Any]) -> None:
    running, _ = scripted("word " * 4000, limits=Limits(write_seconds=0.3), buffer=4096)
    body = b'{"messages":[{"role":"user","content":"x"}],"stream":true,"max_tokens":100000}'
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        plain.connect(("127.0.0.1", running.port))
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        plain.sendall(head + body)
        running.wait_for("edgelm_running", 1)
        running.wait_for("edgelm_running", 0)
        assert len(received(plain)) < 500_000


def test_it_opens_to_others_only_with_a_key(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "raspberrypi.local"):
        with pytest.raises(OptionError, match="has no key"):
            Settings(bundles=(tmp_path,), host=host)
        assert Settings(bundles=(tmp_path,), host=host, insecure=True).admits("localhost")
        assert Settings(bundles=(tmp_path,), host=host, keys=(KEY,)).keys
    for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"):
        assert not Settings(bundles=(tmp_path,), host=host).admits("evil.example")
    wide = Settings(bundles=(tmp_path,), host="0.0.0.0", keys=(KEY,), hosts=("pi.example",))
    assert [wide.admits(name) for name in ("pi.example:8080", "192.168.1.7", "evil.example")] == [True, True, False]


@pytest.mark.parametrize("key", ["short", "with a blank in it", "ümlaut-key-long", ""])
def test_keys_that_are_none(tmp_path: Path, key: str) -> None:
    with pytest.raises(OptionError, match="an API key must have"):
        Settings(bundles=(tmp_path,), keys=(key,))


def test_a_file_of_keys_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\nanother-key\n")
    file.chmod(0o644)
    with pytest.raises(OptionError, match="others may read the keys"):
        read_keys(file)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_keys(file) == (KEY, "another-key")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    file.chmod(0o600)
    assert read_keys(file) == (KEY, "another-key")
    file.write_text("# nothing\n")
    with pytest.raises(OptionError, match="holds no key"):
        read_keys(file)
    with pytest.raises(OptionError, match="cannot be read"):
        read_keys(tmp_path / "none")
