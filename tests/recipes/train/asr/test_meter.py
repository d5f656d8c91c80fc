"""The meter: waiting is what passes between two batches, padding what no sample fills, and a reading begins anew."""

import numpy as np
import torch

from vivavoce.recipes.data.batches import pad
from vivavoce.recipes.train.asr.meter import Meter


def test_the_meter_tells_waiting_and_padding() -> None:
    batch = pad([np.ones(16000, np.float32), np.ones(8000, np.float32)], [np.ones(1, np.int64)] * 2)
    meter = Meter()
    for one, _ in meter.ready(iter([(batch, None)] * 4)):
        meter.take(torch.tensor(2.0), one)
    meter.began -= 10
    meter.waited = 5.0
    text = meter.read()
    assert "loss 2.000" in text
    assert "padding 25 %" in text
    assert "waiting 50 %" in text or "waiting 49 %" in text
    assert meter.losses == []
