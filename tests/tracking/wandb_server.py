"""A server that answers the few calls which a real, online run of Weights & Biases makes, and remembers what arrived.

As a program: `python -m tests.tracking.wandb_server PORT FOLDER [--hang AFTER | --fail]`. What arrived is in FOLDER/calls.jsonl
and FOLDER/streams.jsonl, files that were uploaded in FOLDER/files/.
"""

import argparse
import base64
import gzip
import json
import re
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, port: int, folder: Path, hang_after: int | None = None, fail: bool = False, sweep: str = "",
        orders: Sequence[dict[str, Any]] = (),
    ) -> None:  # fmt: skip
        super().__init__(("127.0.0.1", port), Handler)
        self.folder, self.hang_after, self.fail, self.calls = folder, hang_after, fail, 0
        self.sweep, self.orders = sweep, list(orders)  # the YAML of a sweep, and what its agents are told to run
        self.ended, self.wanted = 0, len(orders)
        self.artifacts: dict[str, dict[str, Any]] = {}
        (folder / "files").mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def remember(self, name: str, what: dict[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        """Nothing on the terminal."""

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body

    def _answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _misbehaves(self) -> bool:
        self.server.calls += 1
        if self.server.hang_after is not None and self.server.calls > self.server.hang_after:
            time.sleep(3600)
        if self.server.fail:
            self._answer({"errors": [{"message": "out of order"}]}, 500)
        return self.server.fail

    def do_POST(self) -> None:
        body = self._body()
        if self._misbehaves():
            return
        if self.path.endswith("/graphql"):
            self._answer({"data": self._graphql(json.loads(body))})
        else:
            if self.path.endswith("/file_stream"):
                self.server.ended += "exitcode" in json.loads(body)
                self.server.remember("streams.jsonl", {"run": self.path.split("/")[-2], **json.loads(body)})
            self._answer({})

    def do_PUT(self) -> None:
        body = self._body()
        if not self._misbehaves():
            path = self.server.folder / "files" / re.sub(r"\W+", "_", self.path)
            path.write_bytes(body)
            self._answer({})

    def do_GET(self) -> None:
        if not self._misbehaves():
            self._answer({})

    def _graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        query, told = request["query"], request.get("variables") or {}
        told = told.get("input", told)
        name = re.search(r"(?:query|mutation)\s+(\w+)", query)
        called = name.group(1) if name else ""
        self.server.remember("calls.jsonl", {"call": called, "variables": told})
        url = self.server.url
        if called == "UpsertBucket":
            project = {"id": "p", "name": told.get("project") or "llmrl", "entity": {"id": "e", "name": "somebody"}}
            bucket = {
                "id": told["name"], "name": told["name"], "displayName": told.get("displayName"), "historyLineCount": 0,
                "summaryMetrics": "{}", "config": told.get("config") or "{}", "project": project, "sweepName": "",
            }  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if called == "RunResumeStatus":
            return {
                "model": {"id": "p", "name": told.get("project"), "entity": {"id": "e", "name": "somebody"}, "bucket": None}
            }
        if called == "CreateRunFiles":
            files = [{"name": each, "uploadUrl": f"{url}/put/{told['run']}/{each}"} for each in told["files"]]
            return {"createRunFiles": {"runID": told["run"], "uploadHeaders": [], "files": files}}
        if called == "Viewer":
            return {"viewer": {"id": "v", "username": "somebody", "entity": "somebody", "flags": "{}", "teams": {"edges": []}}}
        if "internalId" in query and called not in ("ArtifactByID", "ArtifactType"):
            return {"project": {"internalId": "cA=="}}
        if called == "ArtifactType":
            return {"project": None}
        if called == "SweepWithRuns":
            return {
                "project": {"sweep": {"id": "sw", "name": told["sweep"], "config": self.server.sweep, "runs": {"edges": []}}}
            }
        if called == "CreateAgent":
            return {"createAgent": {"agent": {"id": f"agent-{self.client_address[1]}"}}}
        if called == "Heartbeat":  # an agent that is told to exit kills what it runs
            commands = [self.server.orders.pop(0)] if self.server.orders else []
            if not commands and self.server.ended == self.server.wanted:
                commands = [{"type": "exit", "id": "0"}]
            return {"agentHeartbeat": {"agent": {"id": told["id"]}, "commands": json.dumps(commands)}}
        return self._artifacts(called, told)

    def _artifacts(self, called: str, told: dict[str, Any]) -> dict[str, Any]:
        url = self.server.url
        if called == "CreateArtifact":
            number = base64.urlsafe_b64encode(f"artifact-{told.get('digest')}".encode()).decode()
            self.server.artifacts[number] = told
            sequence = {"id": "s", "name": told.get("artifactCollectionName"), "latestArtifact": None}
            return {"createArtifact": {"artifact": {"id": number, "state": "PENDING", "artifactSequence": sequence}}}
        if called == "CreateArtifactManifest":
            file = {"id": "f", "uploadUrl": f"{url}/put/manifest/{told.get('artifactID')}", "uploadHeaders": []}
            return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        if called == "UpdateArtifactManifest":
            file = {"id": "f", "uploadUrl": f"{url}/put/manifest/{told.get('artifactManifestID')}", "uploadHeaders": []}
            return {"updateArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        if called == "CreateArtifactFiles":
            nodes = [
                {
                    "id": "f", "name": each["name"], "displayName": each["name"],
                    "uploadUrl": f"{url}/put/artifact/{each['name']}",
                    "uploadHeaders": [], "uploadMultipartUrls": None, "storagePath": "s",
                    "artifact": {"id": each.get("artifactID")},
                }
                for each in told["artifactFiles"]
            ]  # fmt: skip
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if called == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": told.get("artifactID"), "digest": "d"}}}
        if called == "UseArtifact":
            return {"useArtifact": {"artifact": {"id": told.get("artifactID"), "digest": "d"}}}
        if called == "ArtifactByID":
            known = self.server.artifacts[told["id"]]
            project = {"id": "p", "internalId": "p", "name": "llmrl", "entity": {"id": "e", "name": "somebody"}}
            collection = {
                "__typename": "ArtifactSequence", "id": "s", "name": known["artifactCollectionName"], "project": project,
            }  # fmt: skip
            return {
                "artifact": {
                    "__typename": "Artifact", "id": told["id"], "artifactSequence": collection, "versionIndex": 0,
                    "artifactType": {"name": known["artifactTypeName"]}, "description": None, "metadata": "{}",
                    "ttlDurationSeconds": -2, "ttlIsInherited": False, "tags": [], "historyStep": None, "state": "COMMITTED",
                    "size": 1, "digest": "d", "commitHash": None, "fileCount": 1, "createdAt": "2026-01-01T00:00:00",
                    "updatedAt": None, "aliases": [],
                }
            }  # fmt: skip
        return {}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hang", type=int, metavar="AFTER", help="answer so many calls, then none")
    parser.add_argument("--fail", action="store_true", help="answer every call with an error")
    args = parser.parse_args()
    Server(args.port, args.folder, args.hang, args.fail).serve_forever()


if __name__ == "__main__":
    main()
