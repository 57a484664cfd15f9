"""The benchmark of choosing: it runs, its scenes are what they are said to be, and hits are counted rightly."""

from __future__ import annotations

import choice
import numpy as np
import pytest
import xarray as xr

from pyro_unmix import simulate


def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    found = choice.main(["--quick", "--seeds", "3"])
    assert list(found) == ["materials", "rank", "sigma_psi"]
    for tables in found.values():
        (table,) = tables
        assert set(choice.RULES) <= set(table) and table.sizes["fit"] == 3
        assert np.isfinite(table["held_out"]).all()
    # every question has the fit with the true setting as its second
    assert {str(tables[0]["fit"].values[1]) for tables in found.values()} == {
        "{'materials': 3, 'rank': 2, 'sigma_psi': 0.1}"
    }
    assert str(found["rank"][0]["fit"].values[2]) == "{'materials': 3, 'rank': 4, 'sigma_psi': 0.1}"
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| 3 | ") for line in lines) == 3
    assert sum(" of 1 | " in line for line in lines) == 3


def test_scenes_are_drawn_with_the_true_setting() -> None:
    size = choice.Size(side=40, num_dates=3, num_bands=12)
    cubes, spectra = choice.scene(1, size)
    curves = simulate.library(np.linspace(400, 2500, 12)).values
    assert len({int(np.abs(curves - s[:, None]).sum(0).argmin()) for s in spectra.T}) == 4
    again, _ = choice.scene(1, size)
    np.testing.assert_array_equal(cubes, again)
    # nothing but noise (std 0.01) is outside the span of M0 and of its products with the second cosine; the first one
    # is constant
    cosine = np.cos(np.pi * (np.arange(12)[:, None] + 0.5) / 12)
    whole, bare = (
        np.concatenate([s, s * cosine], axis=1) for s in (spectra[:, :3], spectra[:, :2])
    )
    pixels = cubes.values.reshape(-1, 12).astype(float)

    def left(design: np.ndarray) -> float:
        fitted = design @ np.linalg.lstsq(design, pixels.T, rcond=None)[0]
        return float(
            np.sqrt(((pixels.T - fitted) ** 2).sum() / (len(pixels) * (12 - design.shape[1])))
        )

    assert left(whole) == pytest.approx(0.01, rel=0.03)
    assert left(bare) > 0.013


def test_hits_are_of_the_largest_value() -> None:
    def table(held_out: list[float], elbo: list[float]) -> xr.Dataset:
        columns = {"held_out": held_out, "importance_elbo": elbo, "elbo": elbo}
        return xr.Dataset({name: ("fit", values) for name, values in columns.items()})

    asked = [table([1.0, 2.0, 1.5], [1.0, 2.0, 3.0]), table([0.0, 1.0, 0.5], [0.0, 1.0, 0.5])]
    assert choice.pick("rank", asked[0], "held_out") == 2
    assert choice.pick("rank", asked[0], "elbo") == 4
    assert choice.lead("rank", asked[0]) == pytest.approx(0.5)
    line = choice.summary({"rank": asked}).splitlines()[-1]
    assert line.startswith("| rank | 2 | 2 of 2 | 1 of 2 | 1 of 2 |")
    assert "1: -1.0000, 2: +0.0000, 4: -0.5000" in line
