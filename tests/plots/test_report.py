"""The page of a result: it stands alone, shows what there is, and says whether to trust the intervals."""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import pyro_unmix as pu
from pyro_unmix import plots
from pyro_unmix.infer import Sampled, sample
from pyro_unmix.models.simplex import SimplexMixing
from pyro_unmix.plots.fans import _spectra_at
from pyro_unmix.plots.page_pictures import (
    draw_images,
    draw_maps,
    draw_residual,
    metres_per_unit,
    round_length,
)
from pyro_unmix.plots.report import report_html
from pyro_unmix.plots.verdict import HELD_BY_CHAINS, judge
from pyro_unmix.posterior import PolishedMean
from pyro_unmix.priors.bounded import BoundedEndmembers
from pyro_unmix.start import FieldEstimate


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


def chains(num_models: int) -> Sampled:
    """Short chains, and what they kept: endmembers of a chain as given, plus noise."""
    centre = BoundedEndmembers(np.array([[0.1, 0.6], [0.2, 0.5], [0.6, 0.1]]), scale=0.05)
    models = [SimplexMixing(centre, rank=1) for _ in range(num_models)]
    cubes = models[0].simulate(20, 1, seed=4)["pixels"].numpy().clip(0.001, 1.5)
    images = xr.DataArray(cubes.reshape(1, 4, 5, 3), dims=("time", "y", "x", "wavelength"))
    few = {"num_rounds": 12, "num_spectra": 16, "num_held_out": 4, "num_kept": 4}
    return sample(
        models, images, num_samples=8, num_warmup=2, seed=1, progress=False, num_chains=1, **few
    )


def with_draws(result: Sampled, chain: int, *, shift: float, jump: float, count: int) -> Any:
    """A chain whose draws are around its first one, moved, and in their second half moved on."""
    (old, rng) = (result.chains[chain], np.random.default_rng(chain))
    first = old.shared[0]
    return replace(
        old,
        shared=tuple(
            {
                name: value
                * (1 + 1e-3 * rng.standard_normal())
                * (1 if name != "endmembers" else 1 + jump * (n >= count // 2))
                + (shift if name == "endmembers" else 0.0)
                for name, value in first.items()
            }
            for n in range(count)
        ),
    )


@pytest.mark.parametrize(("jump", "trust"), [(0.0, "with care"), (0.5, "no")])
def test_chains_of_several_models_are_settled_or_not_and_lie_apart(jump: float, trust: str) -> None:
    result = chains(2)
    first = replace(result, orders=np.array([[0, 1], [1, 0]]))
    turned = {name: value for name, value in first.chains[0].shared[0].items()}
    turned["endmembers"] = turned["endmembers"][:, [1, 0]]
    same = replace(first.chains[1], shared=(turned,))
    first = replace(first, chains=(first.chains[0], same))
    drawn = [with_draws(first, c, shift=0.2 * c, jump=jump, count=200) for c in (0, 1)]
    first = replace(first, chains=tuple(drawn))
    checks = first.diagnose()
    worst = max(float(checks[name].max()) for name in checks if str(name).startswith("r_hat"))
    verdict = judge(first)
    assert verdict.trust == trust and f"(largest R-hat {worst:.2f}" in verdict.reasons[0]
    words = "Each chain is settled" if trust == "with care" else "Some chains are not settled"
    assert verdict.reasons[0].startswith(words)
    assert not any("agree" in reason for reason in verdict.reasons)
    # Two values 0.2 apart are 0.1 from their mean, at every band and of both materials.
    assert "of the 2 chains lie 0.100 reflectance apart" in verdict.reasons[1]
    assert any(reason.startswith(HELD_BY_CHAINS) for reason in verdict.reasons)
    assert not any(reason.startswith("Neighbouring pixels") for reason in verdict.reasons)
    field = FieldEstimate(torch.full((1, 2), 0.5), np.ones((2, 2)))
    reasons = judge(replace(first, field=field)).reasons
    assert any(reason.startswith("Neighbouring pixels") for reason in reasons)


def test_chains_of_one_model_agree_or_not() -> None:
    result = chains(1)
    pair = replace(
        result, chains=result.chains * 2, orders=np.array([[0, 1]] * 2), weights=np.full(2, 0.5)
    )
    for shift, trust, words in (
        (0.0, "with care", "The chains of each model agree"),
        (0.3, "no", "The chains of some model do not agree"),
    ):
        drawn = [with_draws(pair, 0, shift=shift * c, jump=0.0, count=200) for c in (0, 1)]
        verdict = judge(replace(pair, chains=tuple(drawn)))
        assert verdict.trust == trust and verdict.reasons[0].startswith(words)
    verdict = judge(result)
    assert not any("chains lie" in reason for reason in verdict.reasons)


def test_the_page_of_chains_is_drawn() -> None:
    text = report_html(chains(2))
    assert "reflectance apart" in text and "Posterior mean and 90 % credible interval." in text
    assert HELD_BY_CHAINS in text


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
    unit = xr.DataArray(np.zeros((2, 2)), dims=("y", "x"), coords={"y": [99, 101.0], "x": [1, 2]})
    unit["x"].attrs["units"] = "degrees_east"
    assert metres_per_unit(unit) is None  # no such latitude


@pytest.fixture(scope="module")
def plain(cubes: xr.DataArray) -> pu.Unmixing:
    return pu.methods.fcls(cubes, 3, progress=False)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros(16), np.zeros(18)),
        (np.full(16, np.nan), np.arange(18.0)),
        (np.r_[0.0, 40.0, np.arange(2.0, 16.0)], np.arange(18.0)),
        (np.arange(16.0) ** 2, np.arange(18.0)),
        (np.arange(16.0), np.r_[np.arange(17.0), np.inf]),
        (np.arange(16.0), np.array(list("abcdefghijklmnopqr"))),
    ],
    ids=["zeros", "missing", "not sorted", "uneven", "infinite", "letters"],
)
def test_odd_coordinates_are_left_for_the_numbers_of_pixels(
    plain: pu.Unmixing, x: np.ndarray, y: np.ndarray
) -> None:
    odd = replace(
        plain,
        dataset=plain.dataset.assign_coords(x=x, y=y),
        cubes=None if plain.cubes is None else plain.cubes.assign_coords(x=x, y=y),
    )
    panel = draw_maps(odd, [0]).axes[0]
    assert panel.images[0].get_extent() == [-0.5, 15.5, 17.5, -0.5]
    assert [text.get_text() for text in panel.texts] == ["5 pixels"]
    assert metres_per_unit(odd.abundances) is None
    report_html(odd)


