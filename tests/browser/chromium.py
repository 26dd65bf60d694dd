"""A headless browser driven by its devtools protocol over a pipe. Pages run no script unless `scripts(True)`."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(os.environ.get("FEDHELP_AXE", Path(__file__).parents[2] / "build" / "axe.min.js"))  # .ci/run fetches it


class Browser:
    """One tab; `loaded` has the URLs it requested, `complaints` its log entries."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._count, self._rest = 0, b""
        self._session = ""
        self.loaded: list[str] = []
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "DOM", "Network", "Log"):
            self._call(f"{part}.enable")
        self.scripts(False)

    def scripts(self, allowed: bool) -> None:
        self._call("Emulation.setScriptExecutionDisabled", value=not allowed)

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)
        self._until("Page.loadEventFired")

    def html(self) -> str:
        return str(self._call("DOM.getOuterHTML", nodeId=self._root())["outerHTML"])

    def click(self, selector: str) -> None:
        """Clicks the middle of an element and waits for the next page."""
        node = self._node(selector)
        self._call("DOM.scrollIntoViewIfNeeded", nodeId=node)
        corners = self._call("DOM.getContentQuads", nodeId=node)["quads"][0]
        centre = {"x": sum(corners[0::2]) / 4, "y": sum(corners[1::2]) / 4, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, **centre)
        self._until("Page.loadEventFired")

    def press(self, key: str, text: str = "") -> None:
        """Presses a key and waits for the next page."""
        self._call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self._call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self._until("Page.loadEventFired")

    def put(self, selector: str, *files: Path) -> None:
        """Chooses files in a file field, as its dialogue does."""
        self._call("DOM.setFileInputFiles", files=[str(file) for file in files], nodeId=self._node(selector))

    def drop(self, *files: Path) -> None:
        """Drops files on the middle of the window and waits for the next page."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self._call("Input.dispatchDragEvent", type=kind, x=400, y=300, data=data)
        self._until("Page.loadEventFired")

    def fill(self, selector: str, text: str) -> None:
        """Types a text into a field."""
        self._call("DOM.focus", nodeId=self._node(selector))
        self._call("Input.insertText", text=text)

    def type(self, key: str, code: int) -> None:
        """Presses a key on a page that stays."""
        for kind in ("rawKeyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def mouse(self, path: Sequence[tuple[int, int, int]], down: int = 0) -> None:
        """Moves the mouse along points, each with the buttons that are down: 0 none, 1 left, 2 right."""
        names = {0: "none", 1: "left", 2: "right"}
        for x, y, buttons in path:
            kind = "mouseMoved" if buttons == down else "mousePressed" if buttons else "mouseReleased"
            button = names[buttons or down]
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=buttons, clickCount=1)
            down = buttons

    def touch(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Draws a line with a finger."""
        for kind, points in (("touchStart", [start]), ("touchMove", [end]), ("touchEnd", [])):
            touched = [{"x": x, "y": y} for x, y in points]
            self._call("Input.dispatchTouchEvent", type=kind, touchPoints=touched)

    def wheel(self, x: int, y: int, down: int, ctrl: bool = False) -> None:
        """Turns the mouse's wheel at a point."""
        held = 2 if ctrl else 0
        self._call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=down, modifiers=held)

    def ask(self, script: str) -> Any:
        """Evaluates a script in the page by the devtools."""
        value = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in value, value
        return value["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Waits until a script's condition holds in the page."""
        wait_until(lambda: bool(self.ask(condition)))

    def screen_reader_nodes(self) -> list[tuple[str, str]]:
        """Role and name of the nodes that a screen reader reads, in order."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]

    def colours(self, scheme: str) -> None:
        """Sets the system to light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", media="screen", features=features)

    def barriers(self) -> list[str]:
        """What axe-core, a checker by others, finds that keeps people with disabilities out of the page."""
        if not AXE.exists():
            pytest.skip(f"{AXE.name} is not there (npm: axe-core)")
        self.ask(AXE.read_text("utf-8") + "; 0")
        found = self.ask("axe.run().then(result => result.violations.map(rule => "
                         "`${rule.id}: ${rule.nodes.map(node => node.html).join(' | ').slice(0, 600)}`))")  # fmt: skip
        return list(found)

    def screenshot(self, path: Path) -> None:
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def page_width(self, width: int) -> int:
        """The page's width in a window of this width: more if something overflows."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        return int(self._call("Page.getLayoutMetrics")["cssContentSize"]["width"])

    def right_edge(self, selector: str) -> float:
        """The right edge of an element in the window as last sized."""
        return float(max(self._call("DOM.getContentQuads", nodeId=self._node(selector))["quads"][0][0::2]))

    def _node(self, selector: str) -> int:
        return int(self._call("DOM.querySelector", nodeId=self._root(), selector=selector)["nodeId"])

    def _root(self) -> int:
        return int(self._call("DOM.getDocument")["root"]["nodeId"])

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        self._post(self._count, method, **params)
        while True:
            received = self._hear()
            if received.get("id") == self._count:
                assert "error" not in received, received
                return dict(received["result"])

    def _post(self, number: int, method: str, **params: Any) -> None:
        message = {"id": number, "method": method, "params": params}
        os.write(
            self._send, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )

    def _until(self, event: str) -> None:
        while self._hear().get("method") != event:
            pass

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._receive, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        received: dict[str, Any] = json.loads(line)
        params = received.get("params", {})
        if received.get("method") == "Network.requestWillBeSent":
            self.loaded.append(params["request"]["url"])
        if received.get("method") == "Page.javascriptDialogOpening":  # only a page with unsaved work has one: leave it
            self._post(-1, "Page.handleJavaScriptDialog", accept=True)
        if received.get("method") == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        return received


def wait_until(done: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for something that the browser or a server does."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    assert PROGRAM
    browser_reads, send = os.pipe()
    receive, browser_writes = os.pipe()
    process = subprocess.Popen(
        [
            "bash", "-c", f'exec 3<&{browser_reads} 4>&{browser_writes}; exec "$@"', "-", PROGRAM, "--headless=new",
            "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            f"--user-data-dir={profile}", "--window-size=1000,1400",
        ],
        pass_fds=(browser_reads, browser_writes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(browser_reads)
    os.close(browser_writes)
    try:
        yield Browser(send, receive)
    finally:
        os.close(send)
        os.close(receive)
        process.terminate()
        process.wait()
