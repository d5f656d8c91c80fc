"""A headless Chromium for the page's tests, driven over the DevTools protocol, with a WAV file for a microphone."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--mute-audio", "--remote-debugging-port=0",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--hide-scrollbars",
    "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip
SECONDS = 280  # that any one command may take, on a busy machine


def chromium() -> str:
    """Its path, or a skip."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no chromium here (Debian: apt install chromium)")


class Tab:
    """One page. `run` evaluates JavaScript, awaiting a promise; `until` waits for an expression to be true."""

    _ids = itertools.count(1)  # of commands, one count for all tabs of a socket

    def __init__(self, socket: ClientConnection, session: str | None = None) -> None:
        self._socket, self._to = socket, {"sessionId": session} if session else {}
        self.errors: list[str] = []  # uncaught exceptions and console errors of the page

    def call(self, method: str, **params: object) -> Any:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params, **self._to}))
        while True:
            answer = json.loads(self._socket.recv(timeout=SECONDS))
            self._note(answer)
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _note(self, answer: dict[str, Any]) -> None:
        params = answer.get("params", {})
        if answer.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"].get("exception", params["exceptionDetails"])))
        if answer.get("method") == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(str([argument.get("value", argument) for argument in params["args"]]))

    def run(self, code: str) -> Any:
        result = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, condition: str, seconds: float = SECONDS - 30) -> None:
        """Fails with what the page says when the condition does not come true."""
        code = f"""new Promise((resolve) => {{
            const end = performance.now() + {seconds * 1000};
            const look = () => ({condition}) ? resolve(true) : performance.now() > end ? resolve(false)
                : setTimeout(look, 10);
            look(); }})"""
        if not self.run(code):
            raise AssertionError(f"{condition} never held; the page: {self.text('body')!r}; {self.errors}")

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({selector!r}).innerText"))

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({selector!r}).click()")

    def press(self, key: str, **more: object) -> None:
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowRight": 39}
        common = {"key": key, "windowsVirtualKeyCode": codes[key], **more}
        down = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def size(self, width: int, height: int, *, scale: float = 1, phone: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                  mobile=phone)  # fmt: skip

    def prefer(self, **features: str) -> None:
        """prefer(color_scheme="dark") -> prefers-color-scheme: dark"""
        pairs = [{"name": f"prefers-{k.replace('_', '-')}", "value": v} for k, v in features.items()]
        self.call("Emulation.setEmulatedMedia", features=pairs)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


class Browser:
    """A running Chromium. `open(url)` is a tab at the page there, loaded."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._root = socket, Tab(socket)

    @contextmanager
    def open(self, url: str) -> Iterator[Tab]:
        target = self._root.call("Target.createTarget", url="about:blank")["targetId"]
        session = self._root.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self._socket, session)
        for domain in ("Page", "Runtime"):
            tab.call(f"{domain}.enable")
        tab.call("Page.navigate", url=url)
        tab.until("document.readyState === 'complete' && globalThis.vivavoce !== undefined")
        yield tab
        self._root.call("Target.closeTarget", targetId=target)


@contextmanager
def browser(profile: Path, microphone: Path | None = None) -> Iterator[Browser]:
    """The microphone hears the WAV file once from when it is opened, or Chromium's own beeps."""
    flags = [*FLAGS, f"--user-data-dir={profile}"]
    flags += [f"--use-file-for-fake-audio-capture={microphone}%noloop"] if microphone else []
    env = os.environ | {"HOME": str(profile)}
    process = subprocess.Popen([chromium(), *flags, "about:blank"], stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr
    try:
        line = next((x for x in process.stderr if "DevTools listening on" in x), None)
        if line is None:
            pytest.skip("chromium does not start here")
        with connect(line.split()[-1], max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.kill()
        process.communicate()
