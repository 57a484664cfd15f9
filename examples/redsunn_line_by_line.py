"""The ReDSUNN paper in plain Pyro: model and guide side by side, with a sentence and its equation at every line.

    python examples/redsunn_line_by_line.py

Two programs, in the letters of the paper (Borsoi, Imbiriba, Closas, IEEE TIP 32, 2023). `model` says how images come
about: what it samples is unknown, but what it samples with ``obs=`` was measured. `guide` says where the unknowns
probably are, given the images: it samples the same sites, from Gaussians that physics and an LSTM place. Training moves
the parameters of both, theta and phi, to where the ELBO, eq. (40), is highest: a lower bound of the images'
log-probability, which is reached where the guide is the posterior. Nothing of pyro_unmix is in the two; it only
simulates and scores. A test shows that they are its `SGLMM` and its `BiLSTMGuide`.

Prints the error of the abundances before and after training, and paints them: red, green and blue are the shares of
three materials, grey is the guide that knows nothing yet, as under the first date's clouds. Takes half a minute.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyro
import scipy.linalg
import torch
from matplotlib.figure import Figure
from pyro import poutine
from pyro.distributions import Normal
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor, nn

import pyro_unmix as pu


class ReDSUNN(nn.Module):
    """The parameters of Table I, which start as in Sec. V-C, and the two programs that they belong to."""

    def __init__(self, M0: Tensor, K: int = 10, sigma_psi: float = 1e-5**0.5) -> None:
        super().__init__()
        L, P = M0.shape  # bands, materials
        H = (K + 1) * P  # numbers in the state of a pixel, (c, psi), and in what the LSTM remembers
        # theta, of the model: spectra M0, about which those of a pixel vary, eq. (7) ...
        self.M0 = nn.Parameter(M0)
        # ... along K smooth functions of the bands, the first of the discrete cosine transform, Sec. IV-A.
        k, band = torch.arange(K), torch.arange(L)[:, None]
        length = torch.where(k == 0, 1 / L, 2 / L).sqrt()
        self.register_buffer("D", length * torch.cos(math.pi * k * (2 * band + 1) / (2 * L)))
        # Means and log stds of the states before the first date, eqs. (20), (21).
        self.nu_c, self.log_gamma_c = zeros(P), zeros(P)
        self.nu_psi, self.log_gamma_psi = zeros(K, P), zeros(K, P)
        # Log std of a step of the abundances: a network that sees where they are, below eq. (18).
        self.log_sigma_a = nn.Sequential(nn.Linear(P, P), nn.ReLU(), nn.Linear(P, 1))
        # Std of a step of the spectra, which is given, eq. (11), and log std of the noise, eq. (22).
        self.sigma_psi, self.log_sigma_r = sigma_psi, nn.Parameter(torch.tensor(0.01).log())
        # phi, of the guide: means and log stds before the first date, eq. (35).
        self.zeta_c, self.log_xi_c = zeros(P), zeros(P)
        self.zeta_psi, self.log_xi_psi = zeros(K, P), zeros(K, P)
        # Two networks that remember: one reads the dates forwards, one backwards, eqs. (41), (42).
        self.lstm = nn.LSTM(L, H, batch_first=True, bidirectional=True)
        # What physics and what these networks give to the means, eqs. (44), (45) ...
        self.alpha_1, self.alpha_2, self.beta = (nn.Parameter(torch.ones(())) for _ in range(3))
        self.W_c, self.W_psi = zeros(P, H), zeros(K * P, H)
        # ... and the log stds, which the networks alone give, eqs. (46), (47).
        self.V_c, self.V_psi = zeros(P, H), zeros(K * P, H)
        # All weights but W start random, as Glorot's, and biases as zero.
        for net in (self.log_sigma_a, self.lstm, nn.ParameterList([self.V_c, self.V_psi])):
            for weight in net.parameters():
                (nn.init.xavier_uniform_ if weight.dim() == 2 else nn.init.zeros_)(weight)

    def endmembers(self, psi: Tensor) -> Tensor:
        return self.M0 * (1 + self.D @ psi)  # every pixel has spectra of its own, M, eq. (7)

    def model(self, y: Tensor, valid: Tensor, batch_size: int | None = None) -> None:
        """How N pixels of L bands come about at T dates: y (N, T, L), of which `valid` (N, T) were seen."""
        pyro.module("redsunn", self)  # these parameters are to be trained
        # Pixels are independent, eqs. (8), (10), (12), (19): a random batch may stand for all.
        with pyro.plate("pixels", len(y), subsample_size=batch_size) as n:
            # The abundances before the first date: any P numbers, as one vector (`to_event`), eq. (20).
            c = pyro.sample("c_0", Normal(self.nu_c, self.log_gamma_c.exp()).to_event(1))
            # How far the spectra are from M0 then: a matrix, of each function's share in each spectrum, eq. (21).
            psi = pyro.sample("psi_0", Normal(self.nu_psi, self.log_gamma_psi.exp()).to_event(2))
            # Given the states of one date, later ones depend on none before, eqs. (2), (3): "Markov".
            for t in pyro.markov(range(1, y.shape[1] + 1)):
                # Abundances take a random step, eq. (18), of a std from e^-5 to e^5, lest it overflow ...
                std = self.log_sigma_a(c).clamp(-5, 5).exp()
                c = pyro.sample(f"c_{t}", Normal(c, std).to_event(1))
                # ... and so do spectra, a small one, eq. (11).
                psi = pyro.sample(f"psi_{t}", Normal(psi, self.sigma_psi).to_event(2))
                # The softmax makes shares of c: positive, and one in sum, eq. (15).
                a = torch.softmax(c, dim=-1)
                # A pixel is the sum of the materials' spectra, each by its share, eq. (1) ...
                mean = (self.endmembers(psi) @ a[..., None])[..., 0]
                # ... and of noise, eq. (22). What a cloud hid does not count.
                noisy = Normal(mean, self.log_sigma_r.exp()).to_event(1).mask(valid[n, t - 1])
                pyro.sample(f"y_{t}", noisy, obs=y[n, t - 1])

    def guide(self, y: Tensor, valid: Tensor, batch_size: int | None = None) -> None:
        """Where the states c and psi probably are, given y, which is zero where it was not seen."""
        pyro.module("redsunn", self)
        # Pixels are independent given the parameters, which all of them share, eqs. (31), (32).
        with pyro.plate("pixels", len(y), subsample_size=batch_size) as n:
            y, seen = y[n], valid[n].unsqueeze(-1)
            # What the two networks, on average, make of the whole sequence at each of its dates, eq. (43).
            h = self.lstm(y)[0].unflatten(-1, (2, -1)).mean(-2)
            # Before the first date all pixels have one posterior, eq. (35).
            c = pyro.sample("c_0", Normal(self.zeta_c, self.log_xi_c.exp()).to_event(1))
            psi = pyro.sample("psi_0", Normal(self.zeta_psi, self.log_xi_psi.exp()).to_event(2))
            # Then states are Gaussian, given those of the date before and all images, eqs. (30), (33), (34).
            for t in pyro.markov(range(1, y.shape[1] + 1)):
                y_t, h_t, seen_t = y[:, t - 1], h[:, t - 1], seen[:, t - 1]
                # Abundances as they were, eq. (15), and as least squares with the last spectra has them, in eq. (44).
                a, v = torch.softmax(c, dim=-1), least_squares(self.endmembers(psi), y_t)
                # How far apart are these, from 0 to 1? Below eq. (44), where 1/2 is printed as 1/(2P).
                u = 0.5 * (to_simplex(v) - a).abs().sum(-1, keepdim=True) * seen_t
                # If close, abundances stay; if not, they are now v and what the network adds, eq. (44) ...
                mean = self.alpha_1 * (1 - u) * a + self.alpha_2 * u * (v + h_t @ self.W_c.T)
                # ... and as certain as the network says, eq. (46).
                std = (h_t @ self.V_c.T).exp()
                c = pyro.sample(f"c_{t}", Normal(softmax_inverse(mean), std).to_event(1))
                # Spectra stay, up to what the network adds, eq. (45) ...
                mean = self.beta * psi + (h_t @ self.W_psi.T).view_as(psi)
                # ... and are as certain as it says, eq. (47).
                std = (h_t @ self.V_psi.T).view_as(psi).exp()
                psi = pyro.sample(f"psi_{t}", Normal(mean, std).to_event(2))


def zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


def least_squares(M: Tensor, y: Tensor) -> Tensor:
    """``M^+ y`` of eq. (44), by normal equations, with a small ridge for spectra that are too much alike."""
    gram, unit = M.mT @ M, torch.eye(M.shape[-1]).to(M)
    ridge = 1e-6 * gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * unit
    return torch.linalg.solve(gram + ridge, M.mT @ y[..., None])[..., 0]


def to_simplex(v: Tensor) -> Tensor:
    """``s(v)`` below eq. (44): nothing negative, and one in sum."""
    positive = v.clamp(min=0) + 1e-12
    return positive / positive.sum(-1, keepdim=True)


def softmax_inverse(a: Tensor) -> Tensor:
    """``pi^-1(a)`` of eq. (14), also where a is not quite on the simplex."""
    log = (a.clamp(min=0) + 1e-8).log()
    return log - log.mean(-1, keepdim=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/redsunn"), help="for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny scene and few steps")
    arguments = parser.parse_args(argv)
    size, num_steps = (12, 5) if arguments.quick else (30, 500)
    torch.manual_seed(arguments.seed)

    # Data: like the paper's first scene, with fewer bands, and a tenth of it under clouds.
    library = pu.simulate.library(np.linspace(450, 2400, 40))
    scene = pu.simulate.scaled_scene(
        num_dates=5, height=size, width=size, library=library, cloud_fraction=0.1, seed=arguments.seed
    )  # fmt: skip
    y = torch.from_numpy(scene.cubes.values).flatten(1, 2).swapaxes(0, 1)  # (N, T, L)
    valid = y.isfinite().all(-1)
    y = torch.where(valid[..., None], y, 0.0)
    # A start for M0: three spectra, each the longest beside those before. The paper takes VCA, alike but random.
    _, order = scipy.linalg.qr(y[valid].T, mode="r", pivoting=True)
    redsunn = ReDSUNN(y[valid][order[:3].tolist()].T.contiguous(), K=4)

    def abundances() -> np.ndarray:
        """Mean of the guide's draws (Algorithm 1 feeds on means instead), materials in the order of the truth."""
        draws = Predictive(redsunn.guide, num_samples=20)(y, valid)
        means = torch.stack([draws[f"c_{t + 1}"].softmax(-1).mean(0) for t in range(y.shape[1])])
        maps = means.unflatten(1, (size, size)).numpy()
        return min((maps[..., list(p)] for p in itertools.permutations(range(3))), key=error)

    def error(maps: np.ndarray) -> float:
        return pu.metrics.nrmse_abundances(maps, scene.abundances)

    # The ELBO is taken per observed value: ClippedAdam cuts each number of a gradient to -10 .. 10.
    per_value = poutine.scale(scale=1 / (valid.sum().item() * y.shape[-1]))
    programs = per_value(redsunn.model), per_value(redsunn.guide)
    svi = SVI(*programs, optim=ClippedAdam({"lr": 2e-3}), loss=Trace_ELBO())
    with pyro.get_param_store().scope():  # Pyro keeps all parameters in one place: leave none there
        before = abundances()
        losses = [svi.step(y, valid, batch_size=128) for _ in range(num_steps)]
        after = abundances()
    print(f"ELBO per value, first step and last: {-losses[0]:.2f}, {-losses[-1]:.2f}")
    print(f"NRMSE of abundances, before and after: {error(before):.3f}, {error(after):.3f}")

    figure = Figure(figsize=(1.6 * y.shape[1], 5), layout="constrained")
    rows = {"truth": scene.abundances.values, "before": before, "after": after}.items()
    for axes, (name, maps) in zip(figure.subplots(3, y.shape[1]), rows, strict=True):
        axes[0].set_ylabel(name)
        for ax, shares in zip(axes, maps, strict=True):
            ax.imshow(shares.clip(0, 1))
            ax.set(xticks=[], yticks=[])
    arguments.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out / "abundances.png", dpi=110)


if __name__ == "__main__":
    main()
