"""The app's command: ports, hosts, and what it says."""

import socket
from pathlib import Path

import pytest

from llmrl.web.serve import exposure, is_own
from tests.conftest import Command, refused


def test_a_port_that_is_taken_is_named(command: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(command("app", f"port={port}", "host=127.0.0.1"))
    assert line == f"llmrl app: port={port} can't be used (Address already in use): try port={port + 1}"


@pytest.mark.parametrize(
    ("word", "why"),
    [("port=0", "port=0 is out of range"), ("host=no.such.host.invalid", "is no address of this machine"),
     ("max_samples=3", "64"),     ("prot=1", "did you mean 'port'"), ("host='  '", "host is empty")],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(command: Command, word: str, why: str) -> None:
    assert why in refused(command("app", word))


def test_who_is_let_in_is_said() -> None:
    assert all(is_own(host) for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1"))
    assert not any(is_own(host) for host in ("0.0.0.0", "::", "192.168.1.4", "example.org"))
    assert exposure("localhost") == ""
    assert "without a password" in exposure("0.0.0.0")


def test_help_names_every_limit(command: Command, tmp_path: Path) -> None:
    done = command("app", "--help")
    assert done.returncode == 0
    assert "requests_per_minute" in done.stdout
    assert not list(tmp_path.iterdir())
