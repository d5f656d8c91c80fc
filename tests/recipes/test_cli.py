"""The command line itself: finding commands, errors in one line, exit codes, an instant help."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.util import find_spec

import pytest

from vivavoce.recipes import cli
from vivavoce.speech.errors import BadAudio


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds a command `probe` that runs a function."""

    def add(run: Callable[[list[str]], int]) -> None:
        module = types.ModuleType("vivavoce.recipes.probe")
        module.main = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command("probe", "for this test"))

    return add


def python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", "-c", code], text=True, timeout=60, check=False, **options)  # type: ignore[call-overload]


def test_help_is_instant_because_no_command_is_imported_for_it() -> None:
    code = "import sys; from vivavoce.recipes.cli import main; main(['--help']); print('torch' in sys.modules)"
    out = python(code, capture_output=True).stdout
    assert out.splitlines()[-1] == "False"
    assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_listed_has_a_module(name: str) -> None:
    assert find_spec(f"vivavoce.recipes.{cli.COMMANDS[name].module}")


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["data"], ["train", "nonsense"]])
def test_words_that_are_no_command_are_bad_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["data", "--help"]])
def test_asking_for_help_succeeds(argv: list[str]) -> None:
    assert cli.main(argv) == 0


def test_the_words_after_a_command_are_its_own(command: Callable[..., None]) -> None:
    seen: list[list[str]] = []
    command(lambda argv: seen.append(argv) or 1)
    assert cli.main(["probe", "a", "--help", "b"]) == 1
    assert seen == [["a", "--help", "b"]]


def fails(argv: list[str]) -> int:
    raise BadAudio("x.wav is empty; record it again")


def test_an_error_of_the_projects_tree_is_one_line_without_a_traceback(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VIVAVOCE_DEBUG", raising=False)
    command(fails)
    assert cli.main(["probe"]) == 1
    assert capsys.readouterr().err == "vivavoce: x.wav is empty; record it again\n"


def test_debugging_shows_where_an_error_was_raised(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIVAVOCE_DEBUG", "1")
    command(fails)
    with pytest.raises(BadAudio):
        cli.main(["probe"])


def test_a_programming_mistake_is_not_hidden(command: Callable[..., None]) -> None:
    command(lambda argv: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["probe"])


def test_an_interruption_ends_with_the_shells_code(command: Callable[..., None]) -> None:
    def interrupted(argv: list[str]) -> int:
        raise KeyboardInterrupt

    command(interrupted)
    assert cli.main(["probe"]) == 130


def test_a_reader_that_went_away_is_no_traceback() -> None:
    code = """
import sys, types
from vivavoce.recipes import cli
module = types.ModuleType('vivavoce.recipes.probe')
module.main = lambda argv: print('x' * 10) or 0
sys.modules[module.__name__] = module
cli.COMMANDS['probe'] = cli.Command('probe', '')
sys.exit(cli.main(['probe']))"""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = python(code, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_a_closed_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as m:  # pytest itself needs its output back
        m.setattr(sys, "stdout", None)  # as the shell's `>&-` leaves it
        code = cli.main(["models", "list"])
    assert code == 0
