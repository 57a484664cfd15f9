"""A result in which every pixel, date and material has its own number, on grids of several kinds."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from affine import Affine

from pyro_unmix import Unmixing

rasterio = pytest.importorskip("rasterio")


def grid(width: float, height: float, degrees: float = 0.0, shear: float = 0.0) -> Affine:
    """Pixel size along columns and rows, turned counter-clockwise."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return Affine(
        width * cos, -height * sin + shear, 5e5, width * sin, height * cos + shear / 2, 5.8e6
    )


GRIDS = {
    "north-up": grid(30, -20),
    "south-up": grid(30, 20),
    "rotated": grid(30, -30, 25),
    "rotated, south-up": grid(30, 30, -130),
    "quarter turn": grid(30, -30, 90),
    "upside down": grid(-30, 30),
    "sheared": grid(30, -20, shear=7),
}
NORTH_UP = GRIDS["north-up"]
NAMES = ["soil", "végétation", "water 2"]
DATES = np.array(["2021-05-01", "2021-06-11T10:15:30"], dtype="datetime64[ns]")
HEIGHT, WIDTH, BANDS = 19, 23, 12
WAVELENGTHS = np.linspace(450.5, 2400.25, BANDS)
# What no grid has: every pixel, date and material its own number.
PLACES = [(0, 0), (0, WIDTH - 1), (HEIGHT - 1, 0), (HEIGHT - 2, WIDTH - 1), (7, 11)]


def make_result(
    transform: Affine | None = NORTH_UP,
    crs: int | None = 32633,
    *,
    times=DATES,
    names=NAMES,
    size=(HEIGHT, WIDTH),
    dtype="float32",
    std=True,
) -> Unmixing:
    """A result whose georeference rioxarray wrote."""
    rng = np.random.default_rng(0)
    num_dates = 2 if times is None else len(times)
    fractions = rng.dirichlet(np.ones(len(names)), (num_dates, *size)).astype(dtype)
    fractions[0, -1, 3:] = np.nan
    coords = {
        "endmember": names,
        "wavelength": ("wavelength", WAVELENGTHS, {"units": "nm", "long_name": "wavelength"}),
        "fwhm": ("wavelength", np.linspace(8, 12.5, BANDS)),
    }
    if times is not None:
        coords["time"] = times
    if transform is not None and not (transform.b or transform.d):
        coords["x"] = transform.c + transform.a * (np.arange(size[1]) + 0.5)
        coords["y"] = transform.f + transform.e * (np.arange(size[0]) + 0.5)
    maps = ("time", "y", "x", "endmember")
    described = {"long_name": "abundance estimate", "units": "1"}
    variables = {
        "abundances": (maps, fractions, described),
        "abundances_std": (maps, (fractions / 7).astype(dtype)),
        "valid": (maps[:3], rng.uniform(size=fractions.shape[:3]) < 0.8),
        "change": (maps[:3], rng.uniform(size=fractions.shape[:3]).astype(dtype)),
        "reference_endmembers": (
            ("wavelength", "endmember"),
            rng.uniform(0, 1, (BANDS, len(names))).astype(dtype),
        ),
    }
    if not std:
        del variables["abundances_std"]
    dataset = xr.Dataset(variables, coords)
    if crs is not None:
        dataset = dataset.rio.write_crs(crs)
    if transform is not None and (crs is not None or transform.b or transform.d):
        dataset = dataset.rio.write_transform(transform)
    for variable in dataset.variables.values():
        variable.encoding.clear()  # what a fit returns has none
    return Unmixing(dataset, losses=np.array([3.0, 2.0, 1.5]), method="fit")


def place(transform: Affine, row: float, column: float) -> tuple[float, float]:
    a, b, c, d, e, f = transform[:6]
    return a * column + b * row + c, d * column + e * row + f


def at(path: Path | str, transform: Affine, row: int, column: int) -> np.ndarray:
    """The bands that GDAL finds at the place of a pixel, whatever the order of the rows."""
    with rasterio.open(path) as file:
        return next(file.sample([place(transform, row + 0.5, column + 0.5)]))


def maps_of(
    result: Unmixing, time: int, name: str = "abundances", *, filled: bool = False
) -> np.ndarray:
    """(material, y, x); NaN where the pixel-date was not observed, unless filled."""
    maps = result.dataset[name].isel(time=time).transpose("endmember", "y", "x").to_numpy().copy()
    if not filled:
        maps[:, ~result.dataset["valid"].isel(time=time).to_numpy()] = np.nan
    return maps


def variables_of(file: h5py.File) -> set[str]:
    """Names with data; a dimension without coordinate is a placeholder in HDF5."""
    placeholder = b"This is a netCDF dimension but not a netCDF variable"
    return {n for n in file if not file[n].attrs.get("NAME", b"").startswith(placeholder)}
