"""Are posteriors as wide as their errors? Ranks, coverage, widths and interval scores.

    OMP_NUM_THREADS=1 python benchmarks/calibration.py --data DIR --out DIR

Simulation-based calibration where the exact posterior is known (abundances given, variability linear and Gaussian); a
scene drawn from the model, with the parameters known, and NUTS on a few pixels of another; `unmix` at its defaults on
scenes that the model does not describe exactly: one whose variability is smooth in space, ds1 and ds2. Every scene is
read out from the guide (`PosteriorMean`) and after Markov-chain sweeps over abundances alone (`PolishedMean` with
``exact=False`` and `misfit_factor`), which is what `unmix` does with sequences. Intervals are those of
`Unmixing.interval`. Prints Markdown and draws the rank histogram and the coverage.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _data import corner, data_folder, load
from _referee import compared, referee
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import gaussian_filter

from pyro_unmix import (
    SGLMM,
    ConjugateGuide,
    FixedEndmembers,
    Unmixing,
    fit,
    match_endmembers,
    unmix,
)
from pyro_unmix.bases import DCT, Basis
from pyro_unmix.guides.conjugate.variability import ExactVariability, GaussianChain
from pyro_unmix.posterior import PolishedMean, PosteriorMean
from pyro_unmix.posterior.dates import has_field
from pyro_unmix.posterior.intervals import credible_interval
from pyro_unmix.posterior.programs import as_tensors
from pyro_unmix.priors import AutoRegressive, Independent, JumpWalk, KnownAbundances, WhiteNoise
from pyro_unmix.start import misfit_factor

Array = NDArray[Any]
NUM_DRAWS = 99  # of a rank, so that there are a hundred
NUM_BINS = 20
NUM_SAMPLES = 200  # behind a quantile


def ranks(num_simulations: int, seed: int = 0) -> tuple[Array, float, float]:
    """Ranks (simulations, coefficients) of the true psi among posterior draws; errors of the guide's mean and std.

    Every pixel is a simulation: psi from its prior, abundances from a Dirichlet, spectra from the model. The errors are
    the largest ones against a dense Gaussian posterior, relative to the posterior std.
    """
    rng = np.random.default_rng(seed)
    bands, materials, rank, dates, noise, phi, scale = 8, 3, 2, 4, 0.05, 0.7, 0.3
    known = rng.dirichlet(np.ones(materials), size=(num_simulations, dates))
    model = SGLMM(
        FixedEndmembers(rng.uniform(0.1, 0.6, size=(bands, materials))),
        basis=DCT(rank),
        abundance_prior=KnownAbundances(known),
        variability_prior=AutoRegressive(phi, scale, learn=False),
        noise=WhiteNoise(noise, learn=False),
    ).double()
    drawn = model.sample_sequence(num_simulations, dates, seed=seed)
    size = rank * materials
    truth = drawn["variability"].flatten(-2)  # (N, T, K P)
    prior = model.variability_prior
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        design = model.design()
        posterior = ExactVariability(
            gram=design.mT @ design, projected=drawn["pixels"] @ design,
            noise_scale=model.noise.scale, chain=GaussianChain.of(prior, dates),
            valid=torch.ones(num_simulations, dates, dtype=torch.bool),
            abundances=torch.from_numpy(known),
        )  # fmt: skip
        below = torch.zeros(num_simulations, dates, size)
        squares, sums = torch.zeros_like(truth), torch.zeros_like(truth)
        for _ in range(NUM_DRAWS):
            psi, path = posterior.conditional(0, None).sample(), []
            for t in range(1, dates + 1):
                psi = posterior.conditional(t, psi).sample()
                path.append(psi)
            draws = torch.stack(path, dim=1)
            below += draws < truth
            sums, squares = sums + draws, squares + draws.square()
        means = posterior.means()[:, 1:]
    apart = np.abs(np.arange(dates)[:, None] - np.arange(dates))
    inverse = np.linalg.inv(np.kron(phi**apart, scale**2 * np.eye(size)))
    components = model.components().detach().numpy()
    mean_error, ratios = 0.0, []
    for n in range(num_simulations):
        mix = np.zeros((dates * bands, dates * size))
        for t in range(dates):
            block = (components * known[n, t]).reshape(bands, -1)
            mix[t * bands : (t + 1) * bands, t * size : (t + 1) * size] = block
        covariance = np.linalg.inv(inverse + mix.T @ mix / noise**2)
        rest = drawn["pixels"][n].numpy() - known[n] @ model.reference.value.numpy().T
        exact = (covariance @ mix.T @ rest.ravel() / noise**2).reshape(dates, size)
        std = np.sqrt(np.diag(covariance)).reshape(dates, size)
        mean_error = max(mean_error, float(np.abs((means[n].numpy() - exact) / std).max()))
        seen = (squares[n] / NUM_DRAWS - (sums[n] / NUM_DRAWS).square()).numpy()
        ratios.append(seen / std**2)
    # the mean ratio of variances: a draw's variance is exact up to 1 / S
    std_error = abs(float(np.sqrt(np.mean(ratios) * NUM_DRAWS / (NUM_DRAWS - 1))) - 1)
    return below.numpy().reshape(num_simulations, -1), mean_error, std_error


def rank_test(found: Array) -> float:
    """Smallest chi-square p-value of uniform ranks over the coefficients, corrected for their number (Bonferroni)."""
    smallest = 1.0
    for column in found.T:
        counts = np.bincount((column * NUM_BINS // (NUM_DRAWS + 1)).astype(int), minlength=NUM_BINS)
        smallest = min(smallest, float(stats.chisquare(counts).pvalue))
    return min(1.0, smallest * found.shape[1])


def row(result: Drawn, truth: Array, order: Array) -> dict[str, Any]:
    """Coverage of 50 % and 90 % intervals over all pixels, width, and interval score (Gneiting, Raftery 2007)."""
    (low, high), (lower, upper) = (result.interval(level)[..., order] for level in (0.9, 0.5))
    inside = (truth >= low) & (truth <= high)
    error = np.sqrt(np.mean((result.abundances.to_numpy()[..., order] - truth) ** 2))
    penalty = 2 / 0.1 * ((low - truth).clip(min=0) + (truth - high).clip(min=0))
    return {
        "90 %": float(inside.mean()),
        "by material": inside.mean((0, 1, 2)),
        "50 %": float(((truth >= lower) & (truth <= upper)).mean()),
        "width / RMSE": float((high - low).mean() / error),
        "RMSE": float(error),
        "interval score": float((high - low + penalty).mean()),
    }


def drawn_scene(size: int, seed: int = 0) -> tuple[Unmixing, Array]:
    """The guide at the true parameters, without training, and the true abundances."""
    rng = np.random.default_rng(seed)
    model = SGLMM(
        FixedEndmembers(rng.uniform(0.1, 0.7, size=(60, 4))),
        basis=DCT(3),
        abundance_prior=JumpWalk(),
        variability_prior=Independent(0.15, learn=False),
        noise=WhiteNoise(0.01, learn=False),
    )
    drawn = model.sample_sequence(size * size, 6, seed=seed)

    def grid(values: torch.Tensor) -> Array:
        return values.numpy().transpose(1, 0, 2).reshape(6, size, size, -1)

    guide = ConjugateGuide(model, correction=False)
    result = fit(model, guide, grid(drawn["pixels"]), num_steps=0, progress=False)
    return result, grid(drawn["abundances"])


def smooth_scene(size: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Images (T, H, W, L), abundances (T, H, W, P) and M0 (L, P): variability and abundances smooth in space.

    Six dates, 60 bands, four materials, 30 dB. Spectra are smooth, each scaled by ``1 + 0.1 (psi_1 + psi_2 b)`` with b
    from -1 to 1 over the bands and psi a field of length size / 8, anew at every date.
    """
    rng = np.random.default_rng(seed)
    dates, bands, materials = 6, 60, 4
    spectra = np.cumsum(rng.normal(size=(bands, materials)), axis=0)
    spectra = gaussian_filter(spectra, (4, 0))
    spectra = 0.1 + 0.6 * (spectra - spectra.min(0)) / np.ptp(spectra, axis=0)

    def field(*shape: int) -> Array:
        values = rng.normal(size=(*shape, size, size))
        values = gaussian_filter(values, [0] * len(shape) + [size / 8] * 2, mode="wrap")
        return np.asarray(values / values.std((-2, -1), keepdims=True))

    states = 4 * field(1, materials) + 0.5 * field(dates, materials)
    abundances = np.exp(states) / np.exp(states).sum(1, keepdims=True)
    slope = np.linspace(-1, 1, bands)[:, None, None, None]
    psi = field(2, dates, materials)  # (2, T, P, H, W)
    images = np.zeros((dates, size, size, bands))
    for t in range(dates):
        scaling = 1 + 0.1 * (psi[0, t] + psi[1, t] * slope)  # (L, P, H, W)
        images[t] = np.einsum("lp,lphw,phw->hwl", spectra, scaling, abundances[t])
    noise = 10**-1.5 * np.sqrt(np.mean(images**2))
    images += noise * rng.normal(size=images.shape)
    return images, abundances.transpose(0, 2, 3, 1), spectra


