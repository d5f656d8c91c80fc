"""What every test runs under, and the sound server that device tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)  # a busy machine is no failure
settings.load_profile("repeatable")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # the Triton twins; to be said before triton is first imported
torch.set_num_threads(1)  # the tensors are tiny; more threads wait for each other, ten times slower on a busy box


@dataclass(frozen=True)
class Pulse:
    """A private PulseAudio server whose one microphone hears its one loudspeaker.

    env: for a child process, in which PortAudio then finds both as the default device (and as "cable").
    """

    env: dict[str, str]
    process: subprocess.Popen[str]

    def play(self, wav: Path) -> None:
        """Into the loudspeaker; returns when it was played."""
        subprocess.run(["paplay", "--device=cable", str(wav)], env=self.env, check=True, timeout=60)

    def unplug(self) -> None:
        """The sound server dies, and the device with it."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def pulse(tmp_path: Path) -> Iterator[Pulse]:
    """A running Pulse, or a skip with the reason where PulseAudio cannot run."""
    for tool in ("pulseaudio", "paplay"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian: apt install pulseaudio pulseaudio-utils libasound2-plugins)")
    socket, home, alsa = tmp_path / "pulse.sock", tmp_path / "home", tmp_path / "asound.conf"
    home.mkdir(mode=0o700)
    alsa.write_text("".join(f"pcm.{name} {{ type pulse hint {{ show on }} }}\n" for name in ("!default", "cable")))
    (tmp_path / "server.pa").write_text(
        f"load-module module-native-protocol-unix socket={socket} auth-anonymous=1\n"
        "load-module module-null-sink sink_name=cable rate=48000 channels=1\n"
    )
    env = os.environ | {"XDG_RUNTIME_DIR": str(home), "HOME": str(home), "ALSA_CONFIG_PATH": str(alsa),
                        "PULSE_SERVER": f"unix:{socket}", "PULSE_COOKIE": str(home / "cookie")}  # fmt: skip
    log = tmp_path / "pulse.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["pulseaudio", "-n", "--daemonize=no", "--system=no", "--use-pid-file=no", "--exit-idle-time=-1",
             "-F", str(tmp_path / "server.pa")],
            env=env, stdout=out, stderr=out, text=True,
        )  # fmt: skip
    try:
        if not _answers(process, env):
            pytest.skip(f"PulseAudio does not run here: {log.read_text()[-300:]}")
        yield Pulse(env, process)
    finally:
        process.kill()
        process.wait()


def _answers(process: subprocess.Popen[str], env: dict[str, str]) -> bool:
    """Whether the server takes connections; asks until it does or has ended (within a minute or so)."""
    for _ in range(300):
        if process.poll() is not None:
            return False
        asked = subprocess.run(["timeout", "60", "pactl", "info"], env=env, capture_output=True, check=False)
        if asked.returncode == 0:
            return True
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
    return False
