"""Server events against OpenAI's own list of them."""

from __future__ import annotations

from typing import get_args

from talks import THEIRS

from vivavoce.server import events


def ours() -> dict[str, type[events.ServerEvent]]:
    """Every event class that has a type of its own, by that type."""
    kinds, found = [events.ServerEvent], {}
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if names := get_args(kind.model_fields["type"].annotation):
            found[names[0]] = kind
    return found


def test_every_event_is_one_of_theirs_or_named_as_an_extension() -> None:
    assert len(ours()) > 30
    assert {name for name in ours() if name not in THEIRS} == {"vivavoce.output_audio.resumed", "vivavoce.stats"}


def test_every_field_they_require_is_there() -> None:
    for name, kind in ours().items():
        required = (
            {f for f, field in THEIRS[name].model_fields.items() if field.is_required()} if name in THEIRS else set()
        )
        assert required <= set(kind.model_fields), name


def test_what_is_none_is_not_sent_but_an_error_shows_all_its_fields() -> None:
    assert "previous_item_id" not in events.Committed(item_id="i").model_dump()
    error = events.Error(error=events.ErrorInfo(message="no")).model_dump()["error"]
    assert {"type", "code", "message", "param", "event_id"} <= set(error)