def test_coordinates_in_single_precision_are_even(plain: pu.Unmixing) -> None:
    x = (10 + 0.0003 * np.arange(16)).astype("float32")
    assert np.ptp(np.diff(x)) > 0.002 * 0.0003
    maps = replace(plain, dataset=plain.dataset.assign_coords(x=x, y=np.arange(18)))
    extent = draw_maps(maps, [0]).axes[0].images[0].get_extent()
    assert extent[:2] == pytest.approx([9.99985, 10.00465], abs=1e-5)


def test_names_and_settings_are_text(plain: pu.Unmixing, tmp_path: Path) -> None:
    bad = "<script>alert(1)</script> $x$ & $"
    dataset = plain.dataset.assign_coords(endmember=[bad, "a", "rmse"])
    path = plots.write_report(
        replace(plain, dataset=dataset, method=bad), tmp_path / "a.html", command=bad, notes=bad
    )
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt; $x$ &amp; $") >= 5
    assert f"<ul><li>{escape(bad)}</li></ul>" in text  # one note, not its letters


def test_an_image_without_valid_pixels(cubes: xr.DataArray, plain: pu.Unmixing) -> None:
    empty = cubes.copy()
    empty[0] = np.nan
    text = report_html(pu.methods.fcls(empty, 3, progress=False))
    assert "the first date that was observed" in text and "none observed" in text
    nothing = plain.dataset.assign(
        valid=xr.zeros_like(plain.valid), abundances=plain.abundances * np.nan
    )
    text = report_html(replace(plain, dataset=nothing, cubes=cubes * np.nan))
    assert "No pixel was observed." in text


def test_small_shares_are_not_none(plain: pu.Unmixing) -> None:
    valid = xr.ones_like(plain.valid)
    valid[0, 0, 0] = False
    reasons = judge(replace(plain, dataset=plain.dataset.assign(valid=valid))).reasons
    assert any(r.startswith("Less than 1 % of the pixel-dates were not observed") for r in reasons)


def test_a_page_that_cannot_be_written_leaves_nothing(
    plain: pu.Unmixing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr("pyro_unmix.plots.report.os.replace", refuse)
    with pytest.raises(PermissionError):
        plots.write_report(plain, tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []


def test_of_large_images_some_pixels_are_drawn(
    plain: pu.Unmixing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyro_unmix.plots.page_pictures._MOST_SIDE", 6)
    drawn = draw_maps(plain, [0]).axes[0].images[0]
    assert drawn.get_extent() == [499985.0, 500465.0, 4199475.0, 4200015.0]
    expected = plain.abundances.transpose("time", "y", "x", "endmember")[0, 1::3, 1::3, 0]
    np.testing.assert_array_equal(np.ma.getdata(drawn.get_array()), expected)
    assert plain.cubes is not None
    assert draw_images(plain.cubes, [0])[0].axes[0].images[0].get_array().shape == (6, 5, 3)
    _, rms = draw_residual(plain, [0, 1, 2])
    some = plain.rmse.transpose("time", "y", "x").values[:, 1::3, 1::3]
    assert rms == pytest.approx(np.sqrt(np.nanmean(some**2)), rel=1e-5)
    assert "Of 3 rows, and of 3 columns, one is drawn" in report_html(plain)


def test_spectra_of_chosen_pixels_are_those_of_all(result: pu.Unmixing, plain: pu.Unmixing) -> None:
    assert plain.cubes is not None
    bright = pu.methods.nnls(plain.cubes, 3, progress=False)
    places = (np.array([17, 0, 4]), np.array([3, 15, 4]))
    for each in (result, plain, bright):
        row = _spectra_at(each, 1, places).transpose("y", "x", "wavelength", "endmember")
        all_of_them = each.endmembers(1).transpose("y", "x", "wavelength", "endmember").values
        np.testing.assert_allclose(row.values[0], all_of_them[places], rtol=1e-6, atol=1e-9)
        assert row["endmember"].identical(each.endmembers(1)["endmember"])


def test_what_a_link_beside_the_page_leads_to_is_kept(tmp_path: Path, result: pu.Unmixing) -> None:
    """Whoever may write to the folder could guess the name of an unfinished page."""
    (tmp_path / "others").write_text("precious")
    (tmp_path / ".page.html.part").symlink_to(tmp_path / "others")
    plots.write_report(result, tmp_path / "page.html")
    assert (tmp_path / "others").read_text() == "precious"


def test_a_command_with_names_in_other_encodings_is_kept(
    tmp_path: Path, result: pu.Unmixing
) -> None:
    path = plots.write_report(result, tmp_path / "page.html", command="unmix \udcff.npy")
    assert r"unmix \udcff.npy" in path.read_text(encoding="utf-8")
