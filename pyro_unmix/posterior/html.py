"""What a notebook shows of a result: key figures, thumbnails of the maps, the spectra, and the dataset below."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pyro_unmix.data.colours import material_colour
from pyro_unmix.data.names import material_names

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing

#: Thumbnails have no more pixels along a side than this: of larger maps every second, third, ... one is shown.
_MOST_PIXELS = 120
#: Dates in a row: of longer sequences the first and last ones and some between.
_MOST_DATES = 4
_SIDE = 96  # of a thumbnail on the screen


def summary_html(result: Unmixing) -> str:
    """The HTML of ``Unmixing._repr_html_``; maps that are not computed yet stay so."""
    title = escape(repr(result).strip("<>"))
    body = "" if result.abundances.chunks is not None else _facts(result) + _table(result)
    return (
        '<div style="overflow-x:auto">'
        f'<div style="font-weight:bold;margin-bottom:.3em">{title}</div>{body}'
        f"<details><summary>dataset</summary>{result.dataset._repr_html_()}</details></div>"
    )


def chosen_dates(total: int, most: int = _MOST_DATES) -> list[int]:
    """Positions of at most `most` dates, evenly from the first to the last."""
    return np.unique(np.round(np.linspace(0, total - 1, min(most, total))).astype(int)).tolist()


def date_labels(maps: xr.DataArray) -> list[str]:
    """What the dates are called in a table: days, numbers, or positions."""
    if "time" not in maps.coords:
        return [str(position) for position in range(maps.sizes["time"])]
    values = maps["time"].values
    if np.issubdtype(values.dtype, np.datetime64):
        return np.datetime_as_string(values, unit="D").tolist()
    return [str(value) for value in values.tolist()]


def png_uri(image: np.ndarray, **how: Any) -> str:
    """A data URI of an image as it is, pixel by pixel; NaN is transparent."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, image, format="png", **how)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def key_figures(result: Unmixing) -> dict[str, str]:
    """The numbers that a reader asks for first, as text."""
    sizes, std = result.abundances.sizes, result.abundances_std
    seen = result.valid if "valid" in result.dataset else None
    figures = {
        "pixels": f"{sizes['y']} rows x {sizes['x']} columns",
        "dates": str(sizes["time"]),
        "materials": str(sizes["endmember"]),
    }
    if seen is not None:
        figures["observed"] = f"{100 * float(seen.mean()):.0f} %"
        std = std.where(seen)
    middle = float(std.median()) if bool(std.notnull().any()) else None
    figures["median std of a fraction"] = "no posterior" if middle is None else f"{middle:.3f}"
    return figures


def _facts(result: Unmixing) -> str:
    texts = (f"{escape(name)}: {escape(text)}" for name, text in key_figures(result).items())
    return f'<div style="margin-bottom:.4em">{" &middot; ".join(texts)}</div>'


def _table(result: Unmixing) -> str:
    maps = result.abundances.transpose("time", "y", "x", "endmember")
    seen = maps.where(result.valid) if "valid" in result.dataset else maps
    means = seen.mean(("time", "y", "x")).values
    dates, labels = chosen_dates(maps.sizes["time"]), date_labels(maps)
    head = "".join(f"<th>{escape(labels[t])}</th>" for t in dates)
    rows = [
        f'<tr><td style="text-align:left">{swatch(p)} {escape(name)}</td>'
        f"<td>{means[p]:.3f}</td>"
        + "".join(f"<td>{_thumbnail(maps[t, ..., p], f'{name}, {labels[t]}')}</td>" for t in dates)
        + f"<td>{_spectrum(result, p)}</td></tr>"
        for p, name in enumerate(material_names(maps))
    ]
    return (
        f"<table><thead><tr><th>material</th><th>mean</th>{head}<th>spectrum</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def swatch(position: int) -> str:
    """A small square in the colour of a material."""
    return (
        '<span style="display:inline-block;width:.8em;height:.8em;'
        f'background:{material_colour(position)}"></span>'
    )


def _thumbnail(plane: xr.DataArray, text: str) -> str:
    step = -(-max(plane.shape) // _MOST_PIXELS)
    image = plane.values[::step, ::step]
    height, width = (max(1, round(_SIDE * side / max(image.shape))) for side in image.shape)
    return (
        f'<img src="{png_uri(image, cmap="viridis", vmin=0, vmax=1)}" width="{width}" height="{height}" '
        f'style="image-rendering:pixelated" alt="{escape(text)}" title="{escape(text)}">'
    )


def _spectrum(result: Unmixing, position: int) -> str:
    """The reference endmember as a line, all on one scale from zero to the largest reflectance."""
    if not result.has_endmembers:
        return ""
    spectra = result.reference_endmembers.transpose("wavelength", "endmember")
    bands = np.arange(len(spectra), dtype=float)
    if "wavelength" in spectra.coords:
        bands = spectra["wavelength"].values.astype(float)
    order = np.argsort(bands)
    largest = float(spectra.max())
    values = spectra.values[order, position] / (largest if largest > 0 else 1.0)
    places = bands[order] - bands.min()
    places = places / (places[-1] if places[-1] > 0 else 1.0)
    points = " ".join(
        f"{2 + 116 * x:.1f},{58 - 56 * y:.1f}"
        for x, y in zip(places, values, strict=True)
        if np.isfinite(y)
    )
    return (
        '<svg width="120" height="60" viewBox="0 0 120 60" role="img" aria-label="spectrum">'
        f'<polyline points="{points}" fill="none" stroke="{material_colour(position)}" stroke-width="1.5"/></svg>'
    )
