"""The keys and values of the last frames, with room after them, so that a step appends in place and copies nothing.

A cache is (slots, 2, heads, kept + ROOM, D): keys, then values. `end`, (slots,) int64 and the same for every layer, is
where each slot's newest frame stops; the `kept` before it count. Once a batch has used up its room, or its slots
stand at different places, `align_` moves what is kept to the front; then every slot's frames are one slice again.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vivavoce.streaming.buffers import take_items

ROOM = 28  # frames: a second and more of short steps between two moves


def align_(caches: Iterable[Tensor], end: Tensor, kept: int, frames: int) -> int:
    """Make place for so many new frames, if there can be any, behind those kept; returns where all slots then end.

    On a GPU, whose answers would have to be waited for, what is kept always moves.
    """
    if end.device.type == "cpu":
        first = int(end[0])
        together = bool((end == first).all())
        if together and (first + frames <= kept + ROOM or first == kept):
            return first
    index = end[:, None] - kept + torch.arange(kept, device=end.device)
    for cache in caches:
        by_frame = cache.permute(0, 3, 1, 2, 4)
        by_frame.narrow(1, 0, kept).copy_(take_items(by_frame, index))
    end.fill_(kept)
    return kept


def append_(cache: Tensor, new: Tensor, at: int, kept: int, valid: Tensor | None) -> Tensor:
    """The `kept` frames before `at`, then the new: (slots, 2, heads, kept + T, D); a view of the cache if it has room.

    new: (slots, 2, heads, T, D). valid: (slots,) how many of the T count; None: all. Where T is more than the room, so
    that `at` is `kept`, the cache is left with the last frames that count, at its front; otherwise the caller moves
    `end` on by as many as count.
    """
    frames = new.shape[3]
    if at + frames <= cache.shape[3]:
        cache.narrow(3, at, frames).copy_(new)
        return cache.narrow(3, at - kept, kept + frames)
    joined = torch.cat((cache.narrow(3, 0, kept), new), dim=3)
    if valid is None:
        last = joined.narrow(3, frames, kept)
    else:
        index = valid[:, None] + torch.arange(kept, device=valid.device)
        last = take_items(joined.permute(0, 3, 1, 2, 4), index).permute(0, 2, 3, 1, 4)
    cache.narrow(3, 0, kept).copy_(last)
    return joined
