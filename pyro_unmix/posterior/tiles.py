"""Read-out of scenes larger than memory, tile by tile: lazily with Dask, or into a Zarr store that can be resumed."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from pyro import poutine

from pyro_unmix.data.crs import crs_coordinates, crs_text
from pyro_unmix.data.cubes import as_cube_sequence, check_bands
from pyro_unmix.data.lazy import as_cubes, cleaned, is_lazy, tile_regions
from pyro_unmix.data.types import CubesLike, GuideProgram, ModelProgram
from pyro_unmix.models.base import Decode
from pyro_unmix.ops.engine_lock import lent, one_tile
from pyro_unmix.ops.extras import need
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.autoguides import holds_pixels
from pyro_unmix.posterior.dates import check_kind_of_dates, dated, has_field
from pyro_unmix.posterior.decoding import name_of
from pyro_unmix.posterior.estimates import PolishedMean, PosteriorMean, are_many_to_polish
from pyro_unmix.posterior.programs import ParamStore, model_dtype_and_device, prepare, quiet_pyro
from pyro_unmix.posterior.read_out import read_out

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing


logger = logging.getLogger(__name__)


def predict(result: Unmixing, other_cubes: CubesLike) -> tuple[Any, Any, xr.DataArray, xr.Dataset]:
    """Model and guide at the dates of other images, these cubes, and their read-out by a fitted `Unmixing`; lazy ones
    of a DataArray in chunks.
    """
    cubes = as_cubes(other_cubes)
    lazy = is_lazy(cubes)
    known = result.dataset if result.cubes is None else result.cubes
    bands = known.sizes.get("wavelength", cubes.sizes["wavelength"])
    if cubes.sizes["wavelength"] != bands:
        raise ValueError(
            f"expected cubes with the {bands} bands of the fit, got {cubes.sizes['wavelength']}: "
            "select or resample the same bands first"
        )
    if "wavelength" in result.dataset.coords:
        check_bands(result.dataset["wavelength"], cubes)
    how: dict[str, Any] = {"estimate": result.estimate, "seed": result.seed, "store": result.store}
    how["decode"] = result.decode
    check_kind_of_dates(result.model, result.dataset, cubes)
    model, guide = dated(result.model, result.guide, cubes)
    if has_field(model):
        _check_scene(result, cubes, lazy)
    elif not _is_same_scene(result, cubes, lazy):
        _check_pixels(result, model, guide, cubes)
    num_pixels = cubes.sizes["y"] * cubes.sizes["x"]
    num_dates = cubes.sizes["time"]
    if isinstance(result.estimate, PolishedMean) and are_many_to_polish(num_pixels, num_dates):
        logger.warning(
            "the sweeps of PolishedMean take a millisecond or more for each of %d pixel-dates; predict(..., "
            "estimate=PosteriorMean()) does without them, in a fiftieth of the time",
            num_pixels * num_dates,
        )
    if not lazy:
        return model, guide, cubes, read_out(model, guide, cubes, **how)
    reader = TileReader(model, guide, num_pixels=num_pixels, **how)
    return model, guide, cubes, lazy_read_out(reader, cubes)


def _check_scene(result: Unmixing, cubes: xr.DataArray, lazy: bool) -> None:
    """Refuse other images than those of the fit, whose field is not known; dates without images may be added.

    The values of lazy images are not read: their dates, sizes and coordinates must be those of the fit.
    """
    fitted = result.cubes if result.cubes is not None else result.dataset
    if lazy and not _alike(cubes, fitted, "time"):
        raise ValueError(
            "the smooth field of the model belongs to the images that it was fitted to, and lazy images cannot be "
            "given other dates: load them, result.predict(cubes.load())"
        )
    own, empty = cubes, True
    if cubes.sizes["time"] > fitted.sizes["time"]:
        added = ~np.isin(cubes["time"].values, fitted["time"].values)
        own = cubes.isel(time=np.flatnonzero(~added))
        empty = not np.isfinite(cubes.values[added]).any()
    same = empty and own.sizes["time"] == fitted.sizes["time"]
    same = same and all(_alike(cubes, fitted, dim) for dim in ("y", "x"))
    if same and not lazy and result.cubes is not None:
        same = np.array_equal(own.values, result.cubes.values, equal_nan=True)
    if not same:
        raise ValueError(
            "the smooth field of the model belongs to the images that it was fitted to, and these are others: fit "
            "them, or use unmix(..., basis=DCT(6)), whose pixels stand alone"
        )


def _is_same_scene(result: Unmixing, cubes: xr.DataArray, lazy: bool) -> bool:
    """Whether these are the images of the fit, as far as that is known without reading lazy ones."""
    fitted = result.cubes if result.cubes is not None else result.dataset
    same = all(_alike(cubes, fitted, dim) for dim in ("time", "y", "x"))
    if not same or lazy or result.cubes is None or is_lazy(result.cubes):
        return same
    return np.array_equal(cubes.values, result.cubes.values, equal_nan=True)


def _check_pixels(
    result: Unmixing, model: ModelProgram, guide: GuideProgram, cubes: xr.DataArray
) -> None:
    """Refuse images that a guide with parameters of every pixel of other ones cannot read out."""
    dtype, device = model_dtype_and_device(model)
    spectrum = (1, cubes.sizes["time"], cubes.sizes["wavelength"])
    pixel = torch.full(spectrum, 0.5, dtype=dtype, device=device)  # lazy images are not read
    valid = torch.ones(spectrum[:2], dtype=torch.bool, device=device)
    index = torch.zeros(1, dtype=torch.long, device=device)
    with quiet_pyro(result.store), torch.no_grad(), seeded(0, device):
        features = prepare(guide, pixel, valid, index)
        size = result.dataset.sizes["y"] * result.dataset.sizes["x"]
        trace = poutine.trace(guide).get_trace(
            pixel, valid, index=index, size=size, features=features
        )
    if holds_pixels(guide, trace.nodes):
        raise ValueError(
            f"the guide {name_of(guide)} has parameters of every pixel of the images that it was fitted to, and knows "
            "nothing of others: fit these, or fit a guide that computes its distributions from the pixels"
        )


def _alike(cubes: xr.DataArray, fitted: Any, dim: str) -> bool:
    """Whether sizes agree, and coordinates if both have them."""
    if dim in cubes.coords and dim in fitted.coords:
        return np.array_equal(cubes[dim].values, fitted[dim].values)
    return cubes.sizes[dim] == fitted.sizes[dim]


@dataclass(frozen=True)
class TileReader:
    """Reads out tiles of a scene; a function that processes can send to each other."""

    model: Any
    guide: Any
    estimate: PosteriorMean
    seed: int
    store: ParamStore | None
    num_pixels: int
    decode: Decode | None = None

    def __call__(self, tile: xr.DataArray, numbers: xr.DataArray) -> xr.Dataset:
        """The maps of one tile; `numbers` (y, x) of its pixels in the scene."""
        place = numbers.to_numpy().ravel(), self.num_pixels
        with one_tile(), one_thread():
            dataset = read_out(
                self.model, self.guide, cleaned(tile),
                estimate=self.estimate, seed=self.seed, store=self.store, place=place, decode=self.decode,
            )  # fmt: skip
        return dataset[maps_of(dataset)].drop_vars("wavelength", errors="ignore")


@one_thread()
def lazy_read_out(reader: TileReader, cubes: xr.DataArray) -> xr.Dataset:
    """`read_out` of cubes in chunks: the same dataset, computed when it is asked for.

    Parameters
    ----------
    reader : TileReader
    cubes : DataArray
        From `as_lazy_cubes`.
    """
    dask = need("dask.array", "scale")
    height, width = cubes.sizes["y"], cubes.sizes["x"]
    grid = cubes.chunksizes["y"], cubes.chunksizes["x"]
    numbers = dask.arange(height * width, chunks=-1).reshape(height, width).rechunk(grid)
    # One pixel tells names, dims and types of what a tile will give.
    corner = cubes.isel(y=[0], x=[0])
    corner = corner.copy(data=np.full(corner.shape, 0.5, dtype=cubes.dtype))
    pixel = read_out(
        reader.model, reader.guide, as_cube_sequence(corner), estimate=reader.estimate,
        seed=reader.seed, store=reader.store, place=(np.zeros(1, dtype=int), reader.num_pixels),
        decode=reader.decode,
    )  # fmt: skip
    plane = {name: c for name, c in cubes.coords.items() if "wavelength" not in c.dims}
    sizes = dict(zip(("y", "x"), grid, strict=True))
    template = xr.Dataset(
        {
            name: (
                pixel[name].dims,
                dask.zeros(
                    [cubes.sizes.get(d, pixel.sizes[d]) for d in pixel[name].dims],
                    dtype=pixel[name].dtype,
                    chunks=[sizes.get(d, -1) for d in pixel[name].dims],
                ),
                pixel[name].attrs,
            )
            for name in maps_of(pixel)
        },
        coords={
            **{k: c for k, c in pixel[maps_of(pixel)].coords.items() if k not in plane},
            **plane,
        },
    ).drop_vars("wavelength", errors="ignore")
    labels = xr.DataArray(numbers, dims=("y", "x"))
    maps = xr.map_blocks(reader, cubes, args=[labels], template=template)
    rest = pixel.drop_vars(maps_of(pixel))
    for name, array in maps.data_vars.items():
        array.attrs = dict(pixel[name].attrs)
    if "wavelength" in pixel.coords:
        maps = maps.assign_coords(wavelength=pixel["wavelength"])
    return maps.assign({name: rest[name].drop_vars(["y", "x"], errors="ignore") for name in rest})


def identity(result: Any, tile: int) -> dict[str, Any]:
    """What two predictions have in common if their tiles belong together, other than the images' values: trained
    numbers, read-out, grid, coordinates.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (result.model, result.guide):
        digest.update(type(part).__qualname__.encode())
        for name, value in part.state_dict().items() if hasattr(part, "state_dict") else ():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).data)
    for name, value in (result.store or {"params": {}})["params"].items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).data)
    return {
        "trained parameters (hash)": digest.hexdigest(),
        "estimate": repr(result.estimate),
        "seed": result.seed,
        "sizes": {str(name): size for name, size in result.cubes.sizes.items()},
        "type": str(result.cubes.dtype),
        "dates": [str(date) for date in result.cubes["time"].values]
        if "time" in result.cubes.coords
        else None,
        **_described(result.cubes.drop_vars("time", errors="ignore").coords),
        "tile": tile,
        **({} if result.decode is None else {"decode": name_of(result.decode)}),
    }


