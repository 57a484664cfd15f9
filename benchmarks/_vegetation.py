"""Vegetation fractions of the EnMAP tiles of Potsdam against an independent map at 100 pixels.

All tiles are unmixed together; nothing is averaged across their edges. No truth enters but the
name: vegetation is what has a red edge, `VEGETATION_RULE`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix import Brightness, extract_endmembers, unmix
from pyro_unmix.methods import fcls

NUM_ENDMEMBERS = 6
_RED, _NEAR_INFRARED = 670.0, 780.0  # nm, before and behind the red edge
_WATER_VAPOUR = ((1340.0, 1450.0), (1790.0, 1970.0))  # nm
VEGETATION_RULE = "the sum of all materials with (R780 - R670) / (R780 + R670) > 0.4 and R780 > 0.1"


def load(folder: Path) -> tuple[xr.DataArray, np.ndarray]:
    """Cubes (time, y, x, wavelength) with the tiles along y, and rows (y, x, fraction)."""
    with np.load(folder / "enmap_potsdam.npz") as file:
        stored, wavelength, good = file["dn"], file["wavelength"], file["bbl"] > 0
        values = np.where(stored == file["nodata"], np.nan, stored * file["scale"])
        reference = file["veg"]
    for low, high in _WATER_VAPOUR:
        good &= (wavelength < low) | (wavelength > high)
    num_tiles, _, height, width = stored.shape
    values = values[:, good].transpose(0, 2, 3, 1).reshape(1, num_tiles * height, width, -1)
    cubes = xr.DataArray(
        values.astype(np.float32),
        dims=("time", "y", "x", "wavelength"),
        coords={
            "wavelength": wavelength[good],
            "tile": ("y", np.repeat(np.arange(num_tiles), height)),
        },
        name="reflectance",
    )
    tile, row, column = reference[:, :3].T.astype(int)
    return cubes, np.column_stack([tile * height + row, column, reference[:, 3]])


def is_vegetation(endmembers: xr.DataArray) -> np.ndarray:
    """Which endmembers (wavelength, endmember) have a red edge."""
    at = endmembers["wavelength"].values
    red, infrared = (endmembers.values[np.abs(at - nm).argmin()] for nm in (_RED, _NEAR_INFRARED))
    return ((infrared - red) > 0.4 * (infrared + red)) & (infrared > 0.1)


def _fcls(cubes: xr.DataArray, seed: int, few: dict[str, int]) -> Any:
    found = extract_endmembers(cubes, NUM_ENDMEMBERS, window=1, seed=seed)
    return fcls(cubes, endmembers=found, progress=False)


def _unmix(**options: Any) -> Callable[[xr.DataArray, int, dict[str, int]], Any]:
    return lambda cubes, seed, few: unmix(
        cubes, NUM_ENDMEMBERS, seed=seed, progress=False, **few, **options
    )


METHODS: dict[str, Callable[[xr.DataArray, int, dict[str, int]], Any]] = {
    "N-FINDR on single pixels + FCLS": _fcls,
    "`unmix`": _unmix(),
    "`unmix`, `Brightness()`": _unmix(basis=Brightness()),
}


def measure(folder: Path, seed: int, quick: bool = False) -> list[dict[str, Any]]:
    """Correlation, RMSE and bias of every method's vegetation fraction at the reference pixels."""
    cubes, reference = load(folder)
    row, column = reference[:, :2].astype(int).T
    few = {"num_steps": 2} if quick else {}
    records = []
    for name, run in METHODS.items():
        cpu = time.process_time()
        result = run(cubes, seed, few)
        cpu = time.process_time() - cpu
        chosen = is_vegetation(result.reference_endmembers)
        fraction = result.abundances.values[0, row, column][:, chosen].sum(-1)
        error = fraction - reference[:, 2]
        records.append(
            {
                "scene": "EnMAP Potsdam",
                "method": name,
                "seed": seed,
                "vegetation materials": int(chosen.sum()),
                "correlation": float(np.corrcoef(fraction, reference[:, 2])[0, 1]),
                "RMSE": float(np.sqrt(np.mean(error**2))),
                "bias": float(error.mean()),
                "CPU s": cpu,
            }
        )
    return records


def table(records: list[dict[str, Any]]) -> str:
    """Markdown, a row per record."""
    columns = ("vegetation materials", "correlation", "RMSE", "bias", "CPU s")
    lines = [
        "| method | seed | " + " | ".join(columns) + " |",
        "|---|---:|" + "---:|" * len(columns),
    ]
    for record in records:
        cells = [
            str(record[c]) if isinstance(record[c], int) else f"{record[c]:.3f}" for c in columns
        ]
        lines.append(f"| {record['method']} | {record['seed']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
