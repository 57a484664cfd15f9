"""One HTML page of a result: what was read, whether to trust it, its pictures, how to make it again."""

from __future__ import annotations

import base64
import io
import os
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from pyro_unmix.data.colours import material_colour
from pyro_unmix.data.names import material_names
from pyro_unmix.io.write.replacing import workshop
from pyro_unmix.plots.endmembers import plot_endmembers
from pyro_unmix.plots.maps import plot_change, plot_uncertainty
from pyro_unmix.plots.page_pictures import draw_images, draw_maps, draw_residual, thinning
from pyro_unmix.plots.reading import MAP_DIMS, date_titles, first_observed, missing_pixels
from pyro_unmix.plots.style import LABEL_SIZE, Picture, material_panels, plain
from pyro_unmix.posterior.html import chosen_dates, key_figures, swatch

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing

_MOST_ROWS = 24  # of the table of means over time
_DPI = 100
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid #ccc; }
h1, h2, p, li, td, code { overflow-wrap: anywhere; }
img { max-width: max(100%, 600px); height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
pre { background: #f4f4f4; padding: .6rem; overflow-x: auto; }
.yes, .care, .no, .none { border-left: .5rem solid; padding: .2rem .8rem; background: #f7f7f7; }
.yes { border-color: #009E73; } .care, .none { border-color: #E69F00; } .no { border-color: #D55E00; }
small { color: #555; }
"""
_HEADLINES = {
    "yes": "The intervals can be trusted, as far as the model holds",
    "with care": "Trust the intervals with care",
    "no": "Do not trust the intervals",
    "none": "There are no intervals",
}


def write_report(
    result: Unmixing,
    path: str | os.PathLike[str],
    *,
    notes: str | Sequence[str] = (),
    command: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one HTML page of a result, which loads nothing from anywhere.

    It shows what was read, whether the intervals can be trusted and why, the images, the maps with coordinates and a
    scale bar, the endmembers, what the fit leaves over, the uncertainty, the change, and how to make it again. Of long
    sequences some dates are drawn. The checks of the posterior take some seconds.

    Parameters
    ----------
    result : Unmixing
        Of any method. Without its images (`Unmixing.cubes`) the page lacks them and what the fit leaves over.
    path : path
        The file.
    notes : str or sequence of str
        What was noted while files were read and unmixed.
    command : str, optional
        The command or call that made the result.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileExistsError
        If the file is there and `overwrite` is False.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> result = pu.methods.fcls(scene.cubes, endmembers=scene.reference_endmembers, progress=False)
    >>> with TemporaryDirectory() as folder:
    ...     path = pu.plots.write_report(result, f'{folder}/page.html')
    ...     path.name, 'Can the intervals be trusted?' in path.read_text(encoding='utf-8')
    ('page.html', True)
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: pass overwrite=True to replace it")
    text = report_html(result, notes=notes, command=command)
    with workshop(path.absolute().parent) as folder:
        # The command may name files in other encodings than UTF-8.
        (folder / path.name).write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(folder / path.name, path)
    return path


def report_html(
    result: Unmixing, *, notes: str | Sequence[str] = (), command: str | None = None
) -> str:
    """The text of `write_report`."""
    from pyro_unmix.plots.verdict import judge  # it needs torch, which pictures do not

    notes = [notes] if isinstance(notes, str) else notes
    dates = chosen_dates(result.abundances.sizes["time"])
    verdict = judge(result)
    parts = [
        f"<h1>Unmixing by {escape(result.method)}</h1>",
        _rows({**key_figures(result), **_what_was_read(result)}),
        "<h2>Can the intervals be trusted?</h2>",
        f'<div class="{verdict.trust.split()[-1]}"><p><strong>{_HEADLINES[verdict.trust]}.</strong></p>',
        _list(verdict.reasons) + "</div>",
        "<h2>What was noted</h2>",
        _list(notes) if notes else "<p>Nothing, or the notes of the run were not kept.</p>",
        *_images(result, dates),
        "<h2>Maps</h2>",
        _dates_note(result, dates),
        _img(draw_maps(result, dates), "Maps of the fractions of every material"),
        "<h2>Mean fractions</h2>",
        _means(result),
        *_spectra(result),
        *_residual(result, dates),
        *_uncertainty(result, dates),
        *_change(result),
        "<h2>To make it again</h2>",
        _settings(result, command),
    ]
    title = f"Unmixing by {result.method}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _what_was_read(result: Unmixing) -> dict[str, str]:
    titles = date_titles(result.abundances)
    rows = {"first and last date": f"{titles[0]}, {titles[-1]}"} if len(titles) > 1 else {}
    if "wavelength" in result.dataset.coords:
        bands = result.dataset["wavelength"]
        rows["bands"] = f"{bands.size}, {float(bands.min()):.0f} to {float(bands.max()):.0f} nm"
    if result.cubes is not None:
        low, high = float(result.cubes.min()), float(result.cubes.max())
        rows["reflectance"] = f"{low:.3f} to {high:.3f}"
    return rows


def _images(result: Unmixing, dates: list[int]) -> list[str]:
    head = "<h2>The images</h2>"
    if result.cubes is None:
        return [head, "<p>They are not kept with this result.</p>"]
    figure, text = draw_images(result.cubes, dates)
    return [head, f"<p>{escape(text)} Grey is missing.</p>", _img(figure, "The images")]


def _dates_note(result: Unmixing, dates: list[int]) -> str:
    total = result.abundances.sizes["time"]
    text = f"{len(dates)} of {total} dates are drawn. " if len(dates) < total else ""
    if (step := thinning(result.abundances)) > 1:
        text += (
            f"Of {step} rows, and of {step} columns, one is drawn in images, maps and residuals."
        )
    return f"<p>{text.strip()}</p>" if text else ""


def _means(result: Unmixing) -> str:
    maps = result.abundances.transpose(*MAP_DIMS)
    if "valid" in result.dataset:
        maps = maps.where(result.valid)
    means, titles = maps.mean(("y", "x")).values, date_titles(maps)
    names = "".join(
        f"<th>{swatch(p)} {escape(name)}</th>" for p, name in enumerate(material_names(maps))
    )
    rows = "".join(
        f"<tr><th>{escape(titles[t])}</th>{''.join(f'<td>{_number(value)}</td>' for value in means[t])}</tr>"
        for t in chosen_dates(len(titles), _MOST_ROWS)
    )
    return (
        f'<p>Of the observed pixels of each date.</p><div class="wide"><table><tr><th></th>{names}</tr>'
        f"{rows}</table></div>"
    )


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "none observed"


def _spectra(result: Unmixing) -> list[str]:
    head = "<h2>Endmembers</h2>"
    if not result.has_endmembers:
        return [head, "<p>This program knows none.</p>"]
    if hasattr(result, "endmembers_interval"):
        text = "Posterior mean and 90 % credible interval."
        figure = _draw_intervals(result.reference_endmembers, result.endmembers_interval(0.9))
    elif missing_pixels(result, maps := result.abundances.transpose(*MAP_DIMS)).all():
        return [head, "<p>No pixel was observed.</p>"]
    else:
        date = first_observed(result, maps)
        title = date_titles(maps)[date]
        which = f"the first date that was observed, {title}" if date else f"the first date, {title}"
        which = which if len(date_titles(maps)) > 1 else f"the image {title}".strip()
        text = (
            f"Bold: the reference spectrum. Thin lines and the band from 5 to 95 %: spectra of the pixels at {which}. "
            "The band is how spectra vary over the image, not how well they are known."
        )
        figure = plot_endmembers(result, time=date)
    return [head, f"<p>{escape(text)}</p>", _img(figure, "Spectra of the endmembers")]


def _draw_intervals(spectra: xr.DataArray, interval: xr.DataArray) -> Figure:
    count = spectra.sizes["endmember"]
    figure = Picture(figsize=(8.4, 2.6 * -(-count // 3)), layout="constrained")
    names = material_names(spectra)
    bands = spectra["wavelength"] if "wavelength" in spectra.coords else None
    order = bands.argsort().values if bands is not None else slice(None)
    places = bands.values[order] if bands is not None else range(spectra.sizes["wavelength"])
    for p, ax in enumerate(material_panels(figure, count)):
        lower, upper = interval.isel(endmember=p).transpose("bound", "wavelength").values
        ax.fill_between(
            places, lower[order], upper[order], color=material_colour(p), alpha=0.3, lw=0
        )
        ax.plot(places, spectra.isel(endmember=p).values[order], color=material_colour(p))
        ax.set_title(plain(names[p]), fontsize=LABEL_SIZE)
        ax.set_xlabel("wavelength (nm)" if bands is not None else "band", fontsize=LABEL_SIZE)
    return figure


def _residual(result: Unmixing, dates: list[int]) -> list[str]:
    if result.cubes is None or not result.has_endmembers:
        return []
    figure, rms = draw_residual(result, dates)
    text = (
        f"Root mean square over bands of image minus fit: {rms:.4f} reflectance over these dates. Noise has no shape "
        "here; fields or edges are something that the model does not know."
    )
    return ["<h2>What the fit leaves over</h2>", f"<p>{text}</p>", _img(figure, "Residuals")]


def _uncertainty(result: Unmixing, dates: list[int]) -> list[str]:
    if not bool(result.abundances_std.notnull().any()):
        return []
    figure = plot_uncertainty(result, dates=dates)
    text = "<p>Posterior standard deviation of the fractions.</p>"
    return ["<h2>Uncertainty</h2>", text, _img(figure, "Standard deviations")]


def _change(result: Unmixing) -> list[str]:
    known = "change" in result.dataset and bool(result.dataset["change"].notnull().any())
    if not known:
        return []
    text = "How far each date is from what the one before made expect, from 0 to 1."
    return ["<h2>Change</h2>", f"<p>{text}</p>", _img(plot_change(result), "Change")]


def _settings(result: Unmixing, command: str | None) -> str:
    versions = {name: version(name) for name in ("torch", "pyro-ppl", "numpy", "xarray")}
    rows = {
        "method": result.method,
        "seed": str(result.seed),
        "steps": str(len(result.losses)),
        "estimate": repr(result.estimate),
        "made by": str(result.dataset.attrs.get("source", "")),
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{n} {v}" for n, v in versions.items())]
        ),
    }
    shown = f"<pre>{escape(command)}</pre>" if command else ""
    note = "<p><small>Versions are those that made this page.</small></p>"
    return shown + _rows({name: text for name, text in rows.items() if text}) + note


def _rows(rows: Mapping[str, str]) -> str:
    cells = (f"<tr><th>{escape(n)}</th><td>{escape(text)}</td></tr>" for n, text in rows.items())
    return f'<div class="wide"><table>{"".join(cells)}</table></div>'


def _list(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def _img(figure: Figure, text: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, bbox_inches="tight")
    code = base64.b64encode(file.getvalue()).decode()
    image = f'<img alt="{escape(text)}" src="data:image/png;base64,{code}">'
    return f'<div class="wide">{image}</div>'
