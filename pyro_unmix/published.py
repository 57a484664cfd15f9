"""Parts with which the program published with the ReDSUNN paper departs from the paper.

`pyro_unmix.presets.redsunn_published` puts them together; each can stand in an `SGLMM` of one's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_unmix._check import in_range, positive_int
from pyro_unmix._random import seeded
from pyro_unmix.cubes import from_pixels
from pyro_unmix.distributions import DiagonalNormal, IsotropicNormal
from pyro_unmix.guides.base import Guide
from pyro_unmix.mixing import (
    Basis,
    change_detector,
    design_matrix,
    linear_regression,
    to_abundances,
    to_softmax_basis,
)
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.posterior import as_tensors, chunks, prepare, quiet_pyro
from pyro_unmix.priors import GaussianStart, Transition
from pyro_unmix.priors.part import SMOOTH_VARIABILITY
from pyro_unmix.result import Unmixing


class RawDCT(Basis):
    """Cosines of one amplitude, not normalised: ``d_k(l) = amplitude cos(pi k (2l + 1) / (2L))``.

    Parameters
    ----------
    num_components : int
        K.
    amplitude : float
        The program multiplies columns of amplitude 2 by 0.01 psi.
    """

    def __init__(self, num_components: int = 10, *, amplitude: float = 0.02) -> None:
        super().__init__()
        self.num_components = positive_int(num_components, "num_components")
        self.amplitude = in_range(amplitude, "amplitude", low=0, open_low=True)

    def angles(self, band: Tensor, component: Tensor) -> Tensor:
        """``k (2l + 1)``, in units of ``pi / (2L)``."""
        return component * (2 * band + 1)

    def components(self, endmembers: Tensor) -> Tensor:
        num_bands = len(endmembers)
        band = torch.arange(num_bands, dtype=endmembers.dtype, device=endmembers.device)
        component = band.new_tensor(range(self.num_components))
        angles = self.angles(band[:, None], component)
        columns = self.amplitude * torch.cos(math.pi / (2 * num_bands) * angles)
        return columns[:, :, None] * endmembers[:, None, :]


class TransposedDCT(RawDCT):
    """The same matrix transposed: ``d_k(l) = amplitude cos(pi (2k + 1) l / (2L))``; no column is constant."""

    def angles(self, band: Tensor, component: Tensor) -> Tensor:
        return (2 * component + 1) * band


class VarianceWalk(GaussianStart):
    """``c_t ~ N(c_{t-1}, Delta start_variance exp(net(c_{t-1})) I)`` with net = P - P - 1, ReLU between.

    Eq. (18) with the network's output in a log variance and torch's default initial weights. Delta, the units of time
    before date t, is 1 where the model has no dates.

    Parameters
    ----------
    start_variance : float
    """

    def __init__(self, start_variance: float = 0.1) -> None:
        super().__init__()
        self.start_variance = in_range(start_variance, "start_variance", low=0, open_low=True)

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        super().setup(*sizes, generator=generator)
        (num_endmembers,) = sizes
        with seeded(int(torch.randint(2**31, (), generator=generator))):
            self.net = nn.Sequential(
                nn.Linear(num_endmembers, num_endmembers), nn.ReLU(), nn.Linear(num_endmembers, 1)
            )

    def _log_scale(self, c: Tensor, net: nn.Module) -> Tensor:
        return 0.5 * (math.log(self.start_variance) + net(c).squeeze(-1))

    def transitions(self, index: Tensor | None = None) -> Transition:
        net = self.net  # an access is a message of Pyro for every parameter

        def transition(previous: Tensor, step: int) -> TorchDistribution:
            elapsed = self.elapsed_at(step)
            log_scale = self._log_scale(previous, net)
            return IsotropicNormal(
                previous, log_scale if elapsed is None else log_scale + 0.5 * elapsed.log()
            )

        return transition

    def step_scale(self, previous: Tensor, mean_square: Tensor) -> Tensor:
        scale = self._log_scale(previous, self.net).exp().expand(mean_square.shape)
        return scale if self.elapsed is None else scale * self.elapsed.sqrt()


class FirstDateSGLMM(SGLMM):
    """`SGLMM` whose initial distributions are those of the first date: no state before the images.

    ``c_1 ~ N(nu_c, diag(gamma_c)^2)``, ``psi_1 ~ N(nu_psi, diag(gamma_psi)^2)``, the rest as in `SGLMM`. Sites:
    ``c_1 .. c_T``, ``psi_1 .. psi_T``, ``y_1 .. y_T``. Parameters: those of `SGLMM`, whose `dates`, mixing, noises by
    date and prior of M0 it serves as well.
    """

    def forward(  # type: ignore[override]  # no guide integrates its psi out
        self,
        pixels: Tensor | None,
        valid: Tensor,
        *,
        index: Tensor | None = None,
        size: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> None:
        """The generative program; arguments as `SGLMM.forward`."""
        if SMOOTH_VARIABILITY in self.needs:
            raise ValueError("FirstDateSGLMM has no variability that pixels share: use SGLMM")
        batch, num_dates = valid.shape
        design = self.design()
        self._check_dates(num_dates)
        step_variability = self.variability_prior.transitions(num_dates)
        noise = self.noise.by_date(num_dates)
        step_abundance = self.abundance_prior.transitions(index)
        observed = [None] * num_dates if pixels is None else pixels.unbind(1)
        masks: Any = valid.unbind(1)
        next_c, next_psi = self.abundance_prior.initial(index), self.variability_prior.initial()
        with pyro.plate("pixels", size or batch, subsample=_subsample(index, batch), dim=-1):
            self._factor_endmembers(valid)
            for t in pyro.markov(range(1, num_dates + 1)):
                c = pyro.sample(f"c_{t}", next_c)
                psi = pyro.sample(f"psi_{t}", next_psi)
                mean = self._mean(to_abundances(c), psi, design)
                with poutine.mask(mask=masks[t - 1]):
                    pyro.sample(f"y_{t}", noise[t - 1](mean), obs=observed[t - 1])
                if t < num_dates:
                    next_c, next_psi = step_abundance(c, t + 1), step_variability(psi, t + 1)

    def decode_variability(self, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Abundances (..., T, P) and variability (..., T, K, P) of site values ``c_t``, ``psi_t``."""
        return super().decode_variability(
            {"c_0": latents["c_1"], "psi_0": latents["psi_1"], **latents}
        )


