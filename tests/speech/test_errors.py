"""Every error a user can cause hangs on one root and is documented."""

from __future__ import annotations

import inspect

import pytest

from vivavoce.speech import errors
from vivavoce.streaming.errors import VivaVoceError

TREE = [e for _, e in inspect.getmembers(errors, inspect.isclass) if e is not VivaVoceError]


@pytest.mark.parametrize("error", TREE, ids=lambda e: e.__name__)
def test_each_is_a_vivavoce_error_that_says_what_it_means(error: type[VivaVoceError]) -> None:
    assert issubclass(error, VivaVoceError)
    assert error.__doc__
    assert str(error("a.wav: empty; record it again")) == "a.wav: empty; record it again"


@pytest.mark.parametrize(("error", "builtin"), [
    (errors.BadAudio, ValueError), (errors.BadCheckpoint, ValueError), (errors.BadConfig, ValueError),
    (errors.BadManifest, ValueError), (errors.MissingDevice, OSError), (errors.MissingDependency, ImportError),
])
def test_each_is_also_the_builtin_a_caller_would_catch(error: type[VivaVoceError], builtin: type[Exception]) -> None:
    with pytest.raises(builtin):
        raise error("x")
