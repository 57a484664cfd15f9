"""The program published with the ReDSUNN paper, in one call."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from pyro import poutine
from torch import Tensor

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.cubes import as_cube_sequence, from_pixels
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.guides.published import PublishedGuide
from pyro_unmix.infer.fit import fit
from pyro_unmix.infer.settings import FitSettings
from pyro_unmix.infer.weighted_elbo import Ramp, WeightedELBO
from pyro_unmix.methods.arguments import check_settings, counted_bands, judged, materials
from pyro_unmix.methods.redsunn import NUM_EPOCHS
from pyro_unmix.models.published import FirstDateSGLMM, RawDCT, TransposedDCT, VarianceWalk
from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.programs import model_dtype_and_device, quiet_pyro
from pyro_unmix.posterior.read_out import iterate_pixels
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.priors import RandomWalk, WhiteNoise

if TYPE_CHECKING:
    from typing_extensions import Unpack


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
    per_pixel = cubes.sizes["time"] * cubes.sizes["wavelength"]
    device, parts = model_dtype_and_device(model)[1], []
    with quiet_pyro(result.store), torch.no_grad(), seeded(seed, device):
        for _, y, v, inputs in iterate_pixels(model, guide, cubes, per_pixel):
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


@one_thread()
def redsunn_published(
    cubes: ImagesLike,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | None = None,
    num_basis: int = 10,
    sigma_psi: float = 1e-5**0.5,
    num_trajectories: int = 1,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
    num_steps: int | None = None,
    num_epochs: float | None = None,
    **settings: Unpack[FitSettings],
) -> Unmixing:
    """The program published with the ReDSUNN paper, where it departs from the paper; see `redsunn` for the paper.

    `FirstDateSGLMM` with `RawDCT` and `VarianceWalk`, `PublishedGuide` with `TransposedDCT`, and as objective the ELBO
    with the KL divergence weighted by ``w_n = L / (P (K + 1)) min(n / 5000, 1)`` at update n: its loss is the sum of
    two *means*, over L bands and over the P (K + 1) latent variables of a date, and the second is annealed. Its
    fourfold squared error, ``log sigma + 2 r^2 / sigma^2``, is the Gaussian density with ``sigma / 2`` (up to a
    constant), so the noise starts at 0.005 where the program has 0.01. `fit`'s ClippedAdam stands for its AMSGrad.

    Parameters
    ----------
    cubes, num_endmembers, endmembers, num_basis, sigma_psi, ignore, seed, progress, num_steps, num_epochs
        As in `redsunn`. The published settings are K = 10 for the paper's first scene and 2 for its second.
    num_trajectories : int
        Sampled trajectories along which the means are read out (`along_trajectories`); the program takes one.
    **settings
        Passed on to `fit`.

    Returns
    -------
    Unmixing
        ``abundances`` and ``variability`` along the trajectories; what `Unmixing.sample` and `Unmixing.predict` give
        is the posterior.

    Raises
    ------
    TypeError
        If a keyword is none of `fit`.
    ValueError
        If the cubes, the endmembers or a setting are not as described.

    References
    ----------
    Borsoi, Imbiriba, Closas, IEEE TIP 32, 2023, and the program that its Sec. VI announces. What each departure does
    is measured in ``benchmarks/redsunn.md``.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> pu.redsunn_published(scene.cubes, num_endmembers=3, num_steps=5, progress=False)
    <Unmixing by redsunn_published (time: 2, y: 10, x: 10, endmember: 3), 5 steps>
    """
    seed = check_settings(seed, settings)
    in_range(sigma_psi, "sigma_psi", low=0, open_low=True)
    positive_int(num_trajectories, "num_trajectories")
    cubes, endmembers = counted_bands(cubes, endmembers, ignore)
    cubes = as_cube_sequence(cubes)
    endmembers, num_endmembers = materials(cubes, num_endmembers, endmembers, seed)
    num_bands = cubes.sizes["wavelength"]
    num_basis = min(positive_int(num_basis, "num_basis"), num_bands)
    model = FirstDateSGLMM(
        endmembers,
        basis=RawDCT(num_basis),
        abundance_prior=VarianceWalk(),
        variability_prior=RandomWalk(sigma_psi),
        noise=WhiteNoise(0.005),
        seed=seed,
    )
    guide = PublishedGuide(model, basis=TransposedDCT(num_basis), seed=seed)
    final = num_bands / (num_endmembers * (num_basis + 1))
    if num_epochs is None and num_steps is None:
        num_epochs = NUM_EPOCHS
    loss = WeightedELBO(Ramp(5000, final))
    how: FitSettings = {"loss": loss, "method": "redsunn_published", **settings}
    result = fit(
        model, guide, cubes,
        num_steps=num_steps, num_epochs=num_epochs, seed=seed, progress=progress, **how,
    )  # fmt: skip
    return judged(along_trajectories(result, num_trajectories, seed=seed))
