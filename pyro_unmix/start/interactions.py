"""Whether a scene is mixed nonlinearly: bilinear strengths from the image, and a rule that needs no truth."""

from __future__ import annotations

import logging

import numpy as np
import pyro
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import to_pixels
from pyro_unmix.guides.shrinkage import NonnegativeRegression, solve_free
from pyro_unmix.io.opening import takes_images
from pyro_unmix.mixing import BilinearMixing, LinearMixing, Mixing
from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.ops.simplex import clip_to_simplex
from pyro_unmix.ops.threads import one_thread

logger = logging.getLogger(__name__)

_NUM_STEPS = 60
_BATCH = 512
_RATE = 0.2
_START = 0.05


@takes_images
@one_thread()
def choose_mixing(
    cubes: xr.DataArray,
    endmembers: ArrayLike | xr.DataArray,
    *,
    seed: int = 0,
    num_spectra: int = 2000,
    least: float = 0.7,
) -> Mixing:
    """`BilinearMixing` with strengths from the image where it explains the pixels' brightness, else `LinearMixing`.

    Light that met two materials adds to a pixel, so that the amounts ``alpha`` of a linear model, non-negative but
    free in their sum, sum to more than one in mixed pixels. The strengths gamma that minimise ``sum_n log ||y_n - M
    alpha_n - g(M, a_n)||^2``, with ``a = alpha / 1'alpha``, are accepted if with them the amounts sum to one: if what
    it costs to make them, ``|1'alpha - 1| / sqrt(1'(M'M)^-1 1)`` over the materials present, has a median over pixels
    that is smaller than `least` times what it is without. A smaller residual alone does not tell: where materials
    vary, any further term lowers it.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, or files.
    endmembers : array (L, P) or DataArray (wavelength, endmember)
        Reflectance; absolute, since the rule looks at sums of amounts.
    seed : int
        Of the random subset and of its batches.
    num_spectra : int
        Spectra looked at, at most.
    least : float
        In [0, 1].

    References
    ----------
    Halimi, Altmann, Dobigeon, Tourneret, IEEE TGRS 49(11), 2011, for the model.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> type(pu.start.choose_mixing(scene.cubes[:1, ..., ::8], scene.reference_endmembers[::8])).__name__
    'LinearMixing'
    """
    matrix = torch.from_numpy(as_endmembers(endmembers, cubes.sizes["wavelength"])).float()
    least = in_range(least, "least", 0.0, 1.0)
    rng = np.random.default_rng(positive_int(seed, "seed", minimum=0))
    pixels, valid = to_pixels(cubes)
    spectra = pixels[valid]
    chosen = rng.permutation(len(spectra))[: positive_int(num_spectra, "num_spectra")]
    y = torch.from_numpy(spectra[chosen]).float()
    mixing, regression = BilinearMixing(_START), NonnegativeRegression()
    generator = torch.Generator().manual_seed(seed)
    # Reading a module's parameter enters it into Pyro's store; the caller's stays as it was.
    with pyro.get_param_store().scope():
        num_bands, num_endmembers = matrix.shape
        mixing.setup(num_bands=num_bands, num_endmembers=num_endmembers, generator=generator)
        regression.setup(num_endmembers=num_endmembers, generator=generator)
        _learn(mixing, regression, matrix, y, generator)
        with torch.no_grad():
            without, using = (
                _excess(regression(matrix, y, way), matrix) for way in (LinearMixing(), mixing)
            )
            strength = mixing.strength.numpy()
    logger.info(
        "products of materials with strengths %s: what fractions that sum to one cost goes from %.2g to %.2g",
        np.round(strength, 2).tolist(), without, using,
    )  # fmt: skip
    if using >= least * without:
        return LinearMixing()
    return BilinearMixing(strength.tolist())


def _learn(
    mixing: BilinearMixing,
    regression: NonnegativeRegression,
    matrix: Tensor,
    y: Tensor,
    generator: torch.Generator,
) -> None:
    """Move the strengths towards the least residual."""
    optimiser = torch.optim.Adam(mixing.parameters(), lr=_RATE)
    for _ in range(_NUM_STEPS):
        batch = y[torch.randint(len(y), (_BATCH,), generator=generator)]
        amounts = regression(matrix, batch, mixing)
        nonlinear = mixing.nonlinear(matrix, clip_to_simplex(amounts))
        residual = batch - amounts @ matrix.mT - nonlinear
        loss = residual.square().mean(-1).clamp(min=torch.finfo(y.dtype).tiny).log().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _excess(amounts: Tensor, matrix: Tensor) -> float:
    """Median over pixels of the root of the squared residual that it costs to make the amounts sum to one."""
    gram = (matrix.mT @ matrix).expand(*amounts.shape, -1)
    freedom = solve_free(gram, torch.ones_like(amounts), amounts > 0).sum(-1)
    return float(((amounts.sum(-1) - 1).square() / freedom.clamp(min=1e-12)).sqrt().median())
