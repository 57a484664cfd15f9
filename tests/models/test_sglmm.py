"""What `SGLMM` is made of, what it decodes and simulates, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import reference
import torch
import xarray as xr
from model_cases import BANDS, DATES, MATERIALS, PIXELS, build, draws, pixels, spectra

from pyro_unmix import SGLMM
from pyro_unmix.bases import DCT, Brightness, LearnedBasis
from pyro_unmix.priors import (
    FixedEndmembers,
    FreeEndmembers,
    JumpWalk,
    KnownAbundances,
    RandomWalk,
    SoftmaxWalk,
)

pytestmark = pytest.mark.usefixtures("seeded", "own_store")


# Its parameters


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_theta_has_the_count_of_table_1(num_layers):
    num_components, bands = 4, 12
    model = SGLMM(
        np.random.default_rng(0).uniform(0.1, 0.9, size=(bands, MATERIALS)),
        basis=DCT(num_components),
        abundance_prior=SoftmaxWalk(num_layers=num_layers),
    )
    p = MATERIALS
    # Table I counts P outputs for every layer of sigma_a; its last layer has one (eq. 18).
    network = p * (p + 1) * num_layers - (p - 1) * (p + 1)
    table = bands * p + 1 + network + 2 * (num_components + 1) * p
    assert sum(parameter.numel() for parameter in model.parameters()) == table


def test_the_default_model_starts_as_the_paper_says():
    model = SGLMM(np.random.default_rng(0).uniform(0.1, 0.9, size=(20, 3)))
    assert isinstance(model.basis, DCT)
    assert model.num_components == 10
    assert isinstance(model.reference, FreeEndmembers)
    assert isinstance(model.variability_prior, RandomWalk)
    # The printed 0.0001 is the variance: 0.5 against 0.01 is 34 dB.
    assert float(model.noise.scale.detach()) == pytest.approx(0.01, rel=1e-6)
    for prior in (model.abundance_prior, model.variability_prior):
        assert not prior.initial_loc.any()
        assert not prior.log_initial_scale.any()
    assert not model.abundance_prior.bias_0.any()


def test_models_built_alike_are_equal_and_no_global_state_moves():
    before = torch.get_rng_state()
    first, second, other = (SGLMM(spectra(), basis=DCT(3), seed=seed) for seed in (4, 4, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert not list(pyro.get_param_store().keys())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert any(
        not torch.equal(value, other.state_dict()[name])
        for name, value in first.state_dict().items()
    )


def test_parts_are_copied():
    prior, start = JumpWalk(), FixedEndmembers(spectra())
    models = [SGLMM(start, basis=DCT(2), abundance_prior=prior) for _ in range(2)]
    assert not dict(prior.named_parameters())  # the caller's object knows no sizes
    assert models[0].abundance_prior is not prior
    assert models[0].abundance_prior is not models[1].abundance_prior
    with torch.no_grad():
        models[0].abundance_prior.log_scale.fill_(7)
        models[0].reference.value.fill_(7)
    assert float(models[1].abundance_prior.log_scale.detach()) != 7
    np.testing.assert_array_equal(start.value, spectra().astype(np.float32))


def test_an_array_is_the_start_of_free_endmembers_and_stays_as_it_is():
    matrix = spectra()
    before = matrix.copy()
    model = SGLMM(matrix, basis=Brightness())
    with torch.no_grad():
        model.reference.value.zero_()
    np.testing.assert_array_equal(matrix, before)


def test_names_of_materials_are_kept():
    coords = {"endmember": ["soil", "water", "tree"]}
    named = xr.DataArray(spectra(), dims=("wavelength", "endmember"), coords=coords)
    assert SGLMM(named, basis=Brightness()).endmember_names == ["soil", "water", "tree"]
    assert SGLMM(spectra(), basis=Brightness()).endmember_names is None


# Decoding and simulating


@pytest.mark.parametrize("particles", [(), (5,)])
def test_decode_maps_states_to_abundances_and_variability(particles):
    model, latents = build(), draws(*particles)
    abundances, variability = model.decode_variability(latents)
    assert abundances.shape == (*particles, PIXELS, DATES, MATERIALS)
    assert variability.shape == (*particles, PIXELS, DATES, 2, MATERIALS)
    for t in range(1, DATES + 1):
        np.testing.assert_allclose(
            abundances[..., t - 1, :], reference.softmax(latents[f"c_{t}"].numpy()), rtol=1e-12
        )
        flat = variability[..., t - 1, :, :].flatten(-2)
        assert torch.equal(flat, latents[f"psi_{t}"])


def test_mixing_endmembers_is_eq_7():
    model = build()
    psi = np.random.default_rng(2).normal(size=(4, 2, MATERIALS))
    got = model.mixing_endmembers(torch.from_numpy(psi)).detach().numpy()
    endmembers = model.reference.value.detach().numpy()
    scale = float(model.basis.scale[0])
    columns = scale * reference.dct_columns(BANDS, 2)
    for n in range(4):
        expected = endmembers * (1 + columns @ psi[n])
        np.testing.assert_allclose(got[n], expected, atol=1e-13)


def test_design_is_made_of_m0_and_the_components():
    model = build()
    got = model.design().detach().numpy()
    components = model.components().detach().numpy()
    assert got.shape == (BANDS, 3 * MATERIALS)
    np.testing.assert_array_equal(got[:, :MATERIALS], model.reference.value.detach())
    for k in range(2):
        block = got[:, (k + 1) * MATERIALS : (k + 2) * MATERIALS]
        np.testing.assert_array_equal(block, components[:, k])


def test_sample_sequence_is_reproducible_and_leaves_no_trace():
    model = build()
    before = torch.get_rng_state()
    first, again, other = (model.sample_sequence(6, 4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert not list(pyro.get_param_store().keys())
    shapes = {k: tuple(v.shape) for k, v in first.items()}
    assert shapes == {
        "pixels": (6, 4, BANDS),
        "abundances": (6, 4, MATERIALS),
        "variability": (6, 4, 2, MATERIALS),
    }
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert not torch.equal(value, other[name])
        assert not value.requires_grad


def test_sample_sequence_draws_from_the_stated_program():
    count = 4000
    model = build("jump", "autoregressive")
    drawn = {k: v.numpy() for k, v in model.sample_sequence(count, 3, seed=1).items()}
    endmembers, components = model.reference.value, model.components()
    mean = reference.mixed(
        endmembers.detach().numpy(),
        components.detach().numpy(),
        drawn["abundances"],
        drawn["variability"].reshape(count, 3, -1),
    )
    noise, scale = drawn["pixels"] - mean, float(model.noise.scale.detach())
    assert noise.std() == pytest.approx(scale, rel=5 / math.sqrt(2 * noise.size))
    assert abs(noise.mean()) < 5 * scale / math.sqrt(noise.size)
    coefficient, _, _, stationary = (x.detach().numpy() for x in model.variability_prior.chain())
    psi = drawn["variability"].reshape(count, 3, -1) / stationary
    assert psi.var(axis=(0, 1)) == pytest.approx(1, rel=5 * math.sqrt(2 / count))
    lagged = (psi[:, 1:] * psi[:, :-1]).mean(axis=(0, 1))
    assert lagged == pytest.approx(coefficient, abs=5 * math.sqrt(2 / count))


# Errors


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: SGLMM(spectra(), basis="dct"),
            TypeError,
            r"basis must be a Basis object such as DCT.., got 'dct' .str.",
        ),
        (
            lambda: SGLMM(spectra(), abundance_prior=RandomWalk()),
            TypeError,
            r"abundance_prior must be a AbundancePrior object such as SoftmaxWalk..",
        ),
        (
            lambda: SGLMM(spectra(), variability_prior=JumpWalk),
            TypeError,
            r"variability_prior must be a VariabilityPrior object such as RandomWalk..",
        ),
        (
            lambda: SGLMM(spectra(), noise=0.1),
            TypeError,
            r"noise must be a Noise object such as WhiteNoise.., got 0.1 .float.",
        ),
        (lambda: SGLMM(spectra()), ValueError, "needs at least as many bands, got 7"),
        (
            lambda: SGLMM(spectra(), basis=LearnedBasis(np.zeros((BANDS, 1, 2)))),
            ValueError,
            "this basis was learned for",
        ),
        (
            lambda: SGLMM(
                spectra(), basis=DCT(2), abundance_prior=KnownAbundances(np.full((1, 1, 2), 0.5))
            ),
            ValueError,
            "KnownAbundances has 2 materials, the model 3",
        ),
        (lambda: build().sample_sequence(0, 3), ValueError, "num_pixels must be at least 1"),
        (lambda: build().sample_sequence(3, 1.5), TypeError, "num_dates must be an integer"),
        (
            lambda: build()(*pixels(), index=torch.arange(3)),
            ValueError,
            r"index must have one entry per pixel .4., got 3",
        ),
    ],
)
def test_model_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()
