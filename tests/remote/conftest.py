"""Boards of an sshd on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ssh_server import Server, serving


@pytest.fixture
def sshd(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A board that nobody has used yet."""
    with serving(tmp_path_factory.mktemp("sshd"), {"board": ""}) as server:
        monkeypatch.setenv("EDGELM_SSH_CONFIG", str(server.config))
        yield server


@pytest.fixture(scope="module")
def used_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("sshd"), {"board": ""}) as server:
        yield server


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch, used_server: Server) -> Server:
    """A board on which the tests before have left their environment, which need not be set up again."""
    monkeypatch.setenv("EDGELM_SSH_CONFIG", str(used_server.config))
    return used_server
