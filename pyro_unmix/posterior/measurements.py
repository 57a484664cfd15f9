"""Draws of what would be measured, by a fitted model and guide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor

from pyro_unmix.ops.seeding import seeded
from pyro_unmix.posterior.read_out import (
    FixedNoise,
    Noise,
    ParamStore,
    as_tensors,
    chunks,
    is_latent,
    prepare,
    quiet_pyro,
    value_from_noise,
)


class _PredictiveNoise(FixedNoise):
    """As `FixedNoise`; sites that cannot be made of standard-normal noise are left to Pyro."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_latent(msg):
            size = int(np.prod(msg["fn"].event_shape))
            msg["value"] = value_from_noise(msg["fn"], lambda: self.noise(msg["name"], size))


def iterate_predictive(
    model: Any,
    guide: Any,
    cubes: xr.DataArray,
    num_samples: int,
    seed: int,
    store: ParamStore | None = None,
) -> Iterator[Tensor]:
    """Draws (S, B, T, L) of what would be measured, chunk by chunk of the pixels."""
    pixels, valid = as_tensors(cubes, model)
    num_pixels, num_dates, num_bands = pixels.shape
    noise = Noise(num_samples, seed, pixels)
    with quiet_pyro(store), torch.no_grad(), seeded(seed, pixels.device):
        for part in chunks(num_pixels, num_dates * num_samples * (num_bands + 8)):
            y, v = pixels[part], valid[part]
            index = torch.arange(num_pixels, device=y.device)[part]
            known = {
                "index": index,
                "size": num_pixels,
                "features": prepare(guide, y, v, index),
            }
            with FixedNoise(noise):
                drawn = poutine.trace(guide).get_trace(y, v, **known)
            with _PredictiveNoise(noise):
                sites = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(
                    None, v, **known
                )
            dates = [sites.nodes[f"y_{t}"]["value"] for t in range(1, num_dates + 1)]
            yield torch.stack([d.expand(num_samples, *d.shape[-2:]) for d in dates], dim=-2)
