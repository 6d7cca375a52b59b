"""The app's command: ports, hosts, and what it says."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from llmrl.errors import UserError
from llmrl.web.serve import _refuse_if_taken, exposure, is_own
from tests.browser import browser
from tests.conftest import ROOT, Command, refused


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


def test_pages_know_no_torch() -> None:
    """The worker's thread loads it, and no visitor waits for that to see a page."""
    code = "import sys; from llmrl.web import site; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_port_is_tried_where_streamlit_listens(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """On most machines localhost is ::1 first, but it listens at 127.0.0.1."""
    tried = []
    found = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: tried.append(args[2]) or found(*args, **more))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="can't be used"):
            _refuse_if_taken(host, taken.getsockname()[1])
    assert tried == [socket.AF_INET]


def test_streamlit_serves_it_too_to_this_machine_alone(tmp_path: Path) -> None:
    """`streamlit run llmrl/app.py`: its settings are those beside the file, wherever it is called from."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "llmrl" / "app.py"), f"--server.port={port}"]
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        for _ in range(600):
            try:
                assert urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=1).read() == b"ok"
                break
            except OSError:
                time.sleep(0.1)
        hosts = {local.rsplit(":", 1)[0] for local in _listening(port)}
        assert hosts
        assert hosts <= {"0100007F", "0" * 24 + "01000000"}
        with browser() as chromium:
            page = chromium.new_page()
            page.goto(f"http://localhost:{port}")
            page.get_by_role("button", name="Answer").wait_for(timeout=60_000)
    finally:
        process.terminate()
        process.wait(30)
    assert "gatherUsageStats" not in log.read_text(encoding="utf-8")
    assert "Traceback" not in log.read_text(encoding="utf-8")


def _listening(port: int) -> list[str]:
    """Local addresses, as the kernel writes them, at which somebody listens."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [line[1] for line in lines if line[3] == "0A" and int(line[1].rsplit(":", 1)[1], 16) == port]
