"""Every walk, start and chain, their parameters away from where they start, and densities written out."""

from __future__ import annotations

import math

import numpy as np
import reference
import torch
from scipy import special, stats

from pyro_unmix.priors import (
    AutoRegressive,
    ConstantWalk,
    DirichletStart,
    DirichletWalk,
    Independent,
    JumpWalk,
    OrnsteinUhlenbeck,
    RandomWalk,
    SoftmaxWalk,
    SparseStart,
    StudentWalk,
)

FLOAT32 = 1e-6  # starting values are rounded before a part is made double
ELAPSED = [1.0, 0.25, 3.0]
WALKS = {
    "softmax": SoftmaxWalk,
    "jump": JumpWalk,
    "constant": ConstantWalk,
    "student": StudentWalk,
    "ornstein": OrnsteinUhlenbeck,
    "dirichlet": DirichletWalk,
}
STARTS = {"gaussian": lambda: None, "dirichlet": DirichletStart, "sparse": SparseStart}
CHAINS = {
    "walk": lambda: RandomWalk(0.3, learn=True),
    "autoregressive": lambda: AutoRegressive(0.6, 0.5),
    "independent": lambda: Independent(0.5),
}


def tensor(values) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def set_up(part, num_endmembers: int, *, elapsed=None, **sizes: int):
    part.setup(num_endmembers=num_endmembers, **sizes, generator=torch.Generator().manual_seed(0))
    if elapsed is not None:
        part.set_elapsed(tensor(elapsed))
    part.double()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return part


def values_of(part) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in part.named_parameters()}


def step_density(walk: str, value: dict[str, np.ndarray], before, after, passed: float):
    """``log p(c_t | c_{t-1})`` over `passed` units, by numpy and scipy."""
    wide = math.sqrt(passed)
    if walk == "softmax":
        layers = [(value[f"weight_{i}"], value[f"bias_{i}"]) for i in range(2)]
        return reference.log_normal(after, before, wide * reference.scale_network(before, layers))
    if walk == "jump":
        rho = 1 - (1 - special.expit(value["jump_logit"])) ** passed
        scales = wide * np.exp(value["log_scale"]), np.exp(value["log_jump_scale"])
        return reference.log_jump(after, before, *scales, rho)
    if walk == "constant":
        return reference.log_normal(after, before, wide * np.exp(value["log_scale"]))
    if walk == "student":
        shape = passed * np.exp(2 * value["log_scale"]) * np.eye(3)
        student = stats.multivariate_t(np.zeros(3), shape, df=np.exp(value["log_dof"]))
        return student.logpdf(after - before)
    if walk == "ornstein":
        phi = special.expit(value["logit"]) ** passed
        scale = np.exp(value["log_scale"]) * math.sqrt(1 - phi**2)
        return reference.log_normal(after, value["loc"] + phi * (before - value["loc"]), scale)
    kappa, floor = np.exp(value["log_concentration"]), np.exp(value["log_floor"])
    alpha = kappa / passed * reference.softmax(before) + floor
    # softmax(c) is Dirichlet, sum(c) / sqrt(P) standard normal; sqrt(P) prod a is the determinant.
    a = reference.softmax(after)
    density = [stats.dirichlet(x).logpdf(y) for x, y in zip(alpha, a, strict=True)]
    constant = stats.norm.logpdf(after.sum(-1) / math.sqrt(3)) + 0.5 * math.log(3)
    return np.array(density) + constant + np.log(a).sum(-1)
