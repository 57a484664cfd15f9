"""Pairs of IDNet and its guide, data for them, and their densities written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import stats

from pyro_unmix import simulate
from pyro_unmix.bases import ScalingDecoder
from pyro_unmix.guides import NonnegativeRegression, TwoStreamGuide
from pyro_unmix.infer import SelfSupervisedELBO
from pyro_unmix.mixing import BilinearMixing
from pyro_unmix.models import IDNet
from pyro_unmix.priors import WhiteNoise

BANDS, MATERIALS, LATENTS, PIXELS = 8, 3, 2, 5
PAIRS = ["published", "ours"]


def spectra() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 0.9, size=(BANDS, MATERIALS))


def pair(kind: str = "published") -> tuple[IDNet, TwoStreamGuide]:
    """Small, in float64, every parameter away from its start."""
    if kind == "published":
        model = IDNet(spectra(), latent_size=LATENTS)
        guide = TwoStreamGuide(model)
    else:
        model = IDNet(
            spectra(),
            latent_size=LATENTS,
            decoder=ScalingDecoder(),
            mixing=BilinearMixing(0.3),
            noise=WhiteNoise(0.05),
            endmember_scale=0.02,
        )
        regression = NonnegativeRegression()
        guide = TwoStreamGuide(model, regression=regression, informed=True, initial_gain=0.3)
    with torch.no_grad():
        for parameter in [*model.parameters(), *guide.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.double(), guide.double()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    y = np.random.default_rng(1).uniform(0.1, 0.9, size=(PIXELS, 1, BANDS))
    valid = torch.ones(PIXELS, 1, dtype=torch.bool)
    valid[2] = False
    return torch.from_numpy(y), valid


def bundles() -> xr.DataArray:
    rng = np.random.default_rng(3)
    columns = np.concatenate([spectra()[:, [p]] * rng.uniform(0.8, 1.2, 6) for p in range(3)], 1)
    labels = np.repeat(["a", "b", "c"], 6)
    return xr.DataArray(
        columns, dims=("wavelength", "endmember"), coords={"label": ("endmember", labels)}
    )


def values_of(trace: Any) -> dict[str, np.ndarray]:
    sites = trace.nodes.items()
    return {k: v["value"].detach().numpy() for k, v in sites if v["type"] == "sample"}


def model_densities(model: IDNet, value: dict[str, np.ndarray], y: np.ndarray) -> dict[str, Any]:
    """log p of every site but the mask, with scipy."""
    z, m, a = value["z_1"], value["M_1"], value["a_1"]
    lead = np.broadcast_shapes(z.shape[:-1], m.shape[:-1])
    latents = torch.from_numpy(z).unflatten(-1, (MATERIALS, LATENTS))
    decoded = model.decoder(latents, model.reference.value).detach().numpy()
    scale = np.exp(model.log_endmember_scale.detach().numpy())[:, None]
    cube = m.reshape(*m.shape[:-1], MATERIALS, BANDS)
    mean = model.mixing(torch.from_numpy(cube).mT, torch.from_numpy(a)).detach().numpy()
    noise = model.noise.log_scale.exp().item()
    return {
        "z_1": stats.norm.logpdf(z).sum(-1),
        "M_1": stats.norm.logpdf(cube, decoded, scale).sum((-2, -1)),
        "a_1": np.full(lead, np.log(2.0)),  # of a uniform density on the triangle: (P - 1)!
        "y_1": stats.norm.logpdf(y, mean, noise).sum(-1),
    }


def guide_densities(
    guide: TwoStreamGuide, value: dict[str, np.ndarray], y: np.ndarray, valid: np.ndarray
) -> dict[str, Any]:
    """log q of every site, with scipy."""
    model = guide.model
    pixels, known = torch.from_numpy(y), torch.from_numpy(valid)
    loc, scale = (x.detach().numpy() for x in guide.latents(pixels, known))
    m = torch.from_numpy(value["M_1"]).unflatten(-1, (MATERIALS, BANDS)).mT
    regression, correction = (x.detach().numpy() for x in guide.streams(pixels, m))
    kappa = 10 + 100 * np.exp(float(guide.log_precision.detach()))
    concentration = kappa * np.maximum(regression + correction, 0) + 0.01
    concentration = np.where(valid[:, None], concentration, 1.0)
    a = np.broadcast_to(value["a_1"], concentration.shape)
    log_q = [
        stats.dirichlet.logpdf(x / x.sum(), c)
        for x, c in zip(a.reshape(-1, MATERIALS), concentration.reshape(-1, MATERIALS), strict=True)
    ]
    return {
        "z_1": stats.norm.logpdf(value["z_1"], loc, scale).sum(-1),
        "M_1": model_densities(model, value, y)["M_1"],
        "a_1": np.reshape(log_q, concentration.shape[:-1]),
        "concentration": concentration,
    }


def small_cube(side: int = 12) -> simulate.Scene:
    library = simulate.library(np.linspace(450, 2400, 24))
    return simulate.scaled_scene(num_dates=1, height=side, width=side, library=library)


def evaluate(library: xr.DataArray, model: IDNet | None = None) -> float:
    model = IDNet(spectra()) if model is None else model
    return SelfSupervisedELBO(library).loss(model, TwoStreamGuide(model), *data())
