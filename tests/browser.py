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
    "--use-fake-device-for-media-stream", "--autoplay-policy=no-user-gesture-required", "--hide-scrollbars",
]  # fmt: skip
SECONDS = 60  # that any one command may take, on a busy machine


def chromium() -> str:
    """Its path, or a skip."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no chromium here (Debian: apt install chromium)")


class Tab:
    """One page. `run` evaluates JavaScript, awaiting a promise; `until` waits for an expression to be true."""

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self._socket, self._session, self._ids = socket, session, itertools.count(100)
        self.errors: list[str] = []  # uncaught exceptions and console errors of the page

    def call(self, method: str, **params: object) -> Any:
        number = next(self._ids)
        message = {"id": number, "sessionId": self._session, "method": method, "params": params}
        self._socket.send(json.dumps(message))
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

    def until(self, condition: str, seconds: float = SECONDS / 2) -> None:
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


@contextmanager
def browser(profile: Path, url: str, microphone: Path | None = None, *, allowed: bool = True) -> Iterator[Tab]:
    """A tab at url; the microphone hears the WAV file over and over, or Chromium's own beeps."""
    flags = [*FLAGS, f"--user-data-dir={profile}"]
    flags += ["--use-fake-ui-for-media-stream"] if allowed else ["--deny-permission-prompts"]
    flags += [f"--use-file-for-fake-audio-capture={microphone}%noloop"] if microphone else []
    env = os.environ | {"HOME": str(profile)}
    process = subprocess.Popen([chromium(), *flags, "about:blank"], stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr
    try:
        line = next((x for x in process.stderr if "DevTools listening on" in x), None)
        if line is None:
            pytest.skip("chromium does not start here")
        with connect(line.split()[-1], max_size=None) as socket:
            yield _open(socket, url)
    finally:
        process.kill()
        process.communicate()


def _open(socket: ClientConnection, url: str) -> Tab:
    root = Tab(socket, "")

    def call(number: int, method: str, **params: object) -> Any:
        socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(socket.recv(timeout=SECONDS))
            if answer.get("id") == number:
                return answer["result"]

    target = call(1, "Target.createTarget", url="about:blank")["targetId"]
    root = Tab(socket, call(2, "Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
    for domain in ("Page", "Runtime"):
        root.call(f"{domain}.enable")
    root.call("Page.navigate", url=url)
    root.until("document.readyState === 'complete' && globalThis.vivavoce !== undefined")
    return root
