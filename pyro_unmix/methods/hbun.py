"""Hierarchical Bayesian unmixing (HBUN): a Pyro model and guide under the same `fit` as any other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from pyro.infer.autoguide import AutoDelta, init_to_value
from torch import Tensor

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.guides.scene import SceneMeanField
from pyro_unmix.infer.fit import fit
from pyro_unmix.methods.arguments import judged
from pyro_unmix.methods.classical import Input, fcls_of_date, read_input
from pyro_unmix.models.perturbed import PerturbedLinear, PriorScales
from pyro_unmix.ops.simplex import to_softmax_basis
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.programs import quiet_pyro
from pyro_unmix.posterior.result import Unmixing

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

# Adam moves every element by about its rate: the states are of order 1, reflectances of order 0.1.
_RATES = {"states": 0.05, "endmembers": 0.002, "perturbations": 0.002}
_SCALE_RATE = 0.02
_FLOOR = 0.01  # of the abundances at the start: near 0 the softmax has hardly any gradient
_LEAST_NOISE = 1e-4


@one_thread()
def hbun(
    cubes: ImagesLike,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | xr.DataArray | None = None,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
    guide: Callable[..., Any] = SceneMeanField,
    num_steps: int = 300,
    **scales: Unpack[PriorScales],
) -> Unmixing:
    """Hierarchical Bayesian unmixing of a sequence: smooth endmembers and abundances, small shifts.

    Fits `PerturbedLinear`, a perturbed linear model per date: ``y_nt = (M + dM_t) a_nt`` plus white noise, with
    Gaussian priors on the second differences of M over wavelength, on the differences of the softmax abundances
    between neighbours of a tile and between dates, and on ``dM_t``, whose scales are inferred too. This is our reading
    of the published description, from which it departs in three ways. The scales have log-normal priors, with medians
    in place of the parameters of inverse-gamma ones. The abundances of missing pixel-dates are filled in, which the
    other methods here leave missing. And the sampler is not followed: the same `fit` as for every other model finds a
    mean-field approximation of the posterior, or its mode::

        from pyro.infer.autoguide import AutoDelta

        hbun(cubes, num_endmembers=3, guide=AutoDelta)

    The mode is the faster and the poorer answer. Where priors have unknown scales, the joint density grows as
    differences and their scale shrink together, and states that shrink let the endmembers move outwards.

    The search starts at FCLS with the given endmembers. All pixels take part in every step, because neighbours depend
    on each other; memory and time grow with the whole scene.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, reflectance; or files, as `open_images` reads them.
    num_endmembers : int, optional
        P, at least 2. May be left out if `endmembers` are given.
    endmembers : array (L, P), DataArray (wavelength, endmember) or library, optional
        What M is near, and where it starts. Default VCA of the spectra of all dates, which misses materials more often
        than `extract_endmembers` does.
    ignore : str or sequence of pairs, optional
        Leave out the bands in these ranges, nm, as `read_sequence` does: ``"emit"``, ``"0-440,1310-1490"``.
    seed : int
        Of VCA and of the draws of a random guide.
    progress : bool
        Show a bar over the steps.
    guide : callable
        Makes the guide, called as ``guide(model, init_loc_fn=..., create_plates=...)``: by default `SceneMeanField`,
        Pyro's `AutoNormal` with narrow normals at the start; `AutoDelta` for the mode.
    num_steps : int
        Of Adam, whose rates decay to a tenth.
    **scales
        Keywords of `PerturbedLinear`: the scales of its priors. `reference_scale`, how far M may go from the given
        endmembers, is 1 % reflectance, as are the medians of the noise and of the second differences: a convention,
        chosen by no score. On the scene ds1, from VCA, 0.003, 0.01 and 0.03 give abundance errors of .277, .282 and
        .283.

    Returns
    -------
    Unmixing
        `reference_endmembers` is M, `endmembers(time)` is ``M + dM_t``, alike for all pixels of a date; they may be
        negative: nothing in the model forbids it. The abundances of missing pixel-dates are filled in by the priors;
        `valid` says which these are. With `AutoDelta` there is no posterior and `abundances_std` is NaN; else `sample`
        and `quantile` draw from the guide, and `predict` refuses other images, to which the abundances do not belong.
        `losses` are the negative log joint density, or the negative ELBO, per observed value.

    Raises
    ------
    TypeError
        If `guide` does not make a guide of Pyro's, an argument is of another type, or a keyword is unknown.
    ValueError
        If the cubes, the endmembers or a setting are not as described.

    References
    ----------
    Liu, Lu, Wu, Du, Chanussot, Wei, IEEE TGRS 60, 2021.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> pu.methods.hbun(scene.cubes, num_endmembers=3, num_steps=5, progress=False)
    <Unmixing by hbun (time: 2, y: 10, x: 10, endmember: 3), 5 steps>
    """
    if not callable(guide):
        raise TypeError(_not_a_guide(guide))
    given = read_input(cubes, num_endmembers, endmembers, seed, ignore)
    initial = given.reference if endmembers is None else given.spectra
    model = PerturbedLinear(initial, given.cubes, **scales)
    start = init_to_value(values=_start(model, given))
    program = guide(model, init_loc_fn=start, create_plates=model.plates)
    if not hasattr(program, "median"):
        raise TypeError(_not_a_guide(program))
    result = fit(
        model,
        program,
        given.cubes,
        num_steps=num_steps,
        batch_size=len(given.pixels),
        learning_rate=_rate,
        learning_rate_decay=0.1,
        seed=seed,
        progress=progress,
        method="hbun",
    )
    return judged(_with_endmembers(result, given))


def _not_a_guide(got: Any) -> str:
    return (
        "guide must make a guide with a median, as AutoDelta (the posterior's mode) and AutoNormal "
        f"(mean field) of pyro.infer.autoguide do, got {got!r}: pass one of these classes"
    )


def _rate(name: str) -> float:
    """The learning rate of a parameter, by the site in its name."""
    return _RATES.get(name.rpartition(".")[2], _SCALE_RATE)


def _start(model: PerturbedLinear, given: Input) -> dict[str, Tensor]:
    """A value of every site: FCLS with M0, and the prior medians of all scales but the noise's."""
    valid, num_dates = given.valid, given.valid.shape[1]
    by_date = [
        fcls_of_date(given.pixels[:, t], valid[:, t], given.reference) for t in range(num_dates)
    ]
    abundances = np.stack(by_date, axis=1)
    error = 0.0
    for t in range(num_dates):
        rows = valid[:, t]
        residual = given.pixels[rows, t] - abundances[rows, t] @ given.reference.T
        error += float(np.sum(residual**2))
    noise = np.sqrt(error / (valid.sum() * model.num_bands))
    # missing pixel-dates take the mean of the pixel's other dates, or of the scene
    seen = valid.sum(axis=1) > 0
    of_pixel = np.tile(np.nanmean(abundances, axis=(0, 1)), (len(seen), 1))
    of_pixel[seen] = np.nanmean(abundances[seen], axis=1)
    abundances = np.where(valid[..., None], abundances, of_pixel[:, None])
    like = model.initial
    return {
        **{name: like.new_tensor(median) for name, median in model.medians.items()},
        "noise_scale": like.new_tensor(max(noise, _LEAST_NOISE)),
        "endmembers": like.flatten().clone(),
        "perturbations": torch.zeros_like(model.shown).flatten(),
        "states": to_softmax_basis(torch.from_numpy(abundances), _FLOOR).flatten().to(like),
    }


