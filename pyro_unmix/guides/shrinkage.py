"""Non-negative regression of a pixel on its endmembers, as a guide's first stream."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_unmix.mixing import Mixing
from pyro_unmix.ops.checks import positive, positive_int
from pyro_unmix.ops.simplex import clip_to_simplex
from pyro_unmix.priors import Part

_RIDGE = 1e-6


class Regression(Part):
    """From a pixel and its endmembers to crude non-negative abundances, not yet on the simplex."""

    def setup(self, *, num_endmembers: int, generator: torch.Generator) -> None:
        """Create the parameters."""
        self.make_declared()

    def forward(self, endmembers: Tensor, pixels: Tensor, mixing: Mixing) -> Tensor:
        """Crude abundances.

        Parameters
        ----------
        endmembers : Tensor, shape (..., L, P)
        pixels : Tensor, shape (..., L)
        mixing : Mixing
            The model's.

        Returns
        -------
        Tensor, shape (..., P)
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward()")


class ShrinkageSteps(Regression):
    """Unrolled iterative shrinkage, from the pseudo-inverse::

        alpha_0 = pinv(M) y,    alpha_k = relu(alpha_{k-1} - l_k M'(M alpha_{k-1} - y) - l_k lambda)

    l_k and lambda are learned. The pseudo-inverse is by normal equations with a small ridge. Nothing bounds l_k, as
    published: outside ``[0, 2 / s]``, with s the largest eigenvalue of ``M'M`` (40 to 280 in scenes of 224 bands), the
    steps lead away from the solution, and materials may end at zero, where no gradient leads back. At a learning
    rate of 1e-3 that takes some tens of updates. `NonnegativeRegression` has no such steps.

    Parameters
    ----------
    num_steps : int
    start : float
        l_k and lambda at the start.

    References
    ----------
    Borsoi, Erdogmus, Imbiriba, IEEE TCI 9, 2023; Gregor, LeCun, "Learning fast approximations of sparse coding",
    ICML 2010.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.IDNet(scene.reference_endmembers)
    >>> guide = pu.guides.TwoStreamGuide(model, regression=pu.guides.ShrinkageSteps(5))
    >>> pu.fit(model, guide, scene.cubes[:1], num_steps=2, progress=False)
    <Unmixing by fit (time: 1, y: 10, x: 10, endmember: 3), 2 steps>
    """

    def __init__(self, num_steps: int = 10, *, start: float = 0.01) -> None:
        super().__init__()
        start = positive(start, "start")
        self.declare("steps", [start] * positive_int(num_steps, "num_steps"))
        self.declare("shrinkage", start)

    def forward(self, endmembers: Tensor, pixels: Tensor, mixing: Mixing) -> Tensor:
        gram, moment = _normal_equations(endmembers, pixels)
        alpha = _solve(gram, moment)
        shrinkage = self.shrinkage
        for step in self.steps.unbind():
            slope = (gram @ alpha.unsqueeze(-1)).squeeze(-1) - moment
            alpha = (alpha - step * (slope + shrinkage)).relu()
        return alpha


class NonnegativeRegression(Regression):
    """Where shrinkage iterations end: ``argmin_{alpha >= 0} 1/2 ||y - g - M alpha||^2 + lambda'alpha``.

    g is the model's own nonlinear stream at the abundances found so far, ``g(M, alpha / 1'alpha)``: from zero, in
    `num_corrections` further rounds. The active set is found by block pivoting; given it, the solution is linear and
    its gradient exact. ``lambda_p = l ||m_p||^2`` with a learned l: a material alone is shrunk by l, dark or bright.

    Parameters
    ----------
    num_corrections : int
        Not used where the mixing is linear.
    shrinkage : float
        l at the start.

    References
    ----------
    Portugal, Judice, Vicente, "A comparison of block pivoting and interior-point algorithms for linear least squares
    problems with nonnegative variables", Mathematics of Computation 63, 1994.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.IDNet(scene.reference_endmembers)
    >>> guide = pu.guides.TwoStreamGuide(model, regression=pu.guides.NonnegativeRegression())
    >>> pu.fit(model, guide, scene.cubes[:1], num_steps=2, progress=False)
    <Unmixing by fit (time: 1, y: 10, x: 10, endmember: 3), 2 steps>
    """

    def __init__(self, num_corrections: int = 3, *, shrinkage: float = 1e-3) -> None:
        super().__init__()
        self.num_corrections = positive_int(num_corrections, "num_corrections", minimum=0)
        self.declare("log_shrinkage", math.log(positive(shrinkage, "shrinkage")))

    def forward(self, endmembers: Tensor, pixels: Tensor, mixing: Mixing) -> Tensor:
        gram, moment = _normal_equations(endmembers, pixels)
        moment = moment - self.log_shrinkage.exp() * gram.diagonal(dim1=-2, dim2=-1)
        alpha = _solve_nonnegative(gram, moment)
        for _ in range(0 if mixing.is_linear else self.num_corrections):
            nonlinear = mixing.nonlinear(endmembers, clip_to_simplex(alpha))
            corrected = moment - (nonlinear.unsqueeze(-2) @ endmembers).squeeze(-2)
            alpha = _solve_nonnegative(gram, corrected)
        return alpha


def _normal_equations(endmembers: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """``M'M`` with a small ridge, (..., P, P), and ``M'y``, (..., P)."""
    gram = endmembers.mT @ endmembers
    ridge = _RIDGE * gram.diagonal(dim1=-2, dim2=-1).mean(-1)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return gram + ridge[..., None, None] * eye, (pixels.unsqueeze(-2) @ endmembers).squeeze(-2)


def _solve(gram: Tensor, moment: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(moment.unsqueeze(-1), factor).squeeze(-1)


def _solve_nonnegative(gram: Tensor, moment: Tensor) -> Tensor:
    """``argmin_{x >= 0} x'Gx/2 - b'x``, shapes (..., P, P) and (..., P); differentiable given the active set."""
    with torch.no_grad():
        free = torch.ones_like(moment, dtype=torch.bool)
        tolerance = 1e-6 * moment.abs().amax(-1, keepdim=True)
        for _ in range(3 * moment.shape[-1]):
            x = solve_free(gram, moment, free)
            slope = (gram @ x.unsqueeze(-1)).squeeze(-1) - moment
            wrong = torch.where(free, x < 0, slope < -tolerance)
            if not wrong.any():
                break
            free = free ^ wrong
    return solve_free(gram, moment, free).relu()


def solve_free(gram: Tensor, moment: Tensor, free: Tensor) -> Tensor:
    """``G x = b`` for the free variables, the others held at zero; shapes (..., P, P) and twice (..., P)."""
    keep = free.to(gram.dtype)
    both = keep.unsqueeze(-1) * keep.unsqueeze(-2)
    return _solve(gram * both + torch.diag_embed(1 - keep), moment * keep)