def _described(coords: Any) -> dict[str, str]:
    """Ends and hash of every coordinate; the texts of a CRS."""
    texts = {}
    for name in crs_coordinates(coords):
        attrs = coords[name].attrs
        texts[f"CRS in {name}"] = f"{crs_text(attrs)}, {attrs.get('GeoTransform')}"
    for name, coordinate in coords.items():
        values = coordinate.to_numpy()
        ends = " to ".join(str(values.flat[i]) for i in (0, -1))
        content = values.tobytes() if values.dtype.kind != "O" else repr(values.tolist()).encode()
        digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        texts[f"coordinate {name}"] = f"{ends} (hash {digest})"
    return texts


def maps_of(dataset: xr.Dataset) -> list[Any]:
    """Names of what has a value per pixel."""
    return [name for name, array in dataset.data_vars.items() if {"y", "x"} <= set(array.dims)]


def tiled_read_out(
    model: ModelProgram,
    guide: GuideProgram,
    cubes: xr.DataArray,
    *,
    estimate: PosteriorMean,
    seed: int = 0,
    store: ParamStore | None = None,
    progress: bool = False,
    workers: Any = None,
    decode: Decode | None = None,
) -> xr.Dataset:
    """`read_out` of cubes in chunks, of which one is in memory at a time; the maps are in memory as a whole.

    Parameters
    ----------
    cubes : DataArray
        From `as_lazy_cubes`.
    model, guide, estimate, seed, store, progress, workers, decode
        As `read_out` takes.
    """
    height, width = cubes.sizes["y"], cubes.sizes["x"]
    how: dict[str, Any] = {"estimate": estimate, "seed": seed, "store": store, "decode": decode}
    dataset = lazy_read_out(TileReader(model, guide, num_pixels=height * width, **how), cubes)
    maps = {name: np.empty(dataset[name].shape, dataset[name].dtype) for name in maps_of(dataset)}
    numbers = np.arange(height * width).reshape(height, width)
    with progress_bar(total=numbers.size, shown=progress, desc="read out", unit="pixel") as bar:
        for rows, columns in tile_regions(cubes):
            part = numbers[rows, columns]
            with lent():
                images = cubes.isel(y=rows, x=columns).compute()
            place = part.ravel(), numbers.size
            found = read_out(model, guide, cleaned(images), place=place, workers=workers, **how)
            for name, values in maps.items():
                values[:, rows, columns] = found[name].transpose(*dataset[name].dims).values
            bar.update(part.size)
    return dataset.assign({name: dataset[name].copy(data=maps[name]) for name in maps})
