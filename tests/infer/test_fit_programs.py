"""Models and guides that are not of this package."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from fit_cases import CUBES, NUM_PIXELS, SCENE
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_unmix import SGLMM, fit
from pyro_unmix.bases import DCT
from pyro_unmix.posterior import read_out
from pyro_unmix.priors import FixedEndmembers, WhiteNoise

pytestmark = pytest.mark.usefixtures("seeded")


def one_date() -> xr.DataArray:
    return CUBES.isel(time=[0])


@pytest.mark.parametrize("batch_size", [NUM_PIXELS, 10])
def test_an_autoguide_of_pyro_fits_and_is_read_out(batch_size):
    model = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1), noise=WhiteNoise(0.05))

    def plates(pixels, valid, *, index=None, size=None, features=None):
        return pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1)

    guide = AutoNormal(model, create_plates=plates, init_scale=0.3)
    result = fit(
        model, guide, one_date(), num_steps=150, batch_size=batch_size, learning_rate=0.03,
        progress=False,
    )  # fmt: skip
    assert result.losses[-20:].mean() < result.losses[:20].mean()
    values = result.abundances.values
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
    assert (result.abundances_std.values > 0).all()
    # Each pixel's own parameters were read out for it.
    truth = SCENE.abundances.values[:1]
    uniform = np.abs(truth - 1 / 3).mean()
    assert np.abs(values - truth).mean() < 0.7 * uniform


@pytest.mark.parametrize("batch_size", [NUM_PIXELS, 10])
def test_an_autoguide_has_parameters_for_pixels_without_any_date(batch_size):
    """Those in front of a pixel without dates do not move those behind it."""
    cubes = one_date().copy()
    cubes[0, 0, :3] = np.nan
    cubes[0, 4, 5] = np.nan
    model = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1), noise=WhiteNoise(0.05))

    def plates(pixels, valid, *, index=None, size=None, features=None):
        return pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1)

    guide = AutoNormal(model, create_plates=plates, init_scale=0.3)
    settings = {"num_steps": 150, "batch_size": batch_size, "learning_rate": 0.03}
    result = fit(model, guide, cubes, progress=False, **settings)
    values, truth = result.abundances.values, SCENE.abundances.values[:1]
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
    seen = result.valid.values
    assert seen.sum() == NUM_PIXELS - 4
    uniform = np.abs(truth - 1 / 3)[seen].mean()
    assert np.abs(values - truth)[seen].mean() < 0.7 * uniform
    np.testing.assert_allclose(result.predict(cubes).abundances, values, atol=1e-6)


def test_pixels_without_any_date_do_not_count():
    """A pixel more that was never observed changes no loss: the ELBO of the others, per observed value."""

    def guide(pixels, valid, *, index=None, size=None, features=None):
        with pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1):
            for t in range(valid.shape[1] + 1):
                for name in ("c", "psi"):
                    pyro.sample(f"{name}_{t}", dist.Delta(torch.zeros(len(pixels), 3)).to_event(1))

    cubes = CUBES.copy()
    cubes[:, 1:3] = np.nan
    without = CUBES.isel(y=[0, 3, 4])
    settings = {"num_steps": 1, "batch_size": 64, "progress": False}
    losses = []
    for scene in (without, cubes):
        model = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1))
        losses.append(fit(model, guide, scene, **settings).losses)
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_an_autoguide_is_read_out_in_chunks(monkeypatch):
    model = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1))

    def plates(pixels, valid, *, index=None, size=None, features=None):
        return pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1)

    guide = AutoNormal(model, create_plates=plates)
    result = fit(model, guide, one_date(), num_steps=3, progress=False)
    monkeypatch.setattr(read_out, "_CHUNK_ELEMENTS", 7 * 8 * 64)
    again = result.predict(one_date())
    np.testing.assert_allclose(again.abundances, result.abundances, atol=1e-6)


def test_a_plain_function_is_a_guide():
    model = SGLMM(SCENE.reference_endmembers, basis=DCT(1))

    def guide(pixels, valid, *, index=None, size=None, features=None):
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1):
            for t in range(valid.shape[1] + 1):
                pyro.sample(f"c_{t}", dist.Normal(loc, 0.1).to_event(1))
                pyro.sample(f"psi_{t}", dist.Normal(torch.zeros(3), 0.1).to_event(1))

    trained = {}
    result = fit(
        model, guide, one_date(), num_steps=60, learning_rate=0.3, progress=False,
        callback=lambda step, elbo: trained.update(loc=pyro.param("loc").detach().clone()),
    )  # fmt: skip
    assert trained["loc"].abs().max() > 0.5
    # Read out where it was trained to, now and later.
    rng = np.random.default_rng(0)
    draws = trained["loc"].numpy() + 0.1 * rng.normal(size=(4000, 3))
    expected = np.exp(draws) / np.exp(draws).sum(-1, keepdims=True)
    for got in (result.abundances, result.sample(64).mean("sample"), result.quantile(0.5)):
        np.testing.assert_allclose(
            got, np.broadcast_to(expected.mean(0), got.shape), atol=5 * 0.1 / np.sqrt(64)
        )
    assert "loc" not in pyro.get_param_store()


class TwoStates(nn.Module):
    """A model of another kind, with sites of its own: only `decode` is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1))

    def forward(self, pixels, valid, *, index=None, size=None, features=None):
        matrix = self.inner.reference.value
        with pyro.plate("pixels", size or len(valid), subsample=index, dim=-1):
            state = pyro.sample("state", dist.Normal(torch.zeros(3), 2.0).to_event(1))
            mean = torch.softmax(state, -1) @ matrix.T
            for t in range(valid.shape[1]):
                with poutine.mask(mask=valid[:, t]):
                    site = dist.Normal(mean, 0.1).to_event(1)
                    pyro.sample(f"y_{t}", site, obs=pixels[:, t])

    def decode(self, latents):
        num_dates = CUBES.sizes["time"]
        abundances = torch.softmax(latents["state"], -1).unsqueeze(-2)
        return abundances.expand(*abundances.shape[:-2], num_dates, 3)


def test_fit_knows_no_names_of_sites():
    model = TwoStates()

    def guide(pixels, valid, *, index=None, size=None, features=None):
        scale = pyro.param("scale", torch.tensor(0.5))
        start = torch.log(torch.tensor([0.5, 0.3, 0.2]))
        with pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1):
            pyro.sample("state", dist.Normal(start, scale).to_event(1))

    result = fit(model, guide, CUBES, num_steps=2, progress=False)
    np.testing.assert_allclose(result.abundances.sum("endmember"), 1, atol=1e-5)
    assert result.abundances.shape == (3, 5, 6, 3)
