"""How much larger errors are than a model expects, told from abundances that come out negative."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.data.cubes import as_cube_sequence
from pyro_unmix.data.types import CubesLike
from pyro_unmix.io.opening import open_images
from pyro_unmix.kernels.sweeps import check_model
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.solvers import MarginalMixing
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.programs import as_tensors, quiet_pyro

_LEAST_NEGATIVE = 30  # values that a factor is told from
#: Std to which drawn ones count: where a basis imitates a material, a few far ones, whose std is wrong, hide the rest.
_FARTHEST = 3.0


@one_thread()
def misfit_factor(
    model: SGLMM, cube_sequence: CubesLike, *, num_pixels: int = 500, seed: int = 0
) -> float:
    """Ratio of a scene's errors to those that the model expects, for `PolishedMean(noise_factor=...)`.

    Without the bound at zero, generalised least squares with the variability integrated out gives negative abundances
    where a material is absent, and what is negative is error alone. The factor is the root mean square of the negative
    ones over their std, divided by the same of pixels drawn from the model, none of which counts as more than three: 1
    where spectra are as the model says, more where endmembers, basis or noise are not quite right, which no residual
    shows as long as another mixture fits.

    Parameters
    ----------
    model : SGLMM
        Linear, with Gaussian noise; trained or not.
    cube_sequence
        Anything that `as_cube_sequence` takes, or files.
    num_pixels : int
        Random pixels, of all their valid dates.
    seed : int
        Of the choice of pixels and of the draws.

    Returns
    -------
    float
        At least 1.

    Raises
    ------
    ValueError
        If the model is of another kind, or the scene has no valid pixel.

    References
    ----------
    The null distribution from the half that holds nothing else: Efron, "Large-scale simultaneous hypothesis testing",
    JASA 99, 2004.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> pu.start.misfit_factor(model, scene.cubes) >= 1
    True
    """
    check_model(model)
    num_pixels = positive_int(num_pixels, "num_pixels")
    seed = positive_int(seed, "seed", minimum=0)
    with quiet_pyro(), torch.no_grad():
        pixels, valid = as_tensors(as_cube_sequence(open_images(cube_sequence)), model)
        chosen = np.random.default_rng(seed).permutation(len(pixels))[:num_pixels]
        pixels, valid = pixels[chosen], valid[chosen]
        drawn = model.sample_sequence(len(pixels), pixels.shape[1], seed=seed)["pixels"]
        observed = _excess(model, pixels, valid)
        expected = _excess(model, drawn, valid, farthest=_FARTHEST)
    return max(1.0, observed / expected) if observed and expected else 1.0


def _excess(model: SGLMM, pixels: Tensor, valid: Tensor, farthest: float = math.inf) -> float:
    """Root mean square of the negative abundances over their std; 0 where there are too few."""
    y, design, noise = model.noise.whitened(pixels.double(), model.design().double())
    gram, projected = design.mT @ design, y @ design
    locs, variances = model.variability_prior.marginals(pixels.shape[1])
    scores = []
    for t, (loc, variance) in enumerate(zip(locs.double(), variances.double(), strict=True)):
        date = MarginalMixing(gram, noise.double(), loc, variance.sqrt(), model.num_endmembers)
        moments = projected[valid[:, t], t]
        if len(moments):
            scores.append(_scores(*date.information(moments, date.solve(moments))).flatten())
    negative = torch.cat(scores) if scores else projected.new_zeros(0)
    negative = negative[negative < 0]
    negative = negative.clamp(min=-farthest)
    return float(negative.square().mean().sqrt()) if len(negative) >= _LEAST_NEGATIVE else 0.0


def _scores(gram: Tensor, moment: Tensor) -> Tensor:
    """``argmin a'Ga / 2 - h'a`` with ``1'a = 1`` over the std of every coordinate, (N, P)."""
    size = gram.shape[-1]
    bordered = gram.new_zeros(len(gram), size + 1, size + 1)
    bordered[:, :size, :size] = gram
    bordered[:, size, :size] = bordered[:, :size, size] = 1
    inverse = torch.linalg.inv(bordered)
    right = torch.cat([moment, torch.ones_like(moment[:, :1])], dim=1)
    solution = (inverse @ right.unsqueeze(-1)).squeeze(-1)[:, :size]
    variance = inverse.diagonal(dim1=-2, dim2=-1)[:, :size]
    return solution / variance.clamp(min=1e-20).sqrt()
