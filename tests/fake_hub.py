"""A stand-in for the Hugging Face hub: its HTTP interface for models, as far as it is used here."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from huggingface_hub import ModelCard

TOKEN = "hf_stand_in"


class FakeHub:
    """Repositories in memory.

    commits: files of each commit by its hash. refs: hash of each branch and tag of a repository.
    requests: "METHOD path" of all that was asked.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.refs: dict[str, dict[str, str]] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.url = ""

    def commit(self, repo: str, files: dict[str, bytes], ref: str = "main") -> str:
        """Add or replace files of a branch, and return the hash of the commit."""
        refs = self.refs.setdefault(repo, {})
        whole = {**self.commits.get(refs.get(ref, ""), {}), **files}
        sha = hashlib.sha1(repr((repo, len(self.commits), sorted(whole))).encode()).hexdigest()
        self.commits[sha] = whole
        refs[ref] = sha
        return sha

    @contextmanager
    def serving(self) -> Iterator[FakeHub]:
        """Answer at `url`."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def reply(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code: str) -> None:
        self.reply({"error": code}, 404, X_Error_Code=code, X_Error_Message=code)

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Hash and files of a revision; None, and the reply is sent, where there is none."""
        if repo not in self.hub.refs:
            return self.refuse("RepoNotFound")  # type: ignore[func-returns-value]
        sha = self.hub.refs[repo].get(unquote(revision), revision)
        if sha not in self.hub.commits:
            return self.refuse("RevisionNotFound")  # type: ignore[func-returns-value]
        return sha, self.hub.commits[sha]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            if found := self.files(match[1], match[2] or "main"):
                siblings = [{"rfilename": name} for name in found[1]]
                self.reply({"id": match[1], "sha": found[0], "siblings": siblings})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            if found := self.files(match[1], match[2]):
                self.reply([_entry(name, content) for name, content in found[1].items()])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            found = self.files(match[1], match[2])
            if found and match[3] not in found[1]:
                self.refuse("EntryNotFound")
            elif found:
                content = found[1][match[3]]
                etag = _entry(match[3], content)["oid"]
                self.reply(content, ETag=f'"{etag}"', X_Repo_Commit=found[0])
        else:
            self.refuse("EntryNotFound")

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.large[hashlib.sha256(content).hexdigest()] = content
        self.reply(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        self.hub.requests.append(f"POST {path}")
        if path == "/api/validate-yaml":
            ModelCard(json.loads(body)["content"])
            return self.reply({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            status = 409 if repo in self.hub.refs else 200
            self.hub.refs.setdefault(repo, {})
            return self.reply({"url": f"{self.hub.url}/{repo}"}, status)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", path):
            return self.reply(
                {"files": [_upload_mode(f["path"]) for f in json.loads(body)["files"]]}
            )
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.reply({"objects": [self.action(o) for o in json.loads(body)["objects"]]})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path)
        assert match, path
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        sha = self.hub.commit(match[1], files, match[2])
        url = f"{self.hub.url}/{match[1]}/commit/{sha}"
        return self.reply({"commitUrl": url, "commitOid": sha, "success": True})

    def action(self, asked: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.hub.url}/upload/{asked['oid']}"
        return {**asked, "actions": {"upload": {"href": href}}}


def _upload_mode(path: str) -> dict[str, Any]:
    mode = "lfs" if path.endswith(".safetensors") else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False}


def _entry(name: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"type": "file", "path": name, "size": len(content), "oid": oid}
