"""Errors of audio, checkpoints, configurations and devices. Their root is `VivaVoceError`."""

from __future__ import annotations

from vivavoce.streaming.errors import VivaVoceError


class BadAudio(VivaVoceError, ValueError):
    """A file or a buffer that cannot be heard: not audio, empty, truncated, NaN."""


class BadCheckpoint(VivaVoceError, ValueError):
    """Weights that are missing, truncated, of another kind, or do not fit their configuration."""


class BadConfig(VivaVoceError, ValueError):
    """A configuration with an unknown key, a missing one, or a value out of range."""


class BadManifest(VivaVoceError, ValueError):
    """A manifest that is not the TSV the commands read."""


class BadSpeech(VivaVoceError, ValueError):
    """Text that cannot be spoken as it is written: unbalanced SSML, an unknown phone."""


class MissingDevice(VivaVoceError, OSError):
    """No such microphone or loudspeaker, or it went away."""


class MissingDependency(VivaVoceError, ImportError):
    """A system package or an optional Python package that this input needs."""
