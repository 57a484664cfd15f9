"""Spectra and noiseless pixels of models whose endmembers are no linear combination of components."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from pyro_unmix.posterior import chunks, model_dtype_and_device


def decoded_endmembers(model: Any, variability: xr.DataArray) -> np.ndarray:
    """``model.mixing_endmembers`` of one date's variability (y, x, component, endmember): (y, x, L, P)."""
    return _by_chunks(model, model.mixing_endmembers, [_rows(variability)], variability)


def mixed_pixels(model: Any, abundances: xr.DataArray, variability: xr.DataArray) -> np.ndarray:
    """``model.mix`` of one date's abundances (y, x, endmember) and variability: (y, x, L)."""
    fractions = abundances.transpose("y", "x", "endmember").to_numpy()
    flat = fractions.reshape(-1, fractions.shape[-1])
    return _by_chunks(model, model.mix, [flat, _rows(variability)], variability)


def _rows(variability: xr.DataArray) -> np.ndarray:
    """(N, K, P)."""
    values = variability.transpose("y", "x", "component", "endmember").to_numpy()
    return values.reshape(-1, *values.shape[2:])


def _by_chunks(
    model: Any, function: Any, inputs: list[np.ndarray], plane: xr.DataArray
) -> np.ndarray:
    dtype, device = model_dtype_and_device(model)
    tensors = [torch.from_numpy(np.ascontiguousarray(x)).to(device, dtype) for x in inputs]
    per_pixel = model.num_bands * model.num_endmembers
    with torch.no_grad():
        parts = [
            function(*(x[part] for x in tensors)).cpu().numpy()
            for part in chunks(len(tensors[0]), per_pixel)
        ]
    values = np.concatenate(parts)
    return values.reshape(plane.sizes["y"], plane.sizes["x"], *values.shape[1:])