class Drawn:
    """A result by one set of its draws."""

    def __init__(self, result: Unmixing) -> None:
        self.abundances = result.abundances
        self.draws = torch.from_numpy(result.sample(NUM_SAMPLES).to_numpy())

    def interval(self, level: float) -> Array:
        """Lower and upper bound, (2, T, H, W, P)."""
        return credible_interval(self.draws, level).numpy()


def polished(result: Unmixing, num_sweeps: int) -> tuple[Unmixing, float]:
    """The same fit, read out after sweeps, with the noise that the scene asks for; and that factor."""
    factor = misfit_factor(result.model, result.cubes)
    estimate = PolishedMean(num_sweeps=num_sweeps, noise_factor=factor, exact=False)
    return result.predict(result.cubes, estimate=estimate), factor


def thinned(result: Unmixing, truth: Array, step: int) -> tuple[Unmixing, Array]:
    """Every so manieth row and column, of result and truth."""
    kept = {"y": slice(None, None, step), "x": slice(None, None, step)}
    assert result.cubes is not None
    fewer = replace(result, cubes=result.cubes[kept], dataset=result.dataset[kept])
    return fewer, truth[:, ::step, ::step]


def judged(
    num_pixels: int, num_samples: int, num_draws: int, estimates: dict[str, PosteriorMean]
) -> dict[str, dict[str, float]]:
    """Read-outs beside NUTS, on pixels of a scene drawn from a small model: three materials, four dates."""
    rng = np.random.default_rng(1)
    model = SGLMM(
        FixedEndmembers(rng.uniform(0.1, 0.7, size=(20, 3))), basis=DCT(2),
        abundance_prior=JumpWalk(scale=0.5), variability_prior=Independent(0.15, learn=False),
        noise=WhiteNoise(0.02, learn=False),
    ).double()  # fmt: skip
    images = model.sample_sequence(num_pixels, 4, seed=1)["pixels"].numpy().transpose(1, 0, 2)
    guide = ConjugateGuide(model, correction=False).double()
    result = fit(model, guide, images[:, None], num_steps=0, progress=False)
    assert result.cubes is not None
    pixels, _ = as_tensors(result.cubes, result.model)
    found = referee(result.model, pixels, num_samples, max(num_samples // 4, 20))
    rows = {}
    for name, estimate in estimates.items():
        one = replace(result, estimate=estimate)
        draws = one.sample(num_draws).to_numpy()[:, :, 0].transpose(0, 2, 1, 3)
        rows[name] = compared(draws, found)
    return rows


def unmixed(
    images: Any, truth: Array, spectra: Array, quick: bool, basis: Basis | None = None
) -> tuple[Unmixing, Array]:
    """`unmix` at its defaults but for the basis, and which of its materials is which."""
    num_steps = 2 if quick else None
    result = unmix(images, truth.shape[-1], basis=basis, progress=False, num_steps=num_steps)
    return result, match_endmembers(result.reference_endmembers.to_numpy(), spectra)


def cases_of(data: str | None, quick: bool) -> dict[str, tuple[Unmixing, Array, Array]]:
    """Results, true abundances and orders of the materials."""
    result, truth = drawn_scene(6 if quick else 40)
    cases = {"drawn from the model": (result, truth, np.arange(4))}
    images, truth, spectra = smooth_scene(16 if quick else 40)
    alone = DCT(6, scale=0.1 * images.shape[-1] ** 0.5)
    result, order = unmixed(images, truth, spectra, quick, alone)
    cases["smooth in space, pixels alone"] = result, truth, order
    result, order = unmixed(images, truth, spectra, quick)
    cases["smooth in space"] = result, truth, order
    for name in ("ds1", "ds2"):
        scene = load(name, data_folder(data)).scene
        if quick:
            scene = corner(scene, 2, 8, 8)
        truth = scene.abundances.to_numpy()
        result, order = unmixed(scene.cubes, truth, scene.reference_endmembers.to_numpy(), quick)
        cases[name] = result, truth, order
    return cases


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the tables, write the pictures and return the rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="DIR", help="folder of ds1.npz and ds2.npz")
    parser.add_argument("--out", type=Path, default=Path("out/calibration"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="smallest size")
    parser.add_argument("--sweeps", type=int, default=16, help="of the polished read-out")
    parser.add_argument("--every", type=int, default=2, help="take every so manieth row and column")
    parser.add_argument(
        "--judged", type=int, default=20, help="pixels for NUTS, 30 s each; 0: none"
    )
    options = parser.parse_args(arguments)
    found, mean_error, std_error = ranks(100 if options.quick else 500)
    p_value = rank_test(found)
    print(
        f"ranks: p = {p_value:.3f}; mean within {mean_error:.1e} and std within {std_error:.1%}\n"
    )
    rows: dict[str, Any] = {"ranks": {"p": p_value, "mean": mean_error, "std": std_error}}
    sweeps = [2] if options.quick else [16, 32, 64]
    sizes = (2, 10, 40) if options.quick else (options.judged, 700, 4000)
    estimates: dict[str, PosteriorMean] = {"guide": PosteriorMean()}
    for exact, kind in ((True, "exact"), (False, "abundances alone")):
        for n in sweeps:
            estimates[f"{n} sweeps, {kind}"] = PolishedMean(num_sweeps=n, exact=exact)
    rows["NUTS"] = judged(*sizes, estimates) if sizes[0] else {}
    for name, scores in rows["NUTS"].items():
        print(f"{name} beside NUTS:", ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
    print(
        "\n| scene | read-out | 90 % | by material | 50 % | width / RMSE | interval score | RMSE |"
    )
    print("|---|---|---:|---|---:|---:|---:|---:|")
    shown: dict[str, tuple[Drawn, Array, Array]] = {}
    for name, (whole, whole_truth, order) in cases_of(options.data, options.quick).items():
        result, truth = whole, whole_truth
        read_outs = {"guide": result}
        if not has_field(whole.model):  # a field is of the whole scene, and the sweeps know none
            result, truth = thinned(whole, whole_truth, 1 if options.quick else options.every)
            sharper, factor = polished(result, 2 if options.quick else options.sweeps)
            print(f"<!-- {name}: noise times {factor:.2f} -->")
            guides_own = result.predict(result.cubes, estimate=PosteriorMean())
            read_outs = {"guide": guides_own, "polished": sharper}
        for kind, one in read_outs.items():
            drawn = Drawn(one)
            rows[f"{name}, {kind}"] = scores = row(drawn, truth, order)
            shown[f"{name}, {kind}"] = drawn, truth, order
            parts = ", ".join(f"{share:.2f}" for share in scores["by material"])
            print(
                f"| {name} | {kind} | {scores['90 %']:.3f} | {parts} | {scores['50 %']:.3f} "
                f"| {scores['width / RMSE']:.2f} | {scores['interval score']:.4f} | {scores['RMSE']:.4f} |",
                flush=True,
            )
    options.out.mkdir(parents=True, exist_ok=True)
    draw(found, shown, options.out / "calibration.png")
    return rows


def draw(found: Array, cases: dict[str, tuple[Drawn, Array, Array]], path: Path) -> None:
    """Rank histogram, and coverage of intervals of all levels."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(found.ravel(), bins=NUM_BINS, range=(0, NUM_DRAWS + 1), color="0.6")
    left.axhline(found.size / NUM_BINS, color="k", linewidth=1)
    left.set(xlabel="rank of the true value among draws", ylabel="count", title="exact posterior")
    nominal = np.linspace(0.1, 0.98, 12)
    for name, (result, truth, order) in cases.items():
        covered = []
        for level in nominal:
            low, high = result.interval(level)[..., order]
            covered.append(((truth >= low) & (truth <= high)).mean())
        style = "o--" if name.endswith("guide") else "o-"
        right.plot(nominal, covered, style, markersize=3, label=name)
    right.plot([0, 1], [0, 1], color="k", linewidth=1)
    right.set(xlabel="nominal", ylabel="coverage", title="abundances, all pixels")
    right.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
