"""A headless Chromium, driven by its DevTools protocol, for tests of what a person would see."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
TIMEOUT = 60.0  # seconds for the browser to start, and for one answer
MEGABYTE = 2**20


class Browser:
    """One page of a Chromium. Use in a `with`.

    problems: what the console, the log and uncaught exceptions said since the last `open`.
    requests: addresses that were asked for since then.
    """

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self._command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--remote-debugging-port=0",
        ]  # fmt: skip
        self._open = ExitStack()
        self._numbers = itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Browser:
        with ExitStack() as opened:
            folder = opened.enter_context(
                tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # it may still be writing
            )
            process = subprocess.Popen(
                [*self._command, f"--user-data-dir={folder}", "about:blank"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            opened.callback(process.wait)
            opened.callback(process.kill)
            address = _address(process, Path(folder) / "DevToolsActivePort")
            self._socket = opened.enter_context(connect(address, max_size=64 * MEGABYTE))
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def open(self, file: Path, width: int = 1200, height: int = 800, dark: bool = False) -> None:
        """Show a file and wait until it has loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.problems.clear()
        self.requests.clear()
        self.call("Page.navigate", url=file.resolve().as_uri())
        loaded = "document.readyState === 'complete' && location.href !== 'about:blank'"
        deadline = time.monotonic() + TIMEOUT
        while not self.evaluate(loaded):
            assert time.monotonic() < deadline, f"{file} did not load"
            time.sleep(0.05)

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, or of the promise that it is."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """The whole page as a PNG."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(picture))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol to the page."""
        return self._call(method, self._session, **parameters)

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=TIMEOUT))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def _note(self, event: str | None, told: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.problems.append(str(told["exceptionDetails"]))
        elif event == "Log.entryAdded":
            self.problems.append(told["entry"]["text"])
        elif event == "Runtime.consoleAPICalled":
            self.problems.append(str(told["args"]))


def _address(process: subprocess.Popen, file: Path) -> str:
    """Of the browser's socket, which it writes into a file when it is up."""
    deadline = time.monotonic() + TIMEOUT
    while not (file.exists() and len(file.read_text().split()) == 2):
        assert process.poll() is None, "Chromium ended before it was up"
        assert time.monotonic() < deadline, "Chromium did not come up"
        time.sleep(0.1)
    port, path = file.read_text().split()
    return f"ws://127.0.0.1:{port}{path}"
