"""Endmembers and spectra of every pixel of one date of a result."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.per_pixel import decoded_endmembers, mixed_pixels


def endmembers(result: Any, time: int) -> xr.DataArray:
    """See `Unmixing.endmembers`."""
    _need_endmembers(result, "endmembers")
    if "endmembers" in result.dataset:
        spectra = result.dataset["endmembers"].isel(time=time)
        return spectra.transpose("y", "x", "wavelength", "endmember")
    reference = _date_reference(result, time)
    if "variability" not in result.dataset:
        plane = result.abundances.isel(time=time, endmember=0, drop=True)
        spectra = xr.ones_like(plane) * reference
    else:
        psi = result.dataset["variability"].isel(time=time)
        if "components" in result.dataset:
            parts = (
                _combined(result, psi) + reference.transpose("wavelength", "endmember").to_numpy()
            )
        else:
            parts = decoded_endmembers(result.model, psi)
        plane = psi.isel(component=0, endmember=0, drop=True)
        spectra = xr.DataArray(
            parts,
            dims=("y", "x", "wavelength", "endmember"),
            coords={**plane.coords, **reference.coords},
        )
    spectra.attrs = {"long_name": "endmember reflectance", "units": "1"}
    order = ("y", "x", "wavelength", "endmember")
    return spectra.transpose(*order).rename("endmembers")


def reconstruction(result: Any, time: int) -> xr.DataArray:
    """See `Unmixing.reconstruct`."""
    _need_endmembers(result, "reconstruct")
    abundances = result.abundances.isel(time=time)
    fractions = abundances.transpose("y", "x", "endmember").to_numpy()
    reference = _date_reference(result, time).transpose("wavelength", "endmember")
    spectra = fractions @ reference.to_numpy().T
    if "endmembers" in result.dataset:
        spectra = (endmembers(result, time).to_numpy() @ fractions[..., None])[..., 0]
    elif "variability" not in result.dataset:
        pass
    elif hasattr(result.model, "mix"):
        psi = result.dataset["variability"].isel(time=time)
        spectra = mixed_pixels(result.model, abundances, psi)
    else:
        psi = result.dataset["variability"].isel(time=time)
        weighted = psi.transpose("y", "x", "component", "endmember").to_numpy()
        weighted = weighted * fractions[:, :, None, :]
        flat = _components(result).reshape(len(reference), -1)
        spectra = spectra + weighted.reshape(*fractions.shape[:2], -1) @ flat.T
    plane = abundances.isel(endmember=0, drop=True)
    coords = {k: v for k, v in reference.coords.items() if v.dims == ("wavelength",)}
    return xr.DataArray(
        spectra,
        dims=("y", "x", "wavelength"),
        coords={**plane.coords, **coords},
        name="reconstruction",
        attrs={"long_name": "reconstructed reflectance", "units": "1"},
    )


def unit_maximum(result: Any) -> xr.DataArray:
    """See `Unmixing.unit_maximum`."""
    _need_endmembers(result, "unit_maximum")
    peaks = xr.concat(
        [endmembers(result, t).max("wavelength") for t in range(result.dataset.sizes["time"])],
        dim="time",
        coords="minimal",
        compat="override",
    ).transpose(*result.abundances.dims)
    weighted = result.abundances * peaks.to_numpy().clip(min=0)
    total = weighted.sum("endmember")
    return (weighted / total.where(total > 0)).rename("unit_maximum_abundances")


def no_endmembers(what: str) -> str:
    """What to say where endmembers are asked for and none are known."""
    return (
        f".{what} needs endmembers, and decode returned abundances alone: let it return a pair, abundances and "
        "endmembers (..., T, L, P) or (L, P)"
    )


def _need_endmembers(result: Any, what: str) -> None:
    if not result.has_endmembers:
        raise ValueError(no_endmembers(f"{what}()"))


def _date_reference(result: Any, time: int) -> xr.DataArray:
    """The spectra that the pixels of one date vary around (wavelength, endmember)."""
    if "date_endmembers" in result.dataset:
        return result.dataset["date_endmembers"].isel(time=time, drop=True)
    return result.reference_endmembers


def _combined(result: Any, psi: xr.DataArray) -> np.ndarray:
    """``sum_k F_k diag(psi_k)`` of one date (y, x, L, P)."""
    # one matrix product per material, instead of xarray's general contraction
    return np.einsum(
        "yxkp,lkp->yxlp",
        psi.transpose("y", "x", "component", "endmember").to_numpy(),
        _components(result),
        optimize=True,
    )


def _components(result: Any) -> np.ndarray:
    order = ("wavelength", "component", "endmember")
    return result.dataset["components"].transpose(*order).to_numpy()
