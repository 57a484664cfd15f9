"""Hapke's powders: there and back, against Hapke's own expression and numerical roots, and as a part of a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.optimize import brentq

import pyro_unmix as pu
from pyro_unmix.mixing import Hapke, cross_section_fractions, mass_fractions

ANGLES = [(0.0, 0.0), (30.0, 0.0), (45.0, 20.0), (80.0, 80.0)]


def bidirectional(w: float, incidence: float, emission: float) -> float:
    """Eq. (16) of Hapke (1981), per steradian, with P = 1 and B = 0, as a radiance coefficient."""
    mu0, mu = math.cos(math.radians(incidence)), math.cos(math.radians(emission))
    h = [(1 + 2 * x) / (1 + 2 * x * math.sqrt(1 - w)) for x in (mu0, mu)]
    r = w / (4 * math.pi) * mu0 / (mu0 + mu) * ((1 + 0) * 1 + h[0] * h[1] - 1)
    return math.pi * r / mu0


@pytest.mark.parametrize(("incidence", "emission"), ANGLES)
def test_reflectance_is_that_of_the_source(incidence: float, emission: float) -> None:
    w = np.array([0.0, 0.01, 0.3, 0.9, 0.999, 1.0])
    expected = [bidirectional(one, incidence, emission) for one in w]
    got = Hapke(incidence, emission).to_reflectance(w)
    np.testing.assert_allclose(got, expected, rtol=1e-13)


@pytest.mark.parametrize(("incidence", "emission"), ANGLES)
def test_albedo_is_the_root_of_the_reflectance(incidence: float, emission: float) -> None:
    hapke = Hapke(incidence, emission)
    for r in (0.02, 0.4, 0.9):
        root = brentq(lambda w, r=r: bidirectional(w, incidence, emission) - r, 0, 1, xtol=1e-14)
        np.testing.assert_allclose(hapke.to_albedo(np.array([r])), root, rtol=1e-11)


@pytest.mark.parametrize(("incidence", "emission"), ANGLES)
def test_there_and_back(incidence: float, emission: float) -> None:
    hapke = Hapke(incidence, emission)
    w = np.linspace(-0.3, 1, 2001)  # noise below zero, too
    w = w[w > hapke.to_albedo(np.array(hapke.darkest))]
    np.testing.assert_allclose(hapke.to_albedo(hapke.to_reflectance(w)), w, rtol=0, atol=1e-10)
    r = np.linspace(hapke.darkest, 0.9999 * hapke.brightest, 2001)
    np.testing.assert_allclose(hapke.to_reflectance(hapke.to_albedo(r)), r, rtol=0, atol=1e-10)


def test_the_brightest_powder_does_not_absorb() -> None:
    hapke = Hapke()
    assert hapke.to_albedo(np.array(hapke.brightest)) == 1
    assert hapke.to_albedo(np.array(2.0)) == 1
    assert hapke.brightest == pytest.approx(bidirectional(1.0, 30, 0))
    assert Hapke(0, 0).brightest == pytest.approx(9 / 8)


def test_gradients() -> None:
    hapke = Hapke(45, 10)
    r = torch.linspace(0.01, 0.95, 7, dtype=torch.float64, requires_grad=True)
    w = torch.linspace(0.01, 0.99, 7, dtype=torch.float64, requires_grad=True)
    endmembers = torch.rand(
        5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    abundances = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(hapke.to_albedo, r)
    assert torch.autograd.gradcheck(hapke.to_reflectance, w)
    assert torch.autograd.gradcheck(hapke, (endmembers, abundances))


@pytest.mark.parametrize("value", [-5.0, 0.0, "brightest", 3.0])
def test_gradients_are_finite_at_the_bounds(value: float | str) -> None:
    hapke = Hapke()
    number = hapke.brightest if isinstance(value, str) else value
    endmembers = torch.full((4, 2), number, requires_grad=True)
    abundances = torch.tensor([1.0, 0.0], requires_grad=True)
    hapke(endmembers, abundances).sum().backward()
    assert torch.isfinite(endmembers.grad).all() and torch.isfinite(abundances.grad).all()


def test_mixing_is_linear_in_albedo() -> None:
    hapke = Hapke()
    rng = np.random.default_rng(0)
    endmembers, a = rng.uniform(0, 1, (6, 3)), rng.dirichlet(np.ones(3))
    mixed = hapke(torch.tensor(endmembers), torch.tensor(a)).numpy()
    np.testing.assert_allclose(hapke.to_albedo(mixed), hapke.to_albedo(endmembers) @ a, atol=1e-13)
    pure = hapke(torch.tensor(endmembers), torch.tensor([0.0, 1.0, 0.0]).double()).numpy()
    np.testing.assert_allclose(pure, endmembers[:, 1], atol=1e-13)


def test_kinds_of_arrays() -> None:
    hapke = Hapke()
    values = np.array([[0.1, np.nan], [0.5, 0.9]], dtype=np.float32)
    array = xr.DataArray(values, dims=("y", "x"), coords={"x": [3, 4]}, attrs={"units": "1"})
    albedo = hapke.to_albedo(array)
    xr.testing.assert_identical(albedo.isnull(), array.isnull())
    assert albedo.dims == array.dims and albedo["x"].equals(array["x"])
    np.testing.assert_array_equal(albedo, hapke.to_albedo(values))
    single = hapke.to_albedo(torch.tensor(values))
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, albedo, rtol=1e-5)


@pytest.mark.parametrize(
    ("angles", "error", "text"),
    [
        ({"incidence": 90}, ValueError, r"incidence must lie in \[0, 80\], got 90"),
        ({"emission": -1}, ValueError, r"emission must lie in \[0, 80\], got -1"),
        ({"incidence": "30"}, TypeError, "incidence must be one real number"),
    ],
)
def test_refused_angles(angles: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Hapke(**angles)


# Mass


def test_mass_of_spheres() -> None:
    # counts of spheres n: cross section n pi d^2 / 4, mass rho n pi d^3 / 6
    n, d, rho = np.array([4.0, 1.0, 9.0]), np.array([1.0, 3.0, 0.5]), np.array([2.0, 5.0, 3.0])
    cross, mass = n * d**2, rho * n * d**3
    cross, mass = cross / cross.sum(), mass / mass.sum()
    got = mass_fractions(cross, densities=rho, diameters=d)
    np.testing.assert_allclose(got, mass, rtol=1e-14)
    back = cross_section_fractions(got, densities=rho, diameters=d)
    np.testing.assert_allclose(back, cross, rtol=1e-14)


def test_mass_of_maps() -> None:
    maps = xr.DataArray(
        [[[0.5, np.nan]], [[0.5, np.nan]]], dims=("endmember", "y", "x"), coords={"x": [1, 2]}
    )
    mass = mass_fractions(maps, densities=[1, 3], diameters=[1, 1])
    assert mass.dims == maps.dims and mass["x"].equals(maps["x"])
    np.testing.assert_allclose(mass.isel(x=0, y=0), [0.25, 0.75])
    assert mass.isel(x=1).isnull().all()


def test_refused_masses() -> None:
    with pytest.raises(
        ValueError, match=r"densities must be one positive number per material, \(2,\)"
    ):
        mass_fractions([0.5, 0.5], densities=[1, 2, 3], diameters=[1, 1])
    with pytest.raises(ValueError, match="diameters must be one positive number per material"):
        mass_fractions([0.5, 0.5], densities=[1, 2], diameters=[1, 0])
    with pytest.raises(ValueError, match="fractions with the dim 'endmember'"):
        mass_fractions(xr.DataArray([0.5, 0.5], dims="p"), densities=[1, 2], diameters=[1, 1])


# In a model


def test_as_the_mixing_of_a_model(tmp_path) -> None:
    rng = np.random.default_rng(0)
    endmembers = rng.uniform(0.1, 0.9, (12, 2))
    truth = rng.dirichlet(np.ones(2), size=(1, 8, 8))
    hapke = Hapke(40)
    mixed = hapke(torch.tensor(endmembers), torch.tensor(truth)).numpy()
    cubes = pu.as_cube_sequence(mixed + rng.normal(0, 0.005, mixed.shape))
    model = pu.SGLMM(pu.FixedEndmembers(endmembers), basis=pu.Brightness(0.02), mixing=hapke)
    result = pu.fit(
        model, pu.MeanFieldGuide(model), cubes, num_steps=400, learning_rate=0.05, progress=False
    )
    errors = [
        float(np.sqrt(np.square(one.abundances.values - truth).mean()))
        for one in (result, pu.methods.fcls(cubes, endmembers=endmembers, progress=False))
    ]
    assert errors[0] < errors[1] / 2
    result.save(tmp_path / "fit")
    loaded = pu.Unmixing.load(tmp_path / "fit")
    assert repr(loaded.model.mixing) == "Hapke(incidence=40, emission=0)"
    np.testing.assert_allclose(loaded.reconstruct(), result.reconstruct(), atol=1e-6)
    with pytest.raises(ValueError, match="cannot serve pixels that are not linear"):
        pu.ConjugateGuide(model)
