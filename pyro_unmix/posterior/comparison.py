"""Choosing between fits of the same images: held-out predictive density and evidence."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from pyro_unmix.data.cubes import to_pixels
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.dates import has_field
from pyro_unmix.posterior.evidence import LARGEST_PARETO_K, bounds
from pyro_unmix.posterior.result import Unmixing


@one_thread()
def compare(
    results: Mapping[str, Unmixing],
    *,
    num_folds: int = 5,
    num_samples: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Rank fits of the same images by how well they predict spectra that they do not see.

    The observed pixel-dates are split at random into folds. What a fit says about a fold is
    ``log p(y_fold | y_rest) = log p(y) - log p(y_rest)``, both by importance weighting the guide's draws, with the
    trained parameters as they are: there are few of them for all pixels, and what is compared are beliefs about
    the states of a pixel. With one date it is the evidence.

    Parameters
    ----------
    results : mapping of name to Unmixing
        Each with a posterior and with its images, which must be the same: fits that differ in priors, bases, their
        ranks, numbers of materials, or guides.
    num_folds : int
    num_samples : int
        Draws behind every evidence.
    seed : int
        Of folds and draws.
    progress : bool
        Show a bar over fits and folds.

    Returns
    -------
    Dataset (fit), the best first
        ``held_out``: log predictive density, nats per held-out value. ``held_out_se``: standard error over pixels of
        its difference to the best fit. ``importance_elbo`` and ``elbo``: nats per observed value. ``unreliable``: share
        of pixels with a Pareto k above 0.7, of all their dates or of those outside a fold, so that these numbers
        cannot be trusted there. ``.to_dataframe()`` shows it as a table.

    Raises
    ------
    TypeError, ValueError
        If there are not two results with a posterior, they are of different images, or pixels of a fit are not
        independent given its parameters.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> def fitted(basis):
    ...     model = pu.SGLMM(scene.reference_endmembers, basis=basis)
    ...     guide = pu.ConjugateGuide(model, correction=False)
    ...     return pu.fit(model, guide, scene.cubes, num_steps=20, progress=False)
    >>> fits = {'brightness': fitted(pu.Brightness()), 'hardly any': fitted(pu.Brightness(.001))}
    >>> table = pu.compare(fits, num_samples=16, progress=False)
    >>> sorted(table['fit'].values.tolist()), sorted(table.data_vars)[:2]
    (['brightness', 'hardly any'], ['elbo', 'held_out'])
    """
    cubes = _same_cubes(results)
    for name, result in results.items():
        if has_field(result.model):
            raise ValueError(
                f"the pixels of fit {name!r} share a smooth field, which has seen what would be held out: compare "
                "fits whose pixels stand alone"
            )
    num_folds = positive_int(num_folds, "num_folds", minimum=2)
    num_samples = positive_int(num_samples, "num_samples", minimum=2)
    seed = positive_int(seed, "seed", minimum=0)
    pixels, valid = to_pixels(cubes)
    fold = np.random.default_rng(seed).integers(num_folds, size=valid.shape)
    held_out: dict[str, np.ndarray] = {}
    columns: dict[str, list[float]] = {"importance_elbo": [], "elbo": [], "unreliable": []}
    num_values = valid.sum() * pixels.shape[-1]
    seen = valid.any(1)
    rest = [_without(cubes, fold == number) for number in range(num_folds)]
    rounds = len(results) * (1 + num_folds)
    with progress_bar(total=rounds, shown=progress, desc="compare", unit="fold") as bar:
        for name, result in results.items():
            bar.set_postfix_str(name, refresh=False)
            elbo, evidence, worst = bounds(result, cubes, num_samples, seed)
            bar.update()
            columns["importance_elbo"].append(evidence.sum() / num_values)
            columns["elbo"].append(elbo.sum() / num_values)
            held_out[name] = np.zeros(len(pixels))
            for kept in rest:
                held_out[name] += evidence
                if kept is not None:
                    _, without, k = bounds(result, kept, num_samples, seed)
                    held_out[name] -= without
                    worst = np.maximum(worst, k)
                bar.update()
            columns["unreliable"].append(float(np.mean(worst[seen] > LARGEST_PARETO_K)))
    totals = np.array([values.sum() for values in held_out.values()]) / num_values
    best = list(held_out)[int(totals.argmax())]
    columns["held_out"] = totals.tolist()
    columns["held_out_se"] = [
        float(np.std((values - held_out[best])[seen]) * np.sqrt(seen.sum()) / num_values)
        for values in held_out.values()
    ]
    order = ("held_out", "held_out_se", "importance_elbo", "elbo", "unreliable")
    table = xr.Dataset(
        {name: ("fit", np.asarray(columns[name])) for name in order}, coords={"fit": list(results)}
    )
    return table.isel(fit=np.argsort(-totals, kind="stable"))


def _same_cubes(results: Mapping[str, Unmixing]) -> xr.DataArray:
    if not isinstance(results, Mapping):
        raise TypeError(
            f"results must map names to results, such as {{'rank 2': fit(...)}}, got {type(results).__name__}"
        )
    if len(results) < 2:
        raise ValueError(f"compare needs at least two results, got {len(results)}")
    first, cubes = "", None
    for name, result in results.items():
        if not isinstance(result, Unmixing):
            raise TypeError(
                f"results must hold what fit or unmix returned, got {result!r} as {name!r}"
            )
        own = result._need_posterior("compare")
        if cubes is None:
            first, cubes = name, own
        elif own.shape != cubes.shape or not np.array_equal(own, cubes, equal_nan=True):
            raise ValueError(
                f"{name!r} and {first!r} are fits of different images: compare fits of the same ones"
            )
    assert cubes is not None
    return cubes


def _without(cubes: xr.DataArray, hidden: np.ndarray) -> xr.DataArray | None:
    """The images without some pixel-dates (N, T); None if nothing is left."""
    grid = hidden.reshape(cubes.sizes["y"], cubes.sizes["x"], -1).transpose(2, 0, 1)
    mask = xr.DataArray(~grid, dims=("time", "y", "x"))
    kept = cubes.transpose("time", "y", "x", "wavelength").where(mask)
    return kept if kept.notnull().any() else None
