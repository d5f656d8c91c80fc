"""What the tests of the page share: its state as JavaScript tells it, and what a script begins with."""

from __future__ import annotations

from browser import Tab
from scripted import Wire

LISTENING = "vivavoce.running?.connection?.ready"
NOTICED = 250  # ms that falling silent may take
# The microphone as it is, whatever the page asks of the browser; `asked` keeps what that was.
UNTOUCHED = """const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = ({audio}) => (globalThis.asked = audio,
        real({audio: {...audio, echoCancellation: false, noiseSuppression: false, autoGainControl: false}}))"""


async def begun(wire: Wire) -> None:
    await wire.begin()


def talk(tab: Tab) -> None:
    tab.click("input[value=talk]")
    tab.click("#go")
