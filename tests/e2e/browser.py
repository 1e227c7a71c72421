"""Chromium without a driver: its DevTools protocol over one WebSocket."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from .conftest import wait_for

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
    "--window-size=1100,1200",
)
ANSWER_S = 30.0


class Browser:
    """One tab. `events` holds everything the browser reported, in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._session: str | None = None
        self._asked = 0
        self.events: list[dict[str, Any]] = []

    def open_tab(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Calls the browser, and keeps the events that arrive meanwhile."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": params}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        deadline = time.monotonic() + ANSWER_S
        while True:
            answer: dict[str, Any] = json.loads(self._socket.recv(max(0, deadline - time.monotonic())))
            if answer.get("id") == self._asked:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def value(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_until(self, script: str, seconds: float = 40) -> None:
        wait_for(lambda: self.value(script), seconds, script)

    def choose_file(self, selector: str, file: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def click(self, selector: str) -> None:
        """A real click with the mouse, in the middle of the element."""
        box = f"document.querySelector('{selector}').getBoundingClientRect().toJSON()"
        self.value(f"document.querySelector('{selector}').scrollIntoView({{block: 'center', behavior: 'instant'}})")
        at = self.value(box)
        place = {"x": at["x"] + at["width"] / 2, "y": at["y"] + at["height"] / 2, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **place)

    def screenshot(self, file: Path) -> None:
        file.parent.mkdir(exist_ok=True)
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """Uncaught exceptions, and errors and warnings on the console or in the log."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            level = params.get("type") or params.get("entry", {}).get("level")
            if event["method"] == "Runtime.exceptionThrown" or level in ("error", "warning", "assert"):
                found.append(json.dumps(params))
        return found

    def requested(self) -> list[str]:
        """Every requested address."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]


@contextmanager
def chromium(folder: Path, *flags: str) -> Iterator[Browser]:
    """A new browser with one tab; skips the test if none is installed. `flags` are added to `FLAGS`."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium here; install it: apt-get install chromium")
    said = folder / "chromium.log"
    profile = folder / "profile"
    with said.open("wb") as log:
        process = subprocess.Popen([program, *FLAGS, *flags, f"--user-data-dir={profile}"], stdout=log, stderr=log)
    try:
        port_file = profile / "DevToolsActivePort"
        wait_for(lambda: port_file.exists() and port_file.read_text().count("\n") == 1, 30, "Chromium")
        port, path = port_file.read_text().split()
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as socket:
            browser = Browser(socket)
            browser.open_tab()
            yield browser
            browser._session = None
            browser.call("Browser.close")
    finally:
        process.terminate()
        process.wait(20)
