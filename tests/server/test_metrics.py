"""Figures for Prometheus: each server's own, rooms and steps among them."""

from __future__ import annotations

from vivavoce.server.metrics import Metrics
from vivavoce.server.rooms.room import Room, Step


class Idle(Room):
    def tick(self) -> bool:
        return False


def test_steps_and_places_are_shown_and_no_two_servers_share_them() -> None:
    ours, theirs = Metrics(), Metrics()
    room = Idle("hearing", 3)
    ours.watch(room)
    room.enter()
    ours.step(Step("hearing", rows=5, seconds=0.02))
    text = ours.exposition().decode()
    assert "vivavoce_hearing_taken 1.0" in text
    assert "vivavoce_hearing_places 3.0" in text
    assert 'vivavoce_step_rows_sum{room="hearing"} 5.0' in text
    assert 'vivavoce_step_seconds_bucket{le="0.025",room="hearing"} 1.0' in text
    assert "hearing" not in theirs.exposition().decode()
