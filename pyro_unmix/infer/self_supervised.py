"""IDNet's objective: the ELBO of the image, and a supervised one of pure pixels taken from it."""

from __future__ import annotations

from typing import Any

import pyro
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import unwrap
from torch import Tensor

from pyro_unmix.data.libraries import is_library
from pyro_unmix.data.types import GuideProgram, ModelProgram
from pyro_unmix.models import IDNet
from pyro_unmix.ops.checks import finite_array, in_range, positive_int

#: The batch of the paper, which the norms of the networks are stated for.
PUBLISHED_BATCH = 16


class SelfSupervisedELBO(Trace_ELBO):
    """Objective of `IDNet`: image ELBO, supervised ELBO of pure pixels, and regularisers.

    A batch of B pixels is accompanied by B triples (y, M, a): M one random spectrum per material from the bundles, a
    one-hot, ``y = M a`` plus white noise. Maximised is the sum over both::

        log p(y, M, a, Z) - log q(Z, M, a | y)                                       of the pixels, one draw
        + weight / K sum_j w_j [log p(y|M,a) + log p(a) + log p(Z_j) - log q(a|M,y) - log q(Z_j|y)]   of the triples
        + label_weight [log q(a|M,y) + 1/K sum_j log q(M|Z_j)]                 of the triples
        - sparsity ||concentration||_(1/2)                                           of both
        - B / 16 [guide_penalty sum ||W_h||_F + model_penalty sum ||W_g||_F]

    with K draws ``Z_j ~ q(Z | y)`` and ``w = softmax_j log q(M | Z_j)``; ``log p(M|Z)`` and ``log q(M|Z)`` cancel.
    The weights sum to one, and 1/K stands before the sum all the same, as in the published program. ``log q(a|M,y)`` is
    evaluated at ``(1 - smoothing) a + smoothing / P``: at the one-hot itself it is infinite.
    ``||x||_(1/2) = (sum sqrt|x|)^2``; the last line has unsquared norms of weights and biases of the nonlinear
    networks, stated for the paper's batch of 16. All of it is scaled as the sites of the programs are, by the plate
    and by `poutine.scale`, so that the batch size and the units of the loss do not change what is optimised.

    Parameters
    ----------
    bundles : DataArray (wavelength, endmember) with the coordinate ``label``
        Spectra of each material, from `extract_bundles` or a spectral library; classes in the order of the model's
        materials.
    weight : float
        lambda of the paper.
    label_weight : float
        1 + beta.
    sparsity : float
        tau.
    guide_penalty, model_penalty : float
        lambda_e and lambda_d.
    num_draws : int
        K.
    noise_scale : float, optional
        Of the triples, reflectance; default 40 dB below the bundles, ``0.01`` of their root mean square.
    smoothing : float
        eta.

    Raises
    ------
    ValueError, TypeError
        If the bundles have no classes or are not finite, or a number is out of range; when the objective is evaluated,
        if the model is no `IDNet`, or the bundles have other bands or materials than it, or in another order.

    References
    ----------
    Borsoi, Erdogmus, Imbiriba, IEEE TCI 9, 2023.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> bundles = pu.start.extract_bundles(scene.cubes[:1], scene.reference_endmembers, num=5)
    >>> model = pu.IDNet(scene.reference_endmembers)
    >>> guide = pu.guides.TwoStreamGuide(model)
    >>> loss = pu.infer.SelfSupervisedELBO(bundles)
    >>> pu.fit(model, guide, scene.cubes[:1], loss=loss, num_steps=2, progress=False)
    <Unmixing by fit (time: 1, y: 10, x: 10, endmember: 3), 2 steps>
    """

    def __init__(
        self,
        bundles: xr.DataArray,
        *,
        weight: float = 1.0,
        label_weight: float = 11.0,
        sparsity: float = 0.0,
        guide_penalty: float = 0.01,
        model_penalty: float = 0.1,
        num_draws: int = 5,
        noise_scale: float | None = None,
        smoothing: float = 0.01,
    ) -> None:
        super().__init__()
        if not is_library(bundles):
            raise TypeError(
                "bundles must be a DataArray (wavelength, endmember) with the coordinate label, "
                f"as extract_bundles gives, got {type(bundles).__name__}"
            )
        labels = bundles["label"].to_numpy()
        #: Classes of the bundles, in their order.
        self.names = list(dict.fromkeys(labels.tolist()))
        values = finite_array(bundles.transpose("endmember", ...).to_numpy(), "bundles", ndim=2)
        spectra = torch.tensor(values).to(torch.get_default_dtype())
        #: Spectra of each material, (S_p, L).
        self.spectra = [spectra[torch.from_numpy(labels == name)] for name in self.names]
        self.weight = in_range(weight, "weight", 0.0)
        self.label_weight = in_range(label_weight, "label_weight", 0.0)
        self.sparsity = in_range(sparsity, "sparsity", 0.0)
        self.guide_penalty = in_range(guide_penalty, "guide_penalty", 0.0)
        self.model_penalty = in_range(model_penalty, "model_penalty", 0.0)
        self.num_draws = positive_int(num_draws, "num_draws")
        if self.label_weight * self.num_draws < self.weight:
            raise ValueError(
                f"label_weight must be at least weight / num_draws = {weight / num_draws:g}, or the "
                f"objective has no maximum (log q(a|M,y) counts negatively), got {label_weight:g}"
            )
        if noise_scale is None:
            noise_scale = 0.01 * float(spectra.square().mean().sqrt())
        self.noise_scale = in_range(noise_scale, "noise_scale", 0.0)
        self.smoothing = in_range(smoothing, "smoothing", 0.0, 1.0, open_low=True)

    def loss(self, model: ModelProgram, guide: GuideProgram, *args: Any, **kwargs: Any) -> float:
        """The negative objective."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(
        self, model: ModelProgram, guide: GuideProgram, *args: Any, **kwargs: Any
    ) -> float:
        """The negative objective, its gradient added to the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return float(loss.detach())

    def differentiable_loss(
        self, model: ModelProgram, guide: GuideProgram, pixels: Tensor, valid: Tensor, **kwargs: Any
    ) -> Tensor:
        """The negative objective as a tensor; arguments are those of model and guide."""
        self._check_model(_innermost(model))
        joint, drawn = self._get_trace(model, guide, (pixels, valid), kwargs)
        objective = joint.log_prob_sum() - drawn.log_prob_sum()
        scale = joint.nodes["y_1"]["scale"]
        sparsity = half_norm(drawn.nodes["a_1"]["fn"].concentration)[valid[:, 0]].sum()
        if self.weight or self.label_weight:
            supervised, of_triples = self._supervised(model, guide, len(pixels), kwargs)
            objective, sparsity = objective + scale * supervised, sparsity + of_triples
        norms = self._norms(model, guide)
        batches = len(pixels) / PUBLISHED_BATCH
        return scale * (self.sparsity * sparsity + batches * norms) - objective

    def triples(self, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pure pixels (B, L), their endmembers (B, P, L) and one-hot abundances (B, P).

        Materials and spectra are drawn with equal probability, from torch's global generator.
        """
        picked = [of[torch.randint(len(of), (num,), device=of.device)] for of in self.spectra]
        endmembers = torch.stack(picked, dim=1)
        p = len(self.spectra)
        materials = torch.randint(p, (num,), device=endmembers.device)
        pure = endmembers[torch.arange(num, device=endmembers.device), materials]
        abundances = torch.nn.functional.one_hot(materials, p).to(pure)
        return pure + self.noise_scale * torch.randn_like(pure), endmembers, abundances

    def _check_model(self, model: ModelProgram) -> None:
        """Raise unless the bundles are of the model's bands and materials."""
        if not isinstance(model, IDNet):
            raise TypeError(
                f"SelfSupervisedELBO is the objective of IDNet, got a {type(model).__name__}"
            )
        wanted = model.num_endmembers, model.num_bands
        got = len(self.spectra), self.spectra[0].shape[-1]
        if got != wanted:
            raise ValueError(
                f"the model has {wanted[0]} materials and {wanted[1]} bands, the bundles have {got[0]} "
                f"and {got[1]}: make them by extract_bundles(cube, endmembers) of the model's endmembers"
            )
        names, ours = model.endmember_names, [str(name) for name in self.names]
        if names is not None and names != ours and set(names) == set(ours):
            raise ValueError(
                f"the bundles must be in the order of the model's materials, {names}, got {ours}: "
                "sort them, or make both from the same endmembers"
            )

    def _supervised(
        self, model: ModelProgram, guide: GuideProgram, num: int, kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Supervised terms of `num` triples, without scale, and the half norms of their concentrations."""
        like = _innermost(model).reference.value
        self.spectra = [of.to(like) for of in self.spectra]
        y, endmembers, abundances = self.triples(num)
        smoothed = (1 - self.smoothing) * abundances + self.smoothing / len(self.spectra)
        known = {"M_1": endmembers.flatten(-2), "a_1": smoothed}
        inputs = y.unsqueeze(1), torch.ones(num, 1, dtype=torch.bool, device=y.device)
        drawn = self._densities(poutine.condition(guide, data=known), inputs, kwargs)
        known = {**known, "a_1": abundances, "z_1": drawn["z_1"]["value"]}
        joint = self._densities(poutine.condition(model, data=known), inputs, kwargs)
        of_z, of_m, of_a = (drawn[name]["unscaled_log_prob"] for name in ("z_1", "M_1", "a_1"))
        ratio = sum(joint[name]["unscaled_log_prob"] for name in ("y_1", "a_1", "z_1"))
        weights = torch.softmax(of_m, dim=0)
        bound = (weights * (ratio - of_a - of_z)).sum() * (self.weight / self.num_draws)
        labels = (of_a + of_m).mean(0).sum() * self.label_weight
        concentration = drawn["a_1"]["fn"].concentration
        return bound + labels, half_norm(concentration).mean(0).sum()

    def _densities(self, program: Any, inputs: Any, kwargs: dict[str, Any]) -> Any:
        """Sites of a program with a leading axis of draws, with their log densities (K, B)."""

        def run() -> None:
            with pyro.plate("draws", self.num_draws, dim=-2):
                program(*inputs, **{**kwargs, "index": None, "size": None, "features": {}})

        trace = poutine.trace(run).get_trace()
        trace.compute_log_prob()
        return trace.nodes

    def _norms(self, model: ModelProgram, guide: GuideProgram) -> Tensor | float:
        """Weighted Frobenius norms of the nonlinear networks."""
        total: Tensor | float = 0.0
        for weight, program in ((self.model_penalty, model), (self.guide_penalty, guide)):
            if weight:
                norms = [value.norm() for value in _innermost(program).penalised()]
                total = total + weight * sum(norms)
        return total


def _innermost(program: Any) -> Any:
    """The module inside Pyro's handlers, such as the scale of `fit`."""
    return unwrap(program)


def half_norm(values: Tensor) -> Tensor:
    """``(sum sqrt|x|)^2`` over the last axis."""
    return values.abs().sqrt().sum(-1).square()
