"""What the server counts, in the format of Prometheus, in a registry of its own so that many servers fit one process.

Rooms report their steps to it, sockets and endpoints their sessions and errors; `GET /metrics` writes it out.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from .rooms.room import Room, Step

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.5, 5.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """All of them. Times are in seconds, as Prometheus has it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.sessions = Gauge("vivavoce_sessions", "Realtime sessions now", ["type"], registry=r)
        self.ended = Counter("vivavoce_sessions_ended", "Realtime sessions that ended, and why", ["why"], registry=r)
        self.refused = Counter("vivavoce_refused", "Sessions and requests that were turned away", ["why"], registry=r)
        self.errors = Counter("vivavoce_errors", "Error events sent to clients", ["code"], registry=r)
        self.requests = Counter("vivavoce_requests", "HTTP requests", ["path", "status"], registry=r)
        self.audio_in = Counter("vivavoce_audio_in_seconds", "Audio heard", registry=r)
        self.audio_out = Counter("vivavoce_audio_out_seconds", "Audio spoken", registry=r)
        self.delay = Histogram(
            "vivavoce_result_delay_seconds", "From a chunk's last sample to its words", registry=r, buckets=SECONDS
        )
        self.first_audio = Histogram(
            "vivavoce_first_audio_seconds", "From a turn's end to the reply's first sound", registry=r, buckets=SECONDS
        )
        self.step_seconds = Histogram(
            "vivavoce_step_seconds", "One batched step of a model", ["room"], registry=r, buckets=SECONDS
        )
        self.step_rows = Histogram("vivavoce_step_rows", "Sessions in a step", ["room"], registry=r, buckets=ROWS)

    def step(self, step: Step) -> None:
        """For `Room(observe=...)`; called on the room's thread."""
        self.step_seconds.labels(step.room).observe(step.seconds)
        self.step_rows.labels(step.room).observe(step.rows)

    def watch(self, room: Room) -> None:
        """Show how many of a room's places are taken, read when asked."""
        taken = Gauge(f"vivavoce_{room.name}_taken", f"Places taken in the {room.name} room", registry=self.registry)
        taken.set_function(lambda: room.taken)
        places = Gauge(f"vivavoce_{room.name}_places", f"Places in the {room.name} room", registry=self.registry)
        places.set(room.places)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)
