"""Arrays whose every value is another, with and without labels."""

from __future__ import annotations

import numpy as np
import xarray as xr

DIMS = ("time", "y", "x", "wavelength")
T, H, W, L = 3, 4, 5, 6
WAVELENGTH = [450.0, 550.0, 650.0, 993.1, 902.3, 1600.0]
DATES = ["2020-01-01", "2020-02-10", "2020-07-01"]


def make_array(dtype: str = "f4") -> np.ndarray:
    """Reflectances that are all different, some slightly negative."""
    order = np.random.default_rng(0).permutation(T * H * W * L)
    return (order.reshape(T, H, W, L) / order.size - 0.01).astype(dtype)


def make_labelled() -> xr.DataArray:
    return xr.DataArray(
        make_array(),
        dims=DIMS,
        coords={
            "time": np.array(DATES, dtype="datetime64[ns]"),
            "y": np.arange(H)[::-1] * 30.0,
            "x": np.arange(W) * 30.0,
            "wavelength": WAVELENGTH,
            "fwhm": ("wavelength", np.full(L, 10.0)),
            "tile": ("y", [7, 7, 2, 2]),
            "spatial_ref": 0,
        },
        attrs={"sensor": "made up"},
        name="rho",
    )
