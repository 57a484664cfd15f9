"""Write the abundance maps of every date as GeoTIFF or ENVI files.

Rows and columns keep the order of the dataset; the transform says where they lie. Only ENVI, whose
headers know no reflection, gets south-up images turned (see `write_envi`).
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from pyro_unmix.data.names import material_names
from pyro_unmix.io.write.datasets import Georeference, check_free, grid_of, workshop
from pyro_unmix.io.write.libraries import write_sli
from pyro_unmix.io.write.qgis import styles
from pyro_unmix.io.write.replacing import replace_files
from pyro_unmix.ops.extras import need

logger = logging.getLogger(__name__)

_BLOCK = 256  # side of the tiles of a GeoTIFF, a multiple of 16
_BESIDE = ("brightness", "rmse")  # variables that are bands of their own, in this order


class _Layer(NamedTuple):
    name: str  # of the file, without suffix
    title: str
    date: np.datetime64 | float | None
    bands: list[str]
    values: np.ndarray  # (band, y, x)


def write_geotiff(
    dataset: xr.Dataset,
    directory: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    filled: bool = False,
) -> list[Path]:
    """Write one GeoTIFF per date, one band per material, and brightness and RMSE.

    ``abundances_<date>.tif`` holds the abundances and, where they are known, the band ``brightness``, what fractions
    summed to before they were scaled to one (one minus the shade), and last ``rmse``, what they leave of the image
    (reflectance); ``abundances_<date>_std.tif`` the posterior standard deviation of the abundances where the dataset
    has one. The date is ``2021-07-31``; with
    the time of day, ``2021-07-31T101500``, where a day has several; ``t`` and the number for
    numeric times; the position without any. Bands have the name of the material as description,
    "material 0" and so on where materials have none; of a material "rmse", ``rmse (material)``, alike "brightness".
    Numbers keep their precision (float32 or float64), and NaN is nodata: pixel-dates that were not observed, unless
    they are to be filled.
    Tags: ``time`` (ISO, UTC, or the number), which `read_sequence` takes for the date,
    ``TIFFTAG_DATETIME``, ``method``. Tiled and deflate-compressed; images below 16 pixels in strips.
    Beside each file of abundances lies its style for QGIS (``.qml``), which shows the first material from white to the
    colour that it has in pictures; ``style_<position>_<material>.qml`` are those of every material.

    Parameters
    ----------
    dataset : xarray.Dataset
        As `Unmixing.to_dataset` returns.
    directory : path
        Made if it is not there.
    overwrite : bool
        Replace files of the same names; others are left.
    filled : bool
        Also write what the model says of pixel-dates that are not `valid`, which it infers from the
        other dates; by default they are NaN, in the abundances and in their std.

    Returns
    -------
    list of Path
        The GeoTIFFs, by date.

    Raises
    ------
    ImportError
        Without rasterio (extra ``io``).
    FileExistsError
        If one of the files exists and is not to be replaced; nothing is written then.
    ValueError
        If x or y is not evenly spaced, or the CRS is no WKT that GDAL knows.
    """
    rasterio = need("rasterio", "io")
    directory = Path(directory)
    georeference = _rasterio_grid(grid_of(dataset))
    layers = list(_layers(dataset, filled))
    paths = [directory / f"{layer.name}.tif" for layer in layers]
    maps = [layer.name for layer in layers if not layer.name.endswith("_std")]
    looks = styles(material_names(dataset), maps)
    check_free([*paths, *(directory / name for name in looks)], overwrite)
    with workshop(directory) as folder:
        for name, text in looks.items():
            (folder / name).write_text(text, encoding="utf-8")
        for layer, path in zip(layers, paths, strict=True):
            profile = {**georeference, **_profile(layer.values)}
            with warnings.catch_warnings():
                # An image without a place is one on purpose here.
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                with rasterio.open(folder / path.name, "w", **profile) as file:
                    file.write(layer.values)
                    file.descriptions = layer.bands
                    file.update_tags(**_tags(layer, dataset.attrs.get("method")))
        replace_files([*looks, *(path.name for path in paths)], folder)
    return paths


def _profile(values: np.ndarray) -> dict[str, Any]:
    count, height, width = values.shape
    # A tile larger than the image is refused.
    block = min(_BLOCK, height // 16 * 16, width // 16 * 16)
    tiling = {"tiled": True, "blockxsize": block, "blockysize": block} if block else {}
    return {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": values.dtype.name,
        "nodata": math.nan,
        "compress": "deflate",
        "predictor": 3,
        "interleave": "band",
        "bigtiff": "IF_SAFER",  # the compressed size is not known beforehand
        **tiling,
    }


def _rasterio_grid(grid: Georeference) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if grid.crs is not None:
        found["crs"] = _crs(grid.crs)
    if grid.transform is not None:
        found["transform"] = need("rasterio.transform", "io").Affine(*grid.transform)
    return found


def _crs(text: str) -> Any:
    """The CRS of WKT.

    Raises
    ------
    ValueError
        If it is none that GDAL knows, as any text in a NetCDF file may be.
    """
    try:
        return need("rasterio.crs", "io").CRS.from_wkt(text)
    except need("rasterio.errors", "io").CRSError as error:
        raise ValueError(
            f"expected a CRS in WKT, got {text[:60]!r}: give the maps another one with rioxarray, "
            "dataset.rio.write_crs(...), or drop it with dataset.drop_vars(...)"
        ) from error


def _tags(layer: _Layer, method: Any) -> dict[str, str]:
    from pyro_unmix.io.formats.geotiff import SOFTWARE

    tags = {"TIFFTAG_IMAGEDESCRIPTION": layer.title, "TIFFTAG_SOFTWARE": SOFTWARE}
    if isinstance(layer.date, np.datetime64):
        tags["time"] = str(np.datetime_as_string(layer.date, unit="auto"))
        seconds = str(np.datetime_as_string(layer.date, unit="s"))
        tags["TIFFTAG_DATETIME"] = seconds.replace("-", ":").replace("T", " ")
    elif layer.date is not None:
        tags["time"] = str(layer.date)
    return tags | ({"method": str(method)} if method else {})


# ------------------------------------------------------------------ ENVI


def write_envi(
    dataset: xr.Dataset,
    directory: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    filled: bool = False,
) -> list[Path]:
    """Write one ENVI image per date with the bands of `write_geotiff`, and the endmembers as library.

    ``abundances_<date>.hdr`` with ``.img`` (bsq), ``abundances_<date>_std.hdr`` where there is a
    posterior (names and missing pixels as in `write_geotiff`), and ``endmembers.hdr`` with ``.sli``: the reference
    endmembers, where there are any, with their names and, where known, wavelengths and fwhm in nm. NaN is the ``data
    ignore value``; ``acquisition time`` is the date. ``map info`` has north-up images, or rotated
    ones of square pixels, so images that lie south-up are written with their rows from the other
    end, and the map coordinates of each pixel stay what they are. ``map info`` cannot be without a
    coordinate system: without a CRS it is left out.

    Parameters
    ----------
    dataset, directory, overwrite, filled
        As in `write_geotiff`.

    Returns
    -------
    list of Path
        The headers, by date; that of the library, if there is one, last.

    Raises
    ------
    ImportError
        Without SPy or, for a CRS, rasterio (extra ``io``).
    FileExistsError
        If one of the files exists and is not to be replaced; nothing is written then.
    ValueError
        If x or y is not evenly spaced, the transform is sheared or rotated with pixels that are not
        square, or the name of a material has characters that a header cannot hold.
    """
    envi = need("spectral.io.envi", "io")
    directory = Path(directory)
    names = material_names(dataset)
    for name in names:
        if set(name) & set(",{}\r\n"):
            raise ValueError(
                f"names in an ENVI header cannot hold commas, braces or line breaks, got {name!r}: "
                "rename the material with dataset.assign_coords(endmember=[...])"
            )
    layers = list(_layers(dataset, filled))
    turn, place = _envi_place(grid_of(dataset), layers[0].values.shape[1:])
    headers = [directory / f"{layer.name}.hdr" for layer in layers]
    library = directory / "endmembers.hdr"
    targets = [*[p for h in headers for p in (h, h.parent / f"{h.stem}.img")], library]
    check_free([*targets, directory / "endmembers.sli"], overwrite)
    with workshop(directory) as folder:
        for layer, header in zip(layers, headers, strict=True):
            fields = {
                "description": layer.title,
                "band names": layer.bands,
                "data ignore value": "nan",
            }
            if isinstance(layer.date, np.datetime64):
                fields["acquisition time"] = f"{np.datetime_as_string(layer.date, unit='s')}Z"
            image = np.ascontiguousarray(layer.values[turn].transpose(1, 2, 0))
            envi.save_image(
                str(folder / header.name),
                image,
                metadata={**fields, **place},
                interleave="bsq",
                byteorder=0,
                ext=".img",
            )
        written = [name for h in headers for name in (f"{h.stem}.img", h.name)]
        if "reference_endmembers" in dataset:
            spectra = dataset["reference_endmembers"]
            write_sli(spectra, names, folder / "endmembers.sli", "reference endmembers")
            written += ["endmembers.sli", library.name]
            headers.append(library)
        replace_files(written, folder)
    return headers


def _envi_place(
    grid: Georeference, shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], dict[str, Any]]:
    """How to turn (band, row, column), and the header fields of the turned image.

    GDAL and ENVI: columns run along ``s (cos r, sin r)``, rows along ``s (sin r, -cos r)``, for the
    rotation r (counter-clockwise) and the pixel size s.
    """
    keep, back = slice(None), slice(None, None, -1)
    place: dict[str, Any] = {}
    if grid.crs is not None:
        crs = _crs(grid.crs)
        # As one string: SPy replaces the commas of lists.
        place["coordinate system string"] = f"{{{crs.to_wkt(version='WKT1_ESRI')}}}"
    if grid.transform is None:
        return (keep, keep, keep), place
    if grid.crs is None:
        logger.info("without a CRS, an ENVI header cannot hold the transform: map info is left out")
        return (keep, keep, keep), place
    a, b, c, d, e, f = grid.transform
    rows = columns = keep
    if a * e - b * d > 0:  # a reflection: count the rows from the other end
        rows, c, f, b, e = back, c + shape[0] * b, f + shape[0] * e, -b, -e
    if a < 0:  # both from the other end; GDAL takes a rotation of 180 degrees for south-up
        rows, columns = (keep if rows == back else back), back
        c, f = c + shape[1] * a + shape[0] * b, f + shape[1] * d + shape[0] * e
        a, b, d, e = -a, -b, -d, -e
    place["map info"] = [*_envi_projection(crs, c, f, math.hypot(a, d), math.hypot(b, e))]
    rotation = _envi_rotation(a, b, d, e)
    if rotation:
        place["map info"].append(f"rotation={rotation!r}")
    return (keep, rows, columns), place


def _envi_rotation(a: float, b: float, d: float, e: float) -> float:
    width, height = math.hypot(a, d), math.hypot(b, e)
    sheared = abs(a * b + d * e) > 1e-6 * width * height
    stretched = abs(width - height) > 1e-6 * width
    if sheared or (stretched and (b or d)):
        raise ValueError(
            "map info of ENVI has no sheared images and no rotated ones whose pixels are not "
            f"square, got the transform {(a, b, d, e)}: write GeoTIFF, or reproject first with "
            "rioxarray's rio.reproject"
        )
    return math.degrees(math.atan2(d, a))


def _envi_projection(crs: Any, x: float, y: float, width: float, height: float) -> list[str]:
    """The first fields of ``map info``; what the projection is says the coordinate system string."""
    tie = ["1", "1", *(repr(float(v)) for v in (x, y, width, height))]
    code = crs.to_epsg() or 0
    if code // 100 in (326, 327) and 1 <= code % 100 <= 60:
        return ["UTM", *tie, str(code % 100), "North" if code < 32700 else "South", "WGS-84"]
    if crs.is_geographic:
        return ["Geographic Lat/Lon", *tie]
    return ["Arbitrary", *tie]


# ------------------------------------------------------------------ layers


def _layers(dataset: xr.Dataset, filled: bool) -> Iterator[_Layer]:
    dates = _dates(dataset)
    for position, (label, date) in enumerate(zip(_labels(dates), dates, strict=True)):
        for variable, suffix in (("abundances", ""), ("abundances_std", "_std")):
            if variable not in dataset:
                continue
            maps = dataset[variable].isel(time=position)
            if not filled and "valid" in dataset:
                maps = maps.where(dataset["valid"].isel(time=position))
            values = maps.transpose("endmember", "y", "x").to_numpy()
            beside = [name for name in _BESIDE if name in dataset]
            bands = [
                f"{name} (material)" if name in beside else name for name in material_names(dataset)
            ]
            for name in beside if variable == "abundances" else []:
                extra = dataset[name].isel(time=position).transpose("y", "x").to_numpy()
                values = np.concatenate([values, extra[None].astype(values.dtype)])
                bands.append(name)
            title = str(dataset[variable].attrs.get("long_name", variable))
            yield _Layer(f"abundances_{label}{suffix}", title, date, bands, values)


def _dates(dataset: xr.Dataset) -> list[Any]:
    if "time" not in dataset.coords:
        return [None] * dataset.sizes["time"]
    times = dataset["time"].to_numpy()
    return list(times) if times.dtype.kind == "M" else times.tolist()


def _labels(dates: list[Any]) -> list[str]:
    """Different names for different dates, no longer than they have to be."""
    if any(date is None for date in dates):
        digits = len(str(len(dates) - 1))
        return [f"{position:0{digits}d}" for position in range(len(dates))]
    if not all(isinstance(date, np.datetime64) for date in dates):
        return [f"t{date}" for date in dates]
    for unit in ("D", "s", "ns"):
        # No colons: Windows has none in file names.
        labels = [str(np.datetime_as_string(d, unit=unit)).replace(":", "") for d in dates]
        if len(set(labels)) == len(labels):
            break
    return labels
