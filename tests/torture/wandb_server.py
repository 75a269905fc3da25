"""A fake W&B server on the loopback address that answers wandb's requests, or misbehaves."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WELL, BLACK_HOLE, REFUSE, ERROR = "well", "black_hole", "refuse", "error"
SLOW, DIES, GARBAGE, DENIED = "slow", "dies", "garbage", "denied"
MODES = (WELL, BLACK_HOLE, REFUSE, ERROR, SLOW, DIES, GARBAGE, DENIED)
SLOW_S = 10.0
PAGE = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
PROJECT = {
    "__typename": "Project", "id": "P", "name": "p", "entityName": "us", "createdAt": "2026-01-01",
    "isBenchmark": False, "user": None,
}  # fmt: skip


class WandbServer:
    """Listens while the context is open. `rows` holds the history of each run, `runs` its metadata, by run id.

    `views` holds the workspaces and reports that were created.
    """

    def __init__(self, mode: str = WELL, *, answers: int = 6) -> None:
        """`answers`: number of requests that a server in mode DIES answers before it does."""
        assert mode in MODES, mode
        self.mode, self.answers = mode, answers
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.views: list[dict[str, Any]] = []
        self.requests = 0
        self.over = threading.Event()
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> WandbServer:
        if self.mode == REFUSE:
            self._http.server_close()
        else:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        if self.mode != REFUSE:
            self._http.shutdown()
            self._cut()
        self._http.server_close()

    def joined(self, connection: socket.socket) -> None:
        """Remember a connection, to shut it down later."""
        with self._lock:
            self._connections.append(connection)

    def counted(self) -> bool:
        """Count a request; return False if the server is dead by now."""
        with self._lock:
            self.requests += 1
            dead = self.mode == DIES and self.requests > self.answers
        if dead:
            self._cut()
        return not dead

    def answer(self, query: dict[str, Any]) -> dict[str, Any]:
        """Answer a GraphQL request of wandb."""
        text, asked = query["query"], query.get("variables") or {}
        if "upsertBucket" in text:
            project = {"id": "P", "name": "p", "entity": {"id": "E", "name": "us"}}
            name = asked.get("name") or "unnamed"
            with self._lock:
                self.runs.setdefault(name, {}).update({key: value for key, value in asked.items() if value is not None})
            bucket = {"id": name, "name": name, "displayName": name, "config": "{}", "sweepName": None}
            return {"upsertBucket": {"bucket": {**bucket, "project": project, "historyLineCount": 0}, "inserted": True}}
        if "createRunFiles" in text:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in asked.get("files", [])]
            return {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": files}}
        if "upsertView" in text:
            return {"upsertView": {"view": self._viewed(asked), "inserted": True}}
        if "GetProjects" in text:
            return {"models": {"pageInfo": PAGE, "edges": [{"node": PROJECT}]}}
        if "ProjectInternalId" in text:
            return {"project": {"id": "P", "internalId": "1"}}
        if "RunFragment" in text or "History" in text:
            return {"project": {"run": self._read(asked.get("name") or asked.get("run") or asked["runName"], asked)}}
        viewer = {"id": "V", "entity": "us", "username": "us", "flags": "{}", "teams": {"edges": []}}
        versions = {"cliVersionInfo": {"max_cli_version": "99"}, "latestLocalVersionInfo": None, "features": []}
        return {"viewer": viewer, "serverInfo": versions, "model": {"bucket": self._known(asked.get("name"))}}

    def take(self, path: str, body: dict[str, Any]) -> None:
        """Store the history rows of a file stream."""
        name = path.split("/")[-2]
        history = body.get("files", {}).get("wandb-history.jsonl")
        if history:
            with self._lock:
                rows = self.rows.setdefault(name, [])
                rows[history["offset"] :] = [json.loads(line) for line in history["content"]]

    def _viewed(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Store a workspace or a report, and return W&B's description of it."""
        with self._lock:
            self.views.append({**asked, "spec": json.loads(asked["spec"])})
            number = len(self.views)
        project = {"id": "P", "name": asked["projectName"], "entityName": asked["entityName"]}
        kept = {key: asked.get(key) for key in ("type", "name", "displayName", "description", "spec")}
        return {**kept, "id": f"view{number}", "project": project, "updatedAt": None}

    def _read(self, name: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """Return a run as the API describes it to a reader."""
        if name not in self.runs:
            return None
        rows, kept = self.rows.get(name, []), self.runs[name]
        first, last = asked.get("minStep", 0), asked.get("maxStep", len(rows) + 1)
        return {
            "id": name, "name": name, "displayName": kept.get("displayName", name), "projectId": 1, "tags": [],
            "state": "finished", "config": kept.get("config", "{}"), "summaryMetrics": "{}", "systemMetrics": "{}",
            "historyLineCount": len(rows), "historyKeys": {"lastStep": max((row["_step"] for row in rows), default=-1)},
            "user": {"name": "us", "username": "us"}, "parquetHistory": {"parquetUrls": [], "liveData": []},
            "history": [json.dumps(row) for row in rows if first <= row["_step"] < last],
        }  # fmt: skip

    def _known(self, name: str | None) -> dict[str, Any] | None:
        """Return a run as the API describes it to a client that resumes it."""
        rows = self.rows.get(name or "")
        if not rows:
            return None
        last = json.dumps(rows[-1])
        known = {"id": name, "name": name, "displayName": name, "summaryMetrics": last, "historyLineCount": len(rows)}
        empty = {"logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "config": "{}", "tags": [], "notes": ""}
        return {**empty, **known, "historyTail": json.dumps([last]), "wandbConfig": '{"t": 1}'}

    def _cut(self) -> None:
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: WandbServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors: connections are closed on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.owner.joined(self.connection)

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not owner.counted():
            self.close_connection = True
            return
        if owner.mode == BLACK_HOLE:
            owner.over.wait()
            return
        if owner.mode == SLOW and owner.over.wait(SLOW_S):
            return
        code = {ERROR: 500, DENIED: 401}.get(owner.mode, 200)
        answer = b"{}"
        if owner.mode == GARBAGE:
            answer = b'{"data": {"createRunFiles": null, "surprise": [1, 2'[: 10 + owner.requests * 7 % 40]
        elif code == 200:
            answer = json.dumps(self._answer(owner, body)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _answer(self, owner: WandbServer, body: bytes) -> dict[str, Any]:
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/graphql":
            return {"data": owner.answer(json.loads(body))}
        if self.path.endswith("file_stream"):
            owner.take(self.path, json.loads(body))
        return {}

    do_GET = do_PUT = do_POST


def wait_for(condition: Callable[[], bool], limit_s: float) -> bool:
    """Wait until `condition()` holds; return whether it did in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
