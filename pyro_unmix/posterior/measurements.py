"""Draws of what would be measured, by a fitted model and guide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor

from pyro_unmix.models.base import Decode
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.posterior.autoguides import check_by_pixel
from pyro_unmix.posterior.decoding import decoding_of
from pyro_unmix.posterior.programs import (
    CommonNoise,
    FixedNoise,
    OneDraw,
    ParamStore,
    is_latent,
    model_dtype_and_device,
    quiet_pyro,
    value_from_noise,
)
from pyro_unmix.posterior.read_out import iterate_pixels, one_by_one


class _PredictiveNoise(FixedNoise):
    """As `FixedNoise`; sites that cannot be made of standard-normal noise are left to Pyro."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_latent(msg):
            size = int(np.prod(msg["fn"].event_shape))
            msg["value"] = value_from_noise(msg["fn"], lambda: self.noise(msg["name"], size))


class _Outcome(OneDraw):
    """As `OneDraw`, and the given sites are drawn in place of what was observed there; Pyro draws the rest."""

    def __init__(self, handler: OneDraw, names: frozenset[str]) -> None:
        super().__init__(handler.noise, handler.draw)
        self.names = names

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.names:
            msg["is_observed"], msg["value"] = False, None
        if is_latent(msg):
            msg["value"] = self.value(msg)


def iterate_predictive(
    model: Any,
    guide: Any,
    cubes: xr.DataArray,
    num_samples: int,
    seed: int,
    store: ParamStore | None = None,
    decode: Decode | None = None,
) -> Iterator[Tensor]:
    """Draws (S, B, T, L) of what would be measured, chunk by chunk of the pixels."""
    num_dates = cubes.sizes["time"]
    per_pixel = num_dates * num_samples * (cubes.sizes["wavelength"] + 8)
    broadcasts = decoding_of(model, decode).broadcasts
    names = [f"y_{t}" for t in range(1, num_dates + 1)]
    if not broadcasts:
        check_by_pixel(guide, "reflectance_quantile")
    device = model_dtype_and_device(model)[1]
    with quiet_pyro(store), torch.no_grad(), seeded(seed, device):
        for _, y, v, known in iterate_pixels(model, guide, cubes, per_pixel):
            noise = CommonNoise(num_samples, seed, y)
            if not broadcasts:
                yield torch.stack(
                    [_outcome(model, guide, h, y, v, known, names) for h in one_by_one(noise)]
                )
                continue
            with FixedNoise(noise):
                drawn = poutine.trace(guide).get_trace(y, v, **known)
            with _PredictiveNoise(noise):
                sites = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(
                    None, v, **known
                )
            dates = [sites.nodes[name]["value"] for name in names]
            yield torch.stack([d.expand(num_samples, *d.shape[-2:]) for d in dates], dim=-2)


def _outcome(
    model: Any,
    guide: Any,
    handler: OneDraw,
    pixels: Tensor,
    valid: Tensor,
    known: dict[str, Any],
    names: list[str],
) -> Tensor:
    """One draw (B, T, L) of what would be measured, by a model that takes pixels and observes them."""
    with handler:
        drawn = poutine.trace(guide).get_trace(pixels, valid, **known)
    with _Outcome(handler, frozenset(names)):
        replayed = poutine.replay(model, trace=drawn)
        sites = poutine.trace(replayed).get_trace(pixels, valid, **known).nodes
    missing = [name for name in names if name not in sites]
    if missing:
        raise ValueError(
            f".reflectance_quantile() needs a site of the model for the spectra of every date, {', '.join(names)}, and "
            f"it has no {missing[0]}: name what is observed so"
        )
    return torch.stack([sites[name]["value"].expand(pixels[:, 0].shape) for name in names], dim=-2)
