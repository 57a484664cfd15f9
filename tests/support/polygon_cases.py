"""A small image on a grid, and rectangles on it in files of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu

HEIGHT, WIDTH, SIZE = 6, 8, 30.0
WEST, NORTH = 600_000.0, 5_800_000.0
NM = np.array([450.0, 550.0, 850.0, 1600.0])


def cubes(num_dates: int = 1, epsg: int | None = 32633) -> xr.DataArray:
    """Images in which every spectrum tells its date, row and column."""
    t, y, x = np.meshgrid(np.arange(num_dates), np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    first = 0.1 + 0.01 * x + 0.1 * y + 0.001 * t
    values = np.stack([first, first / 2, first / 3, first / 4], axis=-1)
    made = pu.as_cube_sequence(values, wavelength=NM)
    made = made.assign_coords(
        x=WEST + SIZE * (np.arange(WIDTH) + 0.5),
        y=NORTH - SIZE * (np.arange(HEIGHT) + 0.5),
        fwhm=("wavelength", [10.0, 11.0, 12.0, 13.0]),
    )
    if epsg is not None:
        wkt = pytest.importorskip("rasterio.crs").CRS.from_epsg(epsg).to_wkt()
        made = made.assign_coords(spatial_ref=xr.Variable((), 0, {"crs_wkt": wkt}))
    return made


def box(rows: tuple[float, float], columns: tuple[float, float]) -> list[list[float]]:
    """Corners of a rectangle, in rows and columns of the image."""
    x = [WEST + SIZE * c for c in columns]
    y = [NORTH - SIZE * r for r in rows]
    return [[x[0], y[0]], [x[1], y[0]], [x[1], y[1]], [x[0], y[1]], [x[0], y[0]]]


BOXES = [("soil", (0, 2), (0, 3)), ("leaf", (4.1, 6.4), (5.2, 8.9))]


def write(
    path: Path, epsg: int | None = 32633, boxes: list[Any] = BOXES, field: str = "Class"
) -> Path:
    """Rectangles in a CRS, in a file of its suffix."""
    pyogrio = pytest.importorskip("pyogrio.raw")
    shapely = pytest.importorskip("shapely")
    warp = pytest.importorskip("rasterio.warp")
    shapes = [{"type": "Polygon", "coordinates": [box(r, c)]} for _, r, c in boxes]
    if epsg not in (None, 32633):
        shapes = list(warp.transform_geom("EPSG:32633", f"EPSG:{epsg}", shapes))
    geometry = np.array(shapely.to_wkb([shapely.geometry.shape(s) for s in shapes]), dtype=object)
    labels = np.array([label for label, _, _ in boxes], dtype=object)
    pyogrio.write(
        path,
        geometry,
        [labels, np.arange(len(boxes))],
        [field, "number"],
        geometry_type="Polygon",
        crs=None if epsg is None else f"EPSG:{epsg}",
        append=path.exists(),
    )
    return path
