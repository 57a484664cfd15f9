"""The page of a result: it stands alone, shows what there is, and says whether to trust the intervals."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu
from pyro_unmix import plots
from pyro_unmix.infer import Sampled
from pyro_unmix.plots.page_pictures import draw_images, draw_maps, metres_per_unit, round_length
from pyro_unmix.plots.report import report_html
from pyro_unmix.plots.verdict import judge
from pyro_unmix.posterior import PolishedMean


@pytest.fixture(scope="module")
def scene() -> pu.simulate.Scene:
    library = pu.simulate.library(np.linspace(450, 2400, 30))
    return pu.simulate.scaled_scene(
        num_dates=3, height=18, width=16, library=library, cloud_fraction=0.1, seed=1
    )


@pytest.fixture(scope="module")
def cubes(scene: pu.simulate.Scene) -> xr.DataArray:
    places = {"x": 5e5 + 30.0 * np.arange(16), "y": 42e5 - 30.0 * np.arange(18)}
    cubes = scene.cubes.assign_coords(places)
    cubes["x"].attrs["units"] = "m"
    return cubes


def trained(cubes: xr.DataArray, **parts: Any) -> pu.Unmixing:
    start = pu.choose_start(cubes, 3)
    noise = pu.priors.WhiteNoise(start.noise_scale)
    model = pu.SGLMM(pu.FixedEndmembers(start.endmembers), basis=start.basis, noise=noise, **parts)
    return pu.fit(model, pu.ConjugateGuide(model), cubes, num_steps=2, progress=False)


@pytest.fixture(scope="module")
def result(cubes: xr.DataArray) -> pu.Unmixing:
    return trained(cubes)


def test_the_page_loads_nothing_and_has_every_part(result: pu.Unmixing, tmp_path: Path) -> None:
    path = plots.write_report(
        result, tmp_path / "page.html", notes=["bands <3> dropped"], command="pyro-unmix unmix a b"
    )
    text = path.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert re.findall(r'(?:src|href)="(?!data:)', text) == [] and "url(" not in text
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        "Can the intervals be trusted?",
        "What was noted",
        "The images",
        "Maps",
        "Mean fractions",
        "Endmembers",
        "What the fit leaves over",
        "Uncertainty",
        "Change",
        "To make it again",
    ]
    assert text.count("<img ") == 6
    assert "bands &lt;3&gt; dropped" in text and "<pre>pyro-unmix unmix a b</pre>" in text
    means = result.abundances.where(result.valid).mean(("y", "x")).values
    numbers = [result.abundances_std.where(result.valid).median().item(), *means.ravel()]
    assert re.findall(r"<td>(0\.\d{3})</td>", text) == [f"{value:.3f}" for value in numbers]
    with pytest.raises(FileExistsError, match=r"exists: pass overwrite=True"):
        plots.write_report(result, path)


def test_a_page_without_images_or_posterior_says_so(cubes: xr.DataArray) -> None:
    plain = replace(pu.methods.fcls(cubes, 3, progress=False), cubes=None)
    text = report_html(plain)
    assert "There are no intervals" in text and "not kept with this result" in text
    assert "leaves over" not in text and "<h2>Uncertainty" not in text
    assert "were not observed: what belongs there is left out" in text


def test_the_verdict_is_that_of_the_importance_weights(result: pu.Unmixing) -> None:
    verdict = judge(result)
    assert result.valid.size < 1000  # so that every pixel is looked at
    k = result.diagnose(num_samples=100)["pareto_k"].values
    share = (k > 0.7).sum() / k.size
    assert f"In {share:.0%} of the {k.size} pixels looked at" in verdict.reasons[0]
    assert verdict.trust == ("no" if share > 0.1 else "with care")
    assert any("10% of the pixel-dates" in reason for reason in verdict.reasons)
    polished = judge(replace(result, estimate=PolishedMean()))
    assert polished.trust == ("with care" if share > 0.1 else "yes")
    assert "84 and 83 %" in polished.reasons[1]


def test_a_shared_field_and_a_file_without_its_model_are_not_trusted(
    result: pu.Unmixing, cubes: xr.DataArray
) -> None:
    field = trained(cubes, variability_prior=pu.priors.SmoothVariability((3, 18, 16)))
    verdict = judge(field)
    assert verdict.trust == "no" and "16 and 31 %" in verdict.reasons[0]
    verdict = judge(replace(result, model=None, guide=None))
    assert verdict.trust == "no" and "not the model" in verdict.reasons[0]


@pytest.mark.parametrize(("r_hat", "trust"), [(1.01, "with care"), (1.2, "no")])
def test_chains_that_do_not_agree_are_not_trusted(
    result: pu.Unmixing, monkeypatch: pytest.MonkeyPatch, r_hat: float, trust: str
) -> None:
    checks = xr.Dataset({"r_hat": ("endmember", [1.0, r_hat, np.nan]), "r_hat_noise": 1.0})
    monkeypatch.setattr(Sampled, "diagnose", lambda self: checks)
    verdict = judge(Sampled(result.dataset))
    assert verdict.trust == trust and f"{r_hat:.2f}" in verdict.reasons[0]


def test_images_have_the_bands_of_the_colours(cubes: xr.DataArray) -> None:
    figure, text = draw_images(cubes, [0, 2])
    bands = cubes["wavelength"].values
    nearest = [bands[np.abs(bands - colour).argmin()] for colour in (650, 560, 470)]
    assert ", ".join(f"{band:.0f}" for band in nearest) in text
    drawn = figure.axes[1].images[0].get_array()
    seen = cubes.isel(time=2).sel(wavelength=nearest)
    missing = seen.isnull().any("wavelength").values
    assert missing.any() and (drawn[missing] == 0.85).all()
    low, high = np.nanpercentile(cubes.isel(time=[0, 2]).sel(wavelength=nearest), [2, 98])
    expected = ((seen.values - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(drawn[~missing], expected[~missing], rtol=1e-6, atol=1e-6)
    assert "False colours" in draw_images(cubes.isel(wavelength=slice(15, None)), [0])[1]


def test_maps_lie_at_their_coordinates(result: pu.Unmixing) -> None:
    figure = draw_maps(result, [0, 1, 2])
    panel = figure.axes[0]
    # Outer corners: half a pixel of 30 m beyond the centres.
    assert panel.images[0].get_extent() == [499985.0, 500465.0, 4199475.0, 4200015.0]
    bar = panel.lines[0].get_xdata()
    assert bar[1] - bar[0] == pytest.approx(100)  # the longest round length up to a third of 480 m
    assert [text.get_text() for text in panel.texts] == ["100 m"]


@pytest.mark.parametrize(
    ("units", "metres"), [("m", 1.0), ("km", 1000.0), ("degrees_east", 111_320 * 0.5), ("", None)]
)
def test_units_of_the_scale_bar(units: str, metres: float | None) -> None:
    maps = xr.DataArray(np.zeros((2, 2)), dims=("y", "x"), coords={"y": [59.0, 61.0], "x": [1, 2]})
    maps["x"].attrs["units"] = units
    found = metres_per_unit(maps)
    assert found == (None if metres is None else pytest.approx(metres))
    assert metres_per_unit(maps.drop_vars(["x", "y"])) is None


def test_round_lengths() -> None:
    lengths = [0.3, 1.0, 1.9, 2.0, 49.9, 730.0]
    assert [round_length(x) for x in lengths] == pytest.approx([0.2, 1, 1, 2, 20, 500])
