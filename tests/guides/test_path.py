"""Gaussian approximations along a path, and read-outs that do not depend on how pixels are grouped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, special

from pyro_unmix import SGLMM, ConjugateGuide, FixedEndmembers, simulate
from pyro_unmix.bases import DCT
from pyro_unmix.data import as_cube_sequence
from pyro_unmix.guides.conjugate import path as paths
from pyro_unmix.ops.small_matrices import project
from pyro_unmix.ops.solvers import simplex_scale
from pyro_unmix.posterior import PosteriorMean, read_out
from pyro_unmix.priors import AutoRegressive, Independent, JumpWalk, WhiteNoise

BANDS, DATES, MATERIALS = 30, 3, 3


def pair(prior=None) -> tuple[SGLMM, ConjugateGuide]:
    spectra = simulate.library(np.linspace(400, 2500, BANDS)).values[:, :MATERIALS]
    model = SGLMM(
        FixedEndmembers(spectra),
        basis=DCT(3, scale=0.5),
        abundance_prior=JumpWalk(),
        variability_prior=prior or AutoRegressive(0.9),
        noise=WhiteNoise(0.003),
    )
    guide = ConjugateGuide(model)
    with torch.no_grad():  # a correction that says something
        guide.head.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    return model, guide


def scene(model: SGLMM, num_pixels: int) -> torch.Tensor:
    return model.sample_sequence(num_pixels, DATES)["pixels"]


@pytest.mark.parametrize("prior", [AutoRegressive(0.9), Independent()])
def test_a_read_out_in_single_precision_does_not_depend_on_the_chunks(prior, monkeypatch):
    model, guide = pair(prior)
    pixels = scene(model, 600).numpy().transpose(1, 0, 2)[:, :, None]  # (time, y, x, wavelength)
    pixels[1, 5] = np.nan
    cubes = as_cube_sequence(pixels)
    found = []
    for size in (600, 100, 37):
        parts = [slice(i, min(i + size, 600)) for i in range(0, 600, size)]
        monkeypatch.setattr(read_out, "chunks", lambda *_, parts=parts: iter(parts))
        read = read_out.read_out(model, guide, cubes, estimate=PosteriorMean(8))
        found.append(
            {name: read[name].values for name in ("abundances", "abundances_std", "variability")}
        )
    assert np.isfinite(found[0]["abundances"]).all()
    for other in found[1:]:
        for name, values in other.items():
            np.testing.assert_allclose(values, found[0][name], rtol=0, atol=1e-6, err_msg=name)


def test_blocks_hold_every_pixel_once_and_are_of_round_lengths():
    for count in (1, 63, 64, 65, 1000):
        wanted = []
        for index, part in paths.blocks(count, num_dates=5, largest=700):
            assert len(index) % 64 == 0
            assert len(index) <= 128
            assert part.stop - part.start <= len(index) < part.stop - part.start + 64
            wanted += index[part].tolist()
        assert wanted == list(range(count))
    assert len(next(paths.blocks(1000, num_dates=99, largest=10))[0]) == 64  # never none


def test_projections_are_those_of_numpy():
    model, _ = pair()
    pixels, design = scene(model, 5), model.design().detach()
    expected = np.einsum("btl,lq->qtb", pixels.double().numpy(), design.double().numpy())
    got = project(pixels, design)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, expected, rtol=1e-6)


# ------------------------------------------------------------- approximations of one date


def quadratic(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gram matrix, linear term and states of one date of four pixels."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(4, 6, MATERIALS))
    gram = 20 * root.swapaxes(1, 2) @ root
    return gram, 20 * rng.normal(size=(4, MATERIALS)), rng.normal(size=(4, MATERIALS))


def columns(array: np.ndarray) -> torch.Tensor:
    """(N, ...) to (..., one date, N)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, 0, -1)[..., None, :]))


def log_likelihood(c: np.ndarray, gram: np.ndarray, moment: np.ndarray) -> float:
    a = special.softmax(c)
    return moment @ a - 0.5 * a @ gram @ a


def slope_and_hessian(c, gram, moment) -> tuple[np.ndarray, np.ndarray]:
    """By finite differences."""

    def slope(at: np.ndarray) -> np.ndarray:
        return optimize.approx_fprime(at, log_likelihood, 1e-6, gram, moment)

    step, eye = 1e-4, np.eye(len(c))
    hessian = [(slope(c + step * e) - slope(c - step * e)) / (2 * step) for e in eye]
    return slope(c), np.array(hessian)


def test_a_site_has_the_slope_of_the_likelihood_at_its_state():
    gram, moment, states = quadratic()
    floor = torch.full((MATERIALS, 1, 4), 1e-6, dtype=torch.float64)
    given = columns(gram), columns(moment), columns(states)
    curvature, pull = (x.squeeze(-2).movedim(-1, 0).numpy() for x in paths._laplace(*given, floor))
    for n in range(4):
        a = special.softmax(states[n])
        jacobian = np.diag(a) - np.outer(a, a)
        np.testing.assert_allclose(curvature[n], jacobian @ gram[n] @ jacobian, atol=1e-10)
        slope, _ = slope_and_hessian(states[n], gram[n], moment[n])
        centred = states[n] - states[n].mean()
        np.testing.assert_allclose(pull[n] - curvature[n] @ centred, slope, atol=1e-4)


def test_the_expectations_of_a_certain_state_are_slope_and_hessian():
    gram, moment, states = quadratic(1)
    certain = np.zeros((4, MATERIALS, MATERIALS))
    given = columns(gram), columns(moment), columns(states), columns(certain)
    found = paths._expected_laplace(*given)
    curvature, pull = (x.squeeze(-2).movedim(-1, 0).numpy() for x in found)
    for n in range(4):
        slope, hessian = slope_and_hessian(states[n], gram[n], moment[n])
        values, vectors = np.linalg.eigh(-hessian)
        positive = (vectors * values.clip(0)) @ vectors.T
        # The jitter of 1e-6 in the variance moves the expectations by as much.
        np.testing.assert_allclose(curvature[n], positive, atol=2e-2 * np.abs(hessian).max())
        np.testing.assert_allclose(pull[n] - curvature[n] @ states[n], slope, atol=1e-2)


def test_the_scale_of_an_abundance_is_that_on_the_plane():
    gram, _, _ = quadratic(2)
    got = simplex_scale(columns(gram)).squeeze(-2).movedim(-1, 0).numpy()
    plane = np.linalg.svd(np.eye(MATERIALS) - 1 / MATERIALS)[0][:, : MATERIALS - 1]
    for n in range(4):
        covariance = plane @ np.linalg.inv(plane.T @ gram[n] @ plane) @ plane.T
        np.testing.assert_allclose(got[n], np.sqrt(np.diag(covariance)), rtol=1e-3)


def test_a_state_moves_by_half_at_most():
    states = torch.zeros(MATERIALS, DATES + 1, 2)
    path = paths.Path(
        states, lambda *_: torch.ones(DATES, 2), torch.zeros(MATERIALS), torch.ones(MATERIALS)
    )
    curvature = 1e4 * torch.eye(MATERIALS)[..., None, None].expand(-1, -1, DATES, 2)
    pull = torch.tensor([1e5, 0.0, 0.0])[:, None, None].expand(-1, DATES, 2)
    path.smooth((curvature, pull))
    assert path.states.amax().item() == pytest.approx(0.5)
    assert not states.any()
