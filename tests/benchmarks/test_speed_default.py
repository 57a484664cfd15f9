"""The default's ELBO written by hand, which the speed benchmark times it against, is the package's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import speed
import torch
from _hand_default import HandDefault

from pyro_unmix import SGLMM, ConjugateGuide, FixedEndmembers, simulate
from pyro_unmix.bases import DCT, LearnedBasis
from pyro_unmix.priors import AutoRegressive, Independent, JumpWalk, RandomWalk, WhiteNoise

SPECTRA = simulate.library(np.linspace(400, 2500, 14)).values[:, :3]


def default_pair(chain: Any, dtype: torch.dtype = torch.float64) -> tuple[SGLMM, ConjugateGuide]:
    """The kind of pair that `unmix` builds, every parameter moved off its start."""
    smooth = DCT(2, scale=0.3).components(torch.from_numpy(SPECTRA)).numpy()
    model = SGLMM(
        FixedEndmembers(SPECTRA),
        basis=LearnedBasis(smooth),
        abundance_prior=JumpWalk(),
        variability_prior=chain,
        noise=WhiteNoise(0.03),
        seed=1,
    ).to(dtype)
    guide = ConjugateGuide(model, seed=2).to(dtype)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in [*model.parameters(), *guide.parameters()]:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return model, guide


def both_steps(model: SGLMM, guide: ConjugateGuide) -> tuple[speed.PyroStep, speed.HandWrittenStep]:
    """Of 30 pixels at four dates with gaps, one of them at the last date and for most pixels at the third."""
    drawn = model.sample_sequence(30, 4, seed=5)["pixels"].detach()
    valid = torch.from_numpy(np.random.default_rng(4).uniform(size=(30, 4)) > [0.2, 0.2, 0.8, 0.2])
    valid[0, -1] = False
    valid[:, 0] |= ~valid.any(1)
    step = speed.PyroStep(model, guide, drawn.masked_fill(~valid.unsqueeze(-1), 0.3), valid)
    program = HandDefault(model, guide, step.pixels, valid, step.features)
    return step, speed.HandDefaultStep(program, step.pixels, valid)


@pytest.mark.parametrize("chain", [AutoRegressive(0.7), Independent()])
def test_the_hand_written_default_is_the_librarys_with_its_gradients(chain: Any) -> None:
    model, guide = default_pair(chain)
    step, hand = both_steps(model, guide)
    index = torch.arange(5, 25)
    features = {name: feature[index] for name, feature in step.features.items()}
    batch = step.pixels[index], step.valid[index]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        with step.around():
            theirs = step.svi.loss_and_grads(
                step.svi.model, step.svi.guide, *batch, index=index, size=30, features=features
            )
        torch.manual_seed(5)
        ours = hand.loss(index)
    ours.backward()
    assert ours.item() == pytest.approx(theirs, rel=1e-10)
    gradients = {name: leaf.grad for name, leaf in hand.program.parameters().items()}
    known = dict([*model.named_parameters(), *guide.named_parameters()])
    assert set(gradients) == set(known)
    for name, parameter in known.items():
        largest = float(parameter.grad.abs().max())
        assert largest > 0
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-8 * largest)


def test_another_default_elbo_is_found_out() -> None:
    step, hand = both_steps(*default_pair(AutoRegressive(0.7), torch.float32))
    with torch.random.fork_rng(devices=[]):
        assert speed.loss_difference(step, hand) <= speed.LOSS_TOLERANCE
        hand.program.gram = hand.program.gram * 1.01
        with pytest.raises(RuntimeError, match="not the same ELBO"):
            speed.loss_difference(step, hand)


def test_parts_that_unmix_does_not_choose_are_refused() -> None:
    model, guide = default_pair(RandomWalk())
    with pytest.raises(TypeError, match="what unmix builds on even dates, got RandomWalk"):
        HandDefault(model, guide, torch.zeros(2, 3, 14), torch.ones(2, 3, dtype=torch.bool), {})
