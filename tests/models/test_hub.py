"""The hub path for real: a small hub on loopback serves a model folder; it is downloaded once, and cached."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmrl.config import ASSETS
from tests.conftest import ROOT

COMMIT = "a" * 40
NAME = "somebody/small-model"


class Hub(BaseHTTPRequestHandler):
    """The few calls a download makes."""

    folder: Path
    asked: list[str]

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.answer(send_body=False)

    def do_GET(self) -> None:
        self.answer(send_body=True)

    def answer(self, send_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
        headers = {"X-Repo-Commit": COMMIT}
        if path.startswith(f"/api/models/{NAME}/tree"):
            tree = [
                {
                    "type": "file",
                    "path": each.name,
                    "size": each.stat().st_size,
                    "oid": hashlib.sha1(each.read_bytes()).hexdigest(),
                }
                for each in sorted(self.folder.iterdir())
            ]
            body = json.dumps(tree).encode()
            headers["Content-Type"] = "application/json"
        elif path.startswith(f"/api/models/{NAME}"):
            files = sorted(each.name for each in self.folder.iterdir())
            body = json.dumps({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}).encode()
            headers["Content-Type"] = "application/json"
        elif path.startswith(f"/{NAME}/resolve/") and (self.folder / Path(path).name).is_file():
            body = (self.folder / Path(path).name).read_bytes()
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send_body:
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, type[Hub]]]:
    import shutil

    folder = tmp_path / "served"
    shutil.copytree(ASSETS / "tiny", folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle nobody should fetch")
    (folder / "modeling_evil.py").write_text("raise SystemExit('ran code of a repository')\n", encoding="utf-8")
    handler = type("ServedHub", (Hub,), {"folder": folder, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()


def load(name: str, endpoint: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    program = (
        "from llmrl.models.load import load\nfrom llmrl.config import ModelConfig\nfrom llmrl.errors import UserError\n"
        f"try:\n    print(load(ModelConfig(name_or_path={name!r})).source)\n"
        "except UserError as error:\n    print('refused:', error)\n"
    )
    env = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120, check=False)


def test_a_model_is_downloaded_once_and_then_read_from_the_cache(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, handler = hub
    first = load(NAME, endpoint, tmp_path)
    assert COMMIT in first.stdout, first.stdout + first.stderr
    fetched = {path.name for path in Path(first.stdout.strip()).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= fetched
    assert not fetched & {"pytorch_model.bin", "modeling_evil.py"}
    handler.asked.clear()
    second = load(NAME, endpoint, tmp_path)
    assert second.stdout == first.stdout
    assert handler.asked == []


def test_a_name_that_does_not_exist_and_a_model_without_safetensors(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, handler = hub
    assert "refused: model 'somebody/else' does not exist on the hub" in load("somebody/else", endpoint, tmp_path).stdout
    (handler.folder / "model.safetensors").unlink()
    assert "refused: model 'somebody/small-model' has no .safetensors weights" in load(NAME, endpoint, tmp_path).stdout
    assert not [line for line in handler.asked if "pytorch_model" in line]
