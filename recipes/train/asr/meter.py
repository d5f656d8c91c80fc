"""What a training run's log says between two lines: loss, speed, and what the device waited for and wasted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vivavoce.recipes.data.batches import RATE, Batch


@dataclass
class Meter:
    """What the log says of the last steps: the loss, the share of time in which no batch was ready, and of samples that
    were padding."""

    losses: list[Tensor] = field(default_factory=list)
    heard: float = 0.0
    padded: float = 0.0
    waited: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def ready(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, the time they take counted as waiting."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def take(self, loss: Tensor, batch: Batch) -> None:
        self.losses.append(loss)
        self.heard += batch.seconds
        self.padded += batch.pcm.numel() / RATE

    def read(self) -> str:
        """A line, and the count begins anew. Waits for the device."""
        loss, took = float(torch.stack(self.losses).mean()), max(time.monotonic() - self.began, 1e-9)
        text = (f"loss {loss:.3f}  {self.heard / took:.0f}x real time  {len(self.losses) / took:.2f} steps/s  "
                f"waiting {100 * self.waited / took:.0f} %  padding {100 * (1 - self.heard / self.padded):.0f} %")
        self.losses, self.heard, self.padded, self.waited, self.began = [], 0.0, 0.0, 0.0, time.monotonic()
        return text
