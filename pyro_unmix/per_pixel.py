"""Per-pixel spectra, noiseless pixels and degree of nonlinearity of models beyond linear mixing and components."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from pyro_unmix.posterior import chunks, model_dtype_and_device, quiet_pyro


def decoded_endmembers(model: Any, variability: xr.DataArray) -> np.ndarray:
    """``model.mixing_endmembers`` of one date's variability (y, x, component, endmember): (y, x, L, P)."""
    return _by_chunks(model, model.mixing_endmembers, [_rows(variability)], variability)


def mixed_pixels(model: Any, abundances: xr.DataArray, variability: xr.DataArray) -> np.ndarray:
    """``model.mix`` of one date's abundances (y, x, endmember) and variability: (y, x, L)."""
    fractions = abundances.transpose("y", "x", "endmember").to_numpy()
    flat = fractions.reshape(-1, fractions.shape[-1])
    return _by_chunks(model, model.mix, [flat, _rows(variability)], variability)


def degree_of_nonlinearity(result: Any, time: int = 0) -> xr.DataArray:
    """Share of the nonlinear stream in the fitted pixels of one date.

    ``||y - M a|| / (||M a|| + ||y - M a||)`` with the reconstruction y of each pixel (its mixing without noise), its
    endmembers M and abundances a: 0 where the mixing is linear. This is a property of the fitted *model*;
    `TwoStreamGuide.degree_of_nonlinearity` is that of the paper's, which compares the two streams of the guide.

    Parameters
    ----------
    result : Unmixing
        Or anything with ``abundances``, ``endmembers(time)`` and ``reconstruct(time)``.
    time : int
        Position of the date.

    Returns
    -------
    DataArray (y, x), in [0, 1]
    """
    order = ("y", "x", "wavelength", "endmember")
    fractions = result.abundances.isel(time=time).transpose("y", "x", "endmember")
    spectra = result.endmembers(time).transpose(*order).to_numpy()
    linear = (spectra @ fractions.to_numpy()[..., None])[..., 0]
    fitted = result.reconstruct(time).transpose("y", "x", "wavelength").to_numpy()
    sizes = [np.linalg.norm(stream, axis=-1) for stream in (linear, fitted - linear)]
    total = np.maximum(sizes[0] + sizes[1], np.finfo(float).tiny)
    degree = fractions.isel(endmember=0, drop=True).copy(data=sizes[1] / total)
    degree.attrs = {"long_name": "degree of nonlinearity", "units": "1"}
    return degree.rename("degree_of_nonlinearity")


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
    with quiet_pyro(), torch.no_grad():
        parts = [
            function(*(x[part] for x in tensors)).cpu().numpy()
            for part in chunks(len(tensors[0]), per_pixel)
        ]
    values = np.concatenate(parts)
    return values.reshape(plane.sizes["y"], plane.sizes["x"], *values.shape[1:])
