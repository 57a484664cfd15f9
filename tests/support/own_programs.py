"""Programs as a new user would write them, that know nothing of this package."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyro_unmix as pu
from pyro_unmix import simulate

LIBRARY = simulate.library(np.linspace(450, 2400, 20))
SCENE = simulate.scaled_scene(num_dates=2, height=5, width=6, library=LIBRARY, seed=1)
CUBES = SCENE.cubes
NUM_PIXELS, NUM_DATES, NUM_BANDS, NUM_MATERIALS = 30, 2, 20, 3
SPECTRA = torch.tensor(SCENE.reference_endmembers.values, dtype=torch.float32)


def plates(pixels, valid, *, index=None, size=None, features=None):
    return pyro.plate("pixels", size or len(valid), subsample=index, dim=-1)


def observe(abundances, spectra, pixels, valid, noise=0.05):
    for t in range(NUM_DATES):
        site = dist.Normal(abundances[..., t, :] @ spectra.T, noise).to_event(1)
        pyro.sample(f"y_{t + 1}", site.mask(valid[:, t]), obs=pixels[:, t])


def lmm(pixels, valid, *, index=None, size=None, features=None):
    with plates(pixels, valid, index=index, size=size):
        a = pyro.sample("a", dist.Dirichlet(torch.ones(NUM_DATES, NUM_MATERIALS)).to_event(1))
        observe(a, SPECTRA, pixels, valid)


def read(latents):
    return latents["a"]


def read_both(latents):
    return latents["a"], SPECTRA


class LMM(nn.Module):
    """The same with softmax abundances, learned spectra and noise, as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.spectra = nn.Parameter(SPECTRA.clone())
        self.log_noise = nn.Parameter(torch.tensor(-3.0))

    def forward(self, pixels, valid, *, index=None, size=None, features=None):
        pyro.module("lmm", self)
        prior = dist.Normal(torch.zeros(NUM_DATES, NUM_MATERIALS), 2.0).to_event(2)
        with plates(pixels, valid, index=index, size=size):
            c = pyro.sample("c", prior)
            observe(c.softmax(-1), self.spectra, pixels, valid, self.log_noise.exp())

    def decode(self, latents):
        return latents["c"].softmax(-1), self.spectra


def amortised(pixels, valid, *, index=None, size=None, features=None):
    """A guide by a function of the pixels, whose parameters are in the store."""
    weights = pyro.param("weights", lambda: 0.1 * torch.randn(NUM_BANDS, NUM_MATERIALS))
    scale = pyro.param("scale", torch.tensor(0.3), constraint=dist.constraints.positive)
    with plates(pixels, valid, index=index, size=size):
        pyro.sample("c", dist.Normal(pixels @ weights, scale).to_event(2))


def by_dirichlet(pixels, valid, *, index=None, size=None, features=None):
    """Another, of abundances themselves."""
    weights = pyro.param("weights", lambda: 0.1 * torch.randn(NUM_BANDS, NUM_MATERIALS))
    with plates(pixels, valid, index=index, size=size):
        shapes = (pixels @ weights).exp() + 0.1
        pyro.sample("a", dist.Dirichlet(shapes).to_event(1))


def auto(model, **settings) -> AutoNormal:
    return AutoNormal(model, create_plates=plates, **settings)


class SavedLMM(pu.models.Model):
    def __init__(self, endmembers, noise=0.05) -> None:
        super().__init__()
        self.register_buffer("spectra", torch.as_tensor(np.asarray(endmembers)).float())
        self.log_noise = nn.Parameter(torch.tensor(noise).log())

    def forward(self, pixels, valid, *, index=None, size=None, features=None):
        with plates(pixels, valid, index=index, size=size):
            a = pyro.sample("a", dist.Dirichlet(torch.ones(NUM_DATES, NUM_MATERIALS)).to_event(1))
            observe(a, self.spectra, pixels, valid, self.log_noise.exp())

    def decode(self, latents):
        return latents["a"], self.spectra


class SavedGuide(pu.guides.Guide):
    of_sequences = False

    def __init__(self, model) -> None:
        super().__init__(model)
        self.net = nn.Linear(20, 3)

    def forward(self, pixels, valid, *, index=None, size=None, features=None):
        with plates(pixels, valid, index=index, size=size):
            pyro.sample("a", dist.Dirichlet(self.net(pixels).exp()).to_event(1))
