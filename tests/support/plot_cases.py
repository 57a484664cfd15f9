"""A small made-up result, and what is drawn in axes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

NAMES = ["water", "vegetation", "soil", "road", "snow", "sand", "tree", "roof", "ice"]


def make_result(
    num_dates=3, height=6, width=5, num_endmembers=3, num_bands=8, *, seed=0, **options: Any
) -> SimpleNamespace:
    """A result with the attributes of `Unmixing`, filled with random numbers."""
    rng = np.random.default_rng(seed)
    labels = options.get("labels", NAMES[:num_endmembers])
    coords: dict[str, Any] = {"endmember": labels}
    if options.get("time") is not None:
        coords["time"] = options["time"]
    if options.get("tile") is not None:
        coords["tile"] = ("y", options["tile"])
    shape = (num_dates, height, width)
    abundances = xr.DataArray(
        rng.dirichlet(np.ones(num_endmembers), size=shape),
        dims=("time", "y", "x", "endmember"),
        coords=coords,
    )
    wavelength = options.get("wavelength", np.linspace(400.0, 1100.0, num_bands))
    spectral: dict[str, Any] = {"endmember": labels}
    if wavelength is not None:
        spectral["wavelength"] = wavelength
    num_bands = num_bands if wavelength is None else len(wavelength)
    reference = rng.uniform(0.1, 0.5, size=(num_bands, num_endmembers))
    spectra = reference * rng.uniform(0.8, 1.2, size=(*shape, 1, num_endmembers))
    change = rng.uniform(size=shape)
    change[0] = np.nan

    def endmembers(time: int = 0) -> xr.DataArray:
        dims = ("y", "x", "wavelength", "endmember")
        return xr.DataArray(spectra[time], dims=dims, coords=spectral)

    return SimpleNamespace(
        abundances=abundances,
        abundances_std=0.1 * abundances,
        reference_endmembers=xr.DataArray(
            reference, dims=("wavelength", "endmember"), coords=spectral
        ),
        endmembers=endmembers,
        spectra=spectra,  # not part of a result: what the tests compare with
        change=xr.DataArray(
            change, dims=shape_dims, coords={k: v for k, v in coords.items() if k != "endmember"}
        ),
        valid=xr.DataArray(np.ones(shape, dtype=bool), dims=shape_dims),
        losses=rng.normal(size=100),
    )


shape_dims = ("time", "y", "x")


def images(figure: Figure) -> list[np.ndarray]:
    """The drawn maps in the order of the axes, without colour bars."""
    return [np.ma.getdata(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def cielab(rgb: np.ndarray, deficiency: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB colours as seen through a 3 x 3 simulation in linear RGB."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ deficiency.T, 0.0, 1.0)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    f = (linear @ to_xyz.T) / np.array([0.9505, 1.0, 1.089])
    f = np.where(f > 0.008856, np.cbrt(f), 7.787 * f + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


# Normal sight and Machado, Oliveira, Fernandes (2009), severity 1.
SIGHTS = [
    np.eye(3),
    np.array(  # protanopia
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    np.array(  # deuteranopia
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    np.array(  # tritanopia
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
]
