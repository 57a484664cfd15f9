"""Noise that is not white: densities against scipy, gradients, and which guides serve it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from pyro import poutine
from scipy import stats

from pyro_unmix import SGLMM
from pyro_unmix.bases import Brightness
from pyro_unmix.guides import BiLSTMGuide, ConjugateGuide, MeanFieldGuide
from pyro_unmix.priors import BandNoise, DateNoise, LowRankNoise, Noise, StudentNoise, WhiteNoise

pytestmark = pytest.mark.usefixtures("seeded", "own_store")

BANDS, DATES = 5, 3
FLOAT32 = 1e-6

NOISES = {
    "band": BandNoise,
    "date": lambda: DateNoise(num_dates=DATES),
    "student": StudentNoise,
    "low rank": LowRankNoise,
}
WHITENED = ("band", "low rank")


def set_up(noise: Noise) -> Noise:
    noise.setup(num_bands=BANDS, generator=torch.Generator().manual_seed(0))
    noise.double()
    with torch.no_grad():
        for parameter in noise.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return noise


def tensor(values) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def spectra() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    mean = rng.uniform(size=(4, BANDS))
    return mean, mean + rng.normal(scale=0.02, size=mean.shape)


def written_out(name: str, value: dict[str, np.ndarray], mean, y, t: int) -> list[float]:
    scale = np.exp(value["log_scale"])
    if name == "band":
        return reference.log_normal(y, mean, scale)
    if name == "date":
        return reference.log_normal(y, mean, scale[t])
    if name == "student":
        dof = float(np.exp(value["log_dof"]))
        shape = scale**2 * np.eye(BANDS)
        return [
            stats.multivariate_t(m, shape, df=dof).logpdf(x) for m, x in zip(mean, y, strict=True)
        ]
    covariance = value["factor"] @ value["factor"].T + np.diag(scale**2)
    return [reference.log_gaussian(x, m, covariance) for m, x in zip(mean, y, strict=True)]


@pytest.mark.parametrize("name", NOISES)
def test_noise_has_the_written_out_density_and_its_gradient_reaches_all(name):
    noise = set_up(NOISES[name]())
    value = {n: p.detach().numpy() for n, p in noise.named_parameters()}
    mean, y = spectra()
    by_date = noise.by_date(DATES)
    total = torch.zeros(()).double()
    for t, distribution in enumerate(by_date):
        site = distribution(tensor(mean))
        assert (site.batch_shape, site.event_shape) == ((4,), (BANDS,))
        got = site.log_prob(tensor(y))
        np.testing.assert_allclose(got.detach(), written_out(name, value, mean, y, t), rtol=1e-9)
        assert site.sample().shape == mean.shape
        total = total + got.sum()
    total.backward()
    for n, parameter in noise.named_parameters():
        assert (parameter.grad.abs() > 0).all(), n


def test_noises_start_as_stated():
    scales = np.linspace(0.01, 0.05, BANDS)
    before = scales.copy()
    for noise in (BandNoise(scales), LowRankNoise(scales), DateNoise(scales)):
        noise.setup(num_bands=BANDS, generator=torch.Generator().manual_seed(0))
        np.testing.assert_allclose(noise.log_scale.exp().detach(), scales, rtol=10 * FLOAT32)
    np.testing.assert_array_equal(scales, before)
    # A tenth of the smallest sigma; a chi-square of 2 L = 10 numbers.
    low_rank = LowRankNoise(0.02)
    low_rank.setup(num_bands=BANDS, generator=torch.Generator().manual_seed(0))
    squares = float((low_rank.factor.detach() / 0.002).square().sum())
    assert 1 < squares < 35
    student = StudentNoise(0.03, dof=7)
    student.setup(num_bands=BANDS, generator=torch.Generator())
    assert student.log_dof.exp().item() == pytest.approx(7, rel=FLOAT32)


@pytest.mark.parametrize(
    "make", [BandNoise, StudentNoise, lambda learn: DateNoise(num_dates=2, learn=learn)]
)
def test_noise_that_is_not_learned_is_kept(make):
    noise = make(learn=False)
    noise.setup(num_bands=BANDS, generator=torch.Generator())
    assert not list(noise.parameters())
    assert "log_scale" in noise.state_dict()


def test_student_noise_leaves_an_outlier_alone():
    # The pull of an outlier on the mean, d log p / d mean, falls with its distance.
    student = set_up(StudentNoise(0.1))
    pulls = []
    for distance in (1.0, 10.0, 100.0):
        mean = torch.zeros(BANDS).double().requires_grad_()
        student.distributions()(mean).log_prob(mean.detach() + distance).backward()
        pulls.append(float(mean.grad.abs().max()))
    assert pulls[0] > 5 * pulls[1] > 25 * pulls[2]


def model(noise: Noise) -> SGLMM:
    spectra = np.random.default_rng(0).uniform(0.1, 0.9, size=(BANDS, 3))
    return SGLMM(spectra, basis=Brightness(), noise=noise)


@pytest.mark.parametrize("name", NOISES)
def test_which_guides_serve_it(name):
    program = model(NOISES[name]())
    BiLSTMGuide(program)
    MeanFieldGuide(program)
    if program.noise.needs <= ConjugateGuide.serves:
        assert name in WHITENED
        ConjugateGuide(program)
        return
    text = (
        "ConjugateGuide cannot serve noise that is not Gaussian, or not the same at all dates: use "
        "BiLSTMGuide.model. or MeanFieldGuide.model., which can"
    )
    with pytest.raises(ValueError, match=text):
        ConjugateGuide(program)
    ConjugateGuide(model(WhiteNoise()))


def test_the_model_gives_every_date_its_own_scale():
    program = model(DateNoise([0.01, 0.1, 1.0]))
    valid = torch.ones(2000, DATES, dtype=torch.bool)
    nodes = poutine.trace(program).get_trace(None, valid).nodes
    for t, scale in enumerate((0.01, 0.1, 1.0), start=1):
        site = nodes[f"y_{t}"]
        error = (site["value"] - site["fn"].mean).detach().numpy()
        # The relative error of a standard deviation of n numbers is 1 / sqrt(2 n).
        assert error.std() == pytest.approx(scale, rel=5 / math.sqrt(2 * error.size))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: DateNoise(0.1), "does not know how many dates there are: pass num_dates="),
        (lambda: DateNoise([0.1, 0.2], num_dates=3), "one number or one per date, got 2 for 3"),
        (lambda: DateNoise(num_dates=0), "num_dates must be at least 1"),
        (lambda: set_up(DateNoise([0.1, 0.2])).by_date(3), "scales of 2 dates, the images 3: pass"),
        (lambda: set_up(DateNoise([0.1, 0.2])).distributions(), "scales of 2 dates, the images 1"),
        (lambda: BandNoise([0.1, -0.2]), "scale must be positive, got -0.2"),
        (lambda: BandNoise([[0.1]]), "scale must have 1 dimensions, got 2"),
        (lambda: set_up(BandNoise([0.1, 0.2])), "one number or one per band, got 2 for 5 bands"),
        (lambda: StudentNoise(dof=0), "dof must lie in"),
        (lambda: StudentNoise(0), "scale must lie in"),
        (lambda: LowRankNoise(rank=0), "rank must be at least 1"),
        (lambda: LowRankNoise(float("nan")), "scale must lie in"),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()