def _subsample(index: Tensor | None, batch: int) -> Tensor | None:
    if index is not None and len(index) != batch:
        raise ValueError(f"index must have one entry per pixel ({batch}), got {len(index)}")
    return index


class GatedHead(nn.Module):
    """``gate (W_2 (W_1 h + b_1) + b_2)``: zero at the start by its gate alone.

    Parameters
    ----------
    num_inputs, num_outputs : int
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(num_inputs, num_inputs), nn.Linear(num_inputs, num_outputs)
        )
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.gate * self.net(hidden)


class PublishedGuide(Guide):
    """The published program's posterior: `BiLSTMGuide` with other heads, basis and start.

    With h_t the mean of the two LSTM directions, ``v_t = M_{t-1}^+ y_t`` (M in the guide's own `basis`) and
    ``u_t = 1/2 ||s(v_t) - a_{t-1}||_1``::

        c_t | past, y   ~ N(pi^-1(alpha_1 (1 - u_t) a_{t-1} + alpha_2 u_t (v_t + W_c(h_t))), exp(0.1 V_c(h_t)))
        psi_t | past, y ~ N(beta psi_{t-1} + W_psi(h_t), exp(0.1 V_psi(h_t)))

    W: `GatedHead`; V: linear with bias, a tenth of the log *variance*. The state before the first date is a trained
    point, from zero. torch's default initial weights throughout.

    Parameters
    ----------
    model : FirstDateSGLMM
    basis : Basis, optional
        Of the guide's regression; default the model's.
    change_detector : callable
        ``(v_t, a_{t-1}) -> u_t``.
    seed : int
        Of the initial weights.
    """

    def __init__(
        self,
        model: Any,
        *,
        basis: Basis | None = None,
        change_detector: Callable[[Tensor, Tensor], Tensor] = change_detector,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        self.basis = basis
        self.change_detector = change_detector
        p, kp = model.num_endmembers, model.num_components * model.num_endmembers
        hidden = p + kp
        with seeded(seed):
            self.encoder = nn.LSTM(model.num_bands, hidden, batch_first=True, bidirectional=True)
            self.shift_c, self.shift_psi = GatedHead(hidden, p), GatedHead(hidden, kp)
            self.spread_c, self.spread_psi = nn.Linear(hidden, p), nn.Linear(hidden, kp)
        self.alpha = nn.Parameter(torch.ones(2))
        self.beta = nn.Parameter(torch.ones(()))
        self.initial = nn.Parameter(torch.zeros(hidden))

    def design(self) -> Tensor:
        """``[M0, F_1, ..., F_K]`` as the guide's regression has it, shape (L, (K+1) P)."""
        if self.basis is None:
            return self.model.design()
        reference = self.model.reference.value
        return design_matrix(reference, self.basis.components(reference))

    def forward(
        self,
        pixels: Tensor,
        valid: Tensor,
        *,
        index: Tensor | None = None,
        size: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> None:
        """The variational program; arguments as `SGLMM.forward`."""
        batch, num_dates, _ = pixels.shape
        pixels = torch.where(valid.unsqueeze(-1), pixels, 0.0)
        p = self.model.num_endmembers
        design = self.design()
        gram, projected = design.mT @ design, (pixels @ design).unbind(1)
        hidden = torch.stack(self.encoder(pixels)[0].chunk(2, dim=-1)).mean(0)
        shift_c, shift_psi = self.shift_c(hidden).unbind(1), self.shift_psi(hidden).unbind(1)
        scale_c = (0.05 * self.spread_c(hidden)).exp().unbind(1)
        scale_psi = (0.05 * self.spread_psi(hidden)).exp().unbind(1)
        observed = valid.to(pixels.dtype).unbind(1)
        (alpha_keep, alpha_new), beta = self.alpha.unbind(), self.beta
        c, psi = self.initial.expand(batch, -1).split([p, len(self.initial) - p], dim=-1)
        with pyro.plate("pixels", size or batch, subsample=index, dim=-1):
            for t in pyro.markov(range(num_dates)):
                previous = to_abundances(c)
                regression = linear_regression(gram, projected[t], psi)
                u = self.change_detector(regression, previous) * observed[t]
                kept = alpha_keep * (1 - u).unsqueeze(-1) * previous
                new = alpha_new * u.unsqueeze(-1) * (regression + shift_c[t])
                mean = to_softmax_basis(kept + new)
                c = pyro.sample(f"c_{t + 1}", DiagonalNormal(mean, scale_c[t]))
                mean = torch.addcmul(shift_psi[t], beta, psi)
                psi = pyro.sample(f"psi_{t + 1}", DiagonalNormal(mean, scale_psi[t]))


def along_trajectories(result: Unmixing, num_trajectories: int = 1, *, seed: int = 0) -> Unmixing:
    """The published program's estimates: ``pi(mu_c)`` and ``mu_psi`` along sampled trajectories.

    At every date the means of the guide's distributions given a *draw* of the date before; each pixel has its own
    draws. The published program takes one trajectory; the mean over several is better by about a sixth.

    Parameters
    ----------
    result : Unmixing
        Of `fit`, with its model and guide.
    num_trajectories : int
    seed : int
        Of the draws.

    Returns
    -------
    Unmixing
        `result` with other ``abundances`` and ``variability``; everything else is that of the posterior.

    Raises
    ------
    ValueError
        If the result has no guide.
    """
    positive_int(num_trajectories, "num_trajectories")
    model, guide, cubes = result.model, result.guide, result.cubes
    if guide is None or cubes is None:
        raise ValueError(
            f"expected a result with model, guide and cubes, got that of {result.method!r}: pass "
            "what fit returned"
        )
    pixels, valid = as_tensors(cubes, model)
    num_pixels, num_dates, num_bands = pixels.shape
    parts = []
    with quiet_pyro(result.store), torch.no_grad(), seeded(seed, pixels.device):
        for part in chunks(num_pixels, num_dates * num_bands):
            y, v = pixels[part], valid[part]
            index = torch.arange(part.start, part.stop, device=y.device)
            inputs = {"index": index, "size": num_pixels, "features": prepare(guide, y, v, index)}
            draws = [_means(model, guide, y, v, inputs) for _ in range(num_trajectories)]
            parts.append([torch.stack(values).mean(0) for values in zip(*draws, strict=True)])
    dataset = result.dataset.copy()
    for name, values in zip(("abundances", "variability"), zip(*parts, strict=True), strict=True):
        old = dataset[name]
        extra = {
            str(dim): old[dim].values if dim in old.coords else None
            for dim in old.dims
            if dim not in ("time", "y", "x")
        }
        new = from_pixels(torch.cat(values).cpu().numpy(), cubes, extra, name=name)
        dataset[name] = new.transpose(*old.dims).assign_attrs(old.attrs)
    return replace(result, dataset=dataset)


def _means(
    model: Any, guide: Any, pixels: Tensor, valid: Tensor, inputs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """One run of the guide: the means of its sites, decoded."""
    nodes = poutine.trace(guide).get_trace(pixels, valid, **inputs).nodes
    sites = {name: site for name, site in nodes.items() if site["type"] == "sample"}
    return model.decode_variability(
        {name: site["fn"].mean for name, site in sites.items() if name != "pixels"}
    )
