"""The README tells the truth: its Python runs, its commands exist, its delays are the clock's."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

import pytest

from vivavoce.recipes import cli, sample
from vivavoce.speech import checkpoint
from vivavoce.streaming.clock import Clock

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = sorted({line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()
                   if line.startswith("vivavoce ")} | set(re.findall(r"`(vivavoce [^`-]+?)`", README)))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng, which speaks the sample, is not installed")
def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(model.name == "small-en" for model in checkpoint.models()):
        pytest.skip("no model ships with this checkout")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").mkdir()
    sample.main(["build/sample.wav"])
    code = "\n".join(blocks("python"))
    assert code.count("assert ") == 1
    exec(compile(code, str(ROOT / "README.md"), "exec"), {})


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_shown_exists_with_its_options(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = line.split()[1:]
    name = " ".join(words[:2]) if " ".join(words[:2]) in cli.COMMANDS else words[0]
    assert name in cli.COMMANDS
    with contextlib.suppress(SystemExit):
        cli.main([*name.split(), "--help"])
    help_text = capsys.readouterr().out
    for option in re.findall(r"--[\w-]+", line):
        assert re.search(rf"{option}\b", help_text), f"{name} has no {option}"


def test_the_setup_commands_shown_exist() -> None:
    script = (ROOT / "setup").read_text()
    shown = set(re.findall(r"\./setup (\w+)", README + (ROOT / "CONTRIBUTING.md").read_text()))
    assert {"sample", "test"} <= shown
    assert all(re.search(rf"^    {word}\) ", script, re.M) for word in shown)


def test_the_delays_shown_are_the_clocks() -> None:
    rows = re.findall(r"^\| (\d+|offline) \| (\d+) \| (\d+) ms \| ([\d.]+) ms \|$", README, re.M)
    assert [row[0] for row in rows] == ["0", "80", "480", "1040", "offline"]
    clock = Clock()
    for asked, frames, chunk, delay in rows:
        assert clock.lookahead_frames(asked) == (int(frames), "")
        assert clock.ms(clock.chunk_samples(int(frames))) == float(chunk)
        assert clock.ms(clock.worst_delay(int(frames))) == float(delay)


def test_links_to_files_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", README + (ROOT / "CONTRIBUTING.md").read_text())
    assert links
    assert all((ROOT / link).exists() for link in links)
