"""A hub in memory on the loopback: as much of it as pushing and fetching named files needs."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub:
    """What the hub holds.

    Attributes:
        repos: The commits of each repository, newest last: their hashes and files.
        sizes: Sizes told in place of the true ones, by file name.
        asked: What was asked for, as "HEAD /user/repo/resolve/main/edit.json".
        endpoint: Its address.
    """

    def __init__(self) -> None:
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.sizes: dict[str, int] = {}
        self.asked: list[str] = []
        self.endpoint = ""

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Put files into a repository, as they are to be; returns the commit."""
        earlier = self.repos.setdefault(repo, [])
        told = f"{len(earlier)} {sorted(files.items())}".encode()
        earlier.append((hashlib.sha1(told).hexdigest(), dict(files)))
        return earlier[-1][0]

    def newest(self, repo: str) -> dict[str, bytes]:
        """The files of the newest commit."""
        return self.repos[repo][-1][1] if self.repos.get(repo) else {}


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """The hub, answering for the time of the context."""

    class Answers(BaseHTTPRequestHandler):
        def log_message(self, format: str, *_: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def answer_json(self, content: Any, status: int = 200) -> None:
            self.answer(status, json.dumps(content).encode(), Content_Type="application/json")

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                repo = "/".join(parts[2:4])
                files = hub.newest(repo)
                self.answer_json(
                    [
                        {"type": "file", "path": n, "size": len(c), "oid": "0"}
                        for n, c in files.items()
                    ]
                )
                return
            if parts[2:3] != ["resolve"]:
                self.answer(404)
                return
            repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
            commits = dict(hub.repos.get(repo, []))
            if not commits:
                self.answer(404, X_Error_Code="RepoNotFound")
            elif revision != "main" and revision not in commits:
                self.answer(404, X_Error_Code="RevisionNotFound")
            else:
                commit = [*commits][-1] if revision == "main" else revision
                content = commits[commit].get(name)
                if content is None:
                    self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
                    return
                told = {"X_Linked_Size": str(hub.sizes[name])} if name in hub.sizes else {}
                tag = f'"{hashlib.sha1(content).hexdigest()}"'
                self.answer(200, content, X_Repo_Commit=commit, ETag=tag, **told)

        def do_POST(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            parts = self.path.strip("/").split("/")
            if parts[1] == "validate-yaml":
                self.answer_json({})
            elif parts[1] == "repos":
                told = json.loads(sent)
                repo = f"{told['organization']}/{told['name']}"
                status = 409 if repo in hub.repos else 200
                hub.repos.setdefault(repo, [])
                self.answer_json({"url": f"{hub.endpoint}/{repo}"}, status)
            elif parts[4] == "preupload":
                names = [file["path"] for file in json.loads(sent)["files"]]
                told = {"uploadMode": "regular", "shouldIgnore": False}
                self.answer_json({"files": [{"path": name, **told} for name in names]})
            else:
                repo = "/".join(parts[2:4])
                files = dict(hub.newest(repo))
                for line in map(json.loads, sent.splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        files[line["value"]["path"]] = content
                    elif line["key"] == "deletedFile":
                        del files[line["value"]["path"]]
                oid = hub.commit(repo, files)
                self.answer_json(
                    {"commitUrl": f"{hub.endpoint}/{repo}/commit/{oid}", "commitOid": oid}
                )

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
