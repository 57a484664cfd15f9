"""The ELBO with a divergence from the prior that counts less at first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Normal, kl_divergence, register_kl

from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.ops.distributions import DiagonalNormal, IsotropicNormal


class Ramp:
    """A weight that rises in a straight line: ``final min(n / num_updates, 1)`` at the n-th update, from n = 0.

    Parameters
    ----------
    num_updates : int
        Updates until `final` is reached.
    final : float

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> weight = pu.infer.Ramp(num_updates=4)
    >>> [weight(update) for update in (0, 2, 4, 9)]
    [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, num_updates: int, final: float = 1.0) -> None:
        self.num_updates = positive_int(num_updates, "num_updates")
        self.final = in_range(final, "final", low=0, open_low=True)

    def __call__(self, update: int) -> float:
        return self.final * min(update / self.num_updates, 1.0)


class WeightedELBO(TraceMeanField_ELBO):
    """``E_q log p(y | z) - w_n KL(q(z | y) || p(z))`` with a weight w_n that depends on the update n.

    Per latent site the divergence given the sites before it is in closed form where both distributions are Gaussian
    with a diagonal covariance, else ``log q - log p`` of the draw. With w = 1 this is the ELBO of eq. (29) of the
    ReDSUNN paper.

    Parameters
    ----------
    kl_weight : callable or float
        ``w(n)``, n = 0, 1, ... counts the calls of `loss_and_grads`: one object serves one fit.
    **settings
        Of `pyro.infer.TraceMeanField_ELBO`, such as ``num_particles``. As there, model and guide must draw their
        sites in one order.

    Raises
    ------
    TypeError
        If `kl_weight` is neither a number nor a function.

    References
    ----------
    Bowman et al., "Generating sentences from a continuous space", CoNLL 2016 (annealing); Higgins et al.,
    "beta-VAE", ICLR 2017 (a constant weight).

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.ConjugateGuide(model, correction=False)
    >>> loss = pu.infer.WeightedELBO(pu.infer.Ramp(10))
    >>> pu.fit(model, guide, scene.cubes, loss=loss, num_steps=2, progress=False)
    <Unmixing by fit (time: 2, y: 10, x: 10, endmember: 3), 2 steps>
    """

    def __init__(self, kl_weight: float | Callable[[int], float], **settings: Any) -> None:
        super().__init__(**settings)
        if callable(kl_weight):
            self.kl_weight = kl_weight
        elif isinstance(kl_weight, (int, float)) and not isinstance(kl_weight, bool):
            constant = in_range(kl_weight, "kl_weight", low=0)
            self.kl_weight = lambda update: constant
        else:
            raise TypeError(
                "kl_weight must be a number or a function of the update's number, such as "
                f"Ramp(5000), got {kl_weight!r}"
            )
        #: Updates so far.
        self.update = 0

    def loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """The negative objective at the current weight."""
        weighted = _Weighted(self.kl_weight(self.update))
        return super().loss(weighted(model), weighted(guide), *args, **kwargs)

    def loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """The negative objective, its gradient added to the parameters; one update is counted."""
        weighted = _Weighted(self.kl_weight(self.update))
        self.update += 1
        return super().loss_and_grads(weighted(model), weighted(guide), *args, **kwargs)


class _Weighted(Messenger):
    """Scales the densities of all latent sites."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.weight


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl_diagonal_diagonal(first: DiagonalNormal, second: DiagonalNormal) -> Tensor:
    return kl_divergence(Normal(first.loc, first.scale), Normal(second.loc, second.scale)).sum(-1)


@register_kl(DiagonalNormal, IsotropicNormal)
def _kl_diagonal_isotropic(first: DiagonalNormal, second: IsotropicNormal) -> Tensor:
    scale = torch.as_tensor(second.log_scale).exp().unsqueeze(-1)
    return kl_divergence(Normal(first.loc, first.scale), Normal(second.loc, scale)).sum(-1)