def _with_endmembers(result: Unmixing, given: Input) -> Unmixing:
    """The result with the endmembers of each date that the guide holds."""
    model, guide = result.model, result.guide
    everything = torch.ones(model.num_pixels, model.num_dates, dtype=torch.bool)
    with quiet_pyro(), torch.no_grad():
        medians = guide.median(None, everything.to(model.initial.device))
    endmembers = medians["endmembers"].reshape(model.initial.shape)
    perturbations = medians["perturbations"].reshape(model.shown.shape)
    model.show(endmembers, perturbations)
    found = {name: float(medians[name]) for name in model.medians}
    logger.info("%s", ", ".join(f"{name} {value:.3g}" for name, value in found.items()))

    dataset = result.dataset.drop_vars(["variability", "components", "change"])
    dataset["reference_endmembers"].values[:] = endmembers.cpu().numpy()
    dataset["date_endmembers"] = (
        ("time", "wavelength", "endmember"),
        (endmembers + perturbations).cpu().numpy(),
        {"long_name": "endmember reflectance of each date", "units": "1"},
    )
    dataset = dataset.assign_coords(endmember=given.names)
    if isinstance(guide, AutoDelta):  # a point has no spread
        dataset = dataset.drop_vars("abundances_std")
        return replace(result, dataset=dataset, model=None, guide=None, store=None)
    return replace(result, dataset=dataset)
