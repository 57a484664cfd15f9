"""A prior on the reference endmembers: density, gradient; it holds a good start and frees a bad one."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_unmix import SGLMM, ConjugateGuide, fit, metrics, simulate
from pyro_unmix.bases import LearnedBasis
from pyro_unmix.priors import AnchoredEndmembers, FreeEndmembers, Independent, JumpWalk, WhiteNoise

pytestmark = pytest.mark.usefixtures("seeded", "own_store")


def parts(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0.1, 0.8, size=(12, 3)), rng.normal(0, 0.05, size=(12, 2, 3))


def test_the_density_is_the_formula() -> None:
    spectra, components = parts()
    model = SGLMM(
        AnchoredEndmembers(spectra, strength=0.5),
        basis=LearnedBasis(components),
        variability_prior=Independent(0.7),
    )
    anchored = model.reference.double()
    moved = spectra + np.random.default_rng(1).normal(0, 0.03, size=spectra.shape)
    with torch.no_grad():
        anchored.value.copy_(torch.from_numpy(moved))
        got = anchored.log_prior(70)
    expected = 0.0
    anchor = anchored.anchor.numpy()
    for p in range(3):
        f = 0.7 * components[:, :, p]
        cov = f @ f.T + 1e-3 * np.mean(anchor[:, p] ** 2) * np.eye(12)
        d = moved[:, p] - anchor[:, p]
        expected -= 0.5 * 70 * np.sqrt(d @ np.linalg.solve(cov, d) + 1e-4)
    np.testing.assert_allclose(float(got), expected, rtol=1e-5)  # G is made in float32


def test_every_pixel_brings_its_share_of_observed_values() -> None:
    spectra, components = parts()
    model = SGLMM(AnchoredEndmembers(spectra), basis=LearnedBasis(components))
    with torch.no_grad():
        model.reference.value.add_(0.01)
    valid = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]]).bool()
    log_probs = []
    for size in (4, 40):
        sites = poutine.trace(model).get_trace(
            torch.rand(4, 2, 12), valid, size=size, index=torch.arange(4)
        )
        sites.compute_log_prob()
        log_probs.append(sites.nodes["M0"]["log_prob_sum"].item())
        # six of eight pixel-dates of the batch are observed
        expected = -2e-3 * size * 1.5 * 12 * model.reference.distances().sum().item()
        assert log_probs[-1] == pytest.approx(expected, rel=1e-6)
    assert log_probs[1] == pytest.approx(10 * log_probs[0], rel=1e-6)


def test_pixels_without_any_date_do_not_strengthen_it() -> None:
    """The loss per observed value is the same with pixels beside the image that nobody saw."""
    spectra, components = parts()
    values = np.random.default_rng(1).uniform(0.1, 0.8, size=(2, 3, 3, 12))
    wider = np.full((2, 3, 8, 12), np.nan)
    wider[:, :, :3] = values

    def guide(pixels, valid, *, index=None, size=None, features=None):
        with pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1):
            for t in range(valid.shape[1] + 1):
                for name, event in (("c", 3), ("psi", 6)):
                    zeros = torch.zeros(len(pixels), event)
                    pyro.sample(f"{name}_{t}", dist.Delta(zeros).to_event(1))

    losses = []
    for cubes in (values, wider):
        model = SGLMM(AnchoredEndmembers(spectra, strength=10.0), basis=LearnedBasis(components))
        with torch.no_grad():
            model.reference.value.add_(0.01)
        losses.append(fit(model, guide, cubes, num_steps=1, batch_size=64, progress=False).losses)
    share = 10.0 * model.reference.distances().sum().item()
    assert share > 0.5  # it is seen in the loss
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_without_displacement_nothing_pulls() -> None:
    spectra, components = parts()
    anchored = SGLMM(AnchoredEndmembers(spectra), basis=LearnedBasis(components)).reference
    anchored.log_prior(100).backward()
    assert torch.equal(anchored.value.grad, torch.zeros_like(anchored.value))


def test_a_poor_start_moves_and_a_good_one_stays() -> None:
    scene = simulate.scaled_scene(num_dates=3, height=15, width=15, seed=2)
    truth = scene.reference_endmembers.values[::8]
    cubes = scene.cubes[..., ::8]
    poor = truth @ np.array([[0.7, 0.1, 0.1], [0.15, 0.8, 0.1], [0.15, 0.1, 0.8]])

    def trained(kind, start):
        model = SGLMM(
            kind(start), abundance_prior=JumpWalk(), variability_prior=Independent(0.05),
            noise=WhiteNoise(0.02),
        )  # fmt: skip
        return fit(
            model, ConjugateGuide(model, correction=False), cubes, num_steps=40,
            learning_rate=0.01, learning_rate_decay=0.01, progress=False,
        )  # fmt: skip

    def moved(result, start):
        return np.linalg.norm(result.reference_endmembers.values - start) / np.linalg.norm(start)

    strong = partial(AnchoredEndmembers, strength=0.02)
    free, held, held_fast = (
        moved(trained(kind, truth), truth) for kind in (FreeEndmembers, AnchoredEndmembers, strong)
    )
    assert held_fast < 0.3 * free and held_fast < held < 0.8 * free
    corrected = trained(AnchoredEndmembers, poor)
    found = corrected.reference_endmembers.values
    error = [metrics.sam_endmembers(m[None], truth[None]) for m in (found, poor)]
    assert error[0] < 0.9 * error[1]


def test_without_a_model_there_is_no_distance() -> None:
    anchored = AnchoredEndmembers(parts()[0])
    for call in (anchored.distances, lambda: anchored.log_prior(10)):
        with pytest.raises(ValueError, match="belong to no model yet: make one"):
            call()


def test_a_strength_must_be_positive() -> None:
    with pytest.raises(ValueError, match="strength must lie in"):
        AnchoredEndmembers(parts()[0], strength=0)
