"""What a notebook shows of a result."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
from matplotlib import colormaps
from matplotlib.image import imread

from pyro_unmix.data.colours import MATERIAL_COLOURS, material_colour
from pyro_unmix.posterior import Unmixing
from pyro_unmix.posterior.html import chosen_dates


@pytest.fixture
def result() -> Unmixing:
    rng = np.random.default_rng(0)
    maps = xr.DataArray(
        rng.dirichlet(np.ones(2), (6, 5, 4)).astype("float32"),
        dims=("time", "y", "x", "endmember"),
        coords={"endmember": ["soil <b>", "water"]},
    )
    valid = xr.DataArray(np.ones((6, 5, 4), bool), dims=("time", "y", "x"))
    valid[0, :, :2] = False
    spectra = xr.DataArray(
        np.array([[0.1, 0.4], [0.2, 0.2], [0.3, 0.0]]),
        dims=("wavelength", "endmember"),
        coords={"wavelength": [700.0, 500.0, 600.0], "endmember": maps["endmember"]},
    )
    parts = {"abundances": maps, "valid": valid, "reference_endmembers": spectra}
    return Unmixing(xr.Dataset({**parts, "abundances_std": 0.1 + 0 * maps}), method="fcls")


class Tags(HTMLParser):
    """Every tag is closed in its order."""

    VOID = ("img", "br", "meta", "input", "use", "polyline", "path", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_thumbnails_are_the_maps(result: Unmixing) -> None:
    text = result._repr_html_()
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    dates = [0, 2, 3, 5]
    assert chosen_dates(6) == dates and len(images) == 2 * len(dates)
    maps = result.abundances.values
    for number, image in enumerate(images):
        shown = imread(io.BytesIO(base64.b64decode(image)))
        plane = maps[dates[number % 4], ..., number // 4]
        # The picture has 8 bits a channel.
        np.testing.assert_allclose(shown, colormaps["viridis"](plane), atol=1 / 255)


def test_names_are_text_and_tags_are_closed(result: Unmixing) -> None:
    text = result._repr_html_()
    assert "soil &lt;b&gt;" in text and "soil <b>" not in text
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "observed: 92 %" in text  # 10 of 120 pixel-dates are missing
    assert "median std of a fraction: 0.100" in text
    assert "src=" not in re.sub(r'src="data:[^"]+"', "", text)


def test_means_are_those_of_observed_pixels(result: Unmixing) -> None:
    means = result.abundances.where(result.valid).mean(("time", "y", "x")).values
    assert abs(means - result.abundances.mean(("time", "y", "x"))).max() > 1e-3
    assert re.findall(r"<td>(0\.\d{3})</td>", result._repr_html_()) == [f"{m:.3f}" for m in means]


def test_spectra_are_sorted_by_wavelength(result: Unmixing) -> None:
    (first, second) = re.findall(r'points="([^"]+)"', result._repr_html_())
    # Of 500, 600, 700 nm: 0.2, 0.3, 0.1 and 0.2, 0.0, 0.4 of 0.4.
    assert first == "2.0,30.0 60.0,16.0 118.0,44.0"
    assert second == "2.0,30.0 60.0,58.0 118.0,2.0"


def test_a_result_without_spectra_or_posterior_is_shown_too(result: Unmixing) -> None:
    dataset = result.dataset.drop_vars(["reference_endmembers", "abundances_std"])
    text = replace(result, dataset=dataset)._repr_html_()
    assert "polyline" not in text and "no posterior" in text


def test_maps_that_are_not_computed_stay_so(result: Unmixing) -> None:
    pytest.importorskip("dask")
    text = replace(result, dataset=result.dataset.chunk({"y": 2}))._repr_html_()
    assert "data:image/png" not in text and "dask" in text


def test_beyond_seven_materials_colours_differ() -> None:
    colours = [material_colour(p) for p in range(21)]
    assert tuple(colours[:7]) == MATERIAL_COLOURS
    assert len(set(colours)) == 21
