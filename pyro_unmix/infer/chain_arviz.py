"""Chains as ArviZ's InferenceData."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from pyro_unmix.data.cubes import DIMS
from pyro_unmix.infer.chains import Chain, draw_own
from pyro_unmix.infer.programs import program_of
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.arviz import attributes, chosen_spectra, inference_data, pixel_numbers

if TYPE_CHECKING:
    from pyro_unmix.infer.sampled import Sampled

_AXES = {
    "endmembers": ("wavelength", "endmember"),
    "scales": ("scale",),
    "residual_variance": ("direction",),
    "residual_factor": ("wavelength", "direction"),
}


@one_thread()
def chains_to_arviz(result: Sampled, pixels: Any, num_samples: int | None, seed: int) -> Any:
    """Draws of what spectra share, and of chosen pixels, for ArviZ's tables and plots.

    Parameters
    ----------
    result : Sampled
    pixels : boolean mask (y, x), integers (n, 2) or (n,), optional
        As for `Unmixing`; default none.
    num_samples : int, optional
        Draws of every chain, its last ones; default all that it kept.
    seed : int
        Of the abundances.

    Returns
    -------
    arviz.InferenceData
        ``posterior``, with the dimensions ``chain`` and ``draw``: ``endmembers`` in the order of the result,
        ``noise_variance`` and the other sites that the programs share, as chains have them, neither moved apart nor to
        a field; of chosen pixels ``abundances`` (.., pixel, time, endmember), each draw under its own of the shared
        ones, and ``observed_data``. ``sample_stats`` has the ``weight`` of every chain. Every chain sees spectra of its
        own, and those of several starts stay in their modes: R-hat over chains is large where nothing is wrong. With
        `mixing`, spectra are albedos.

    Raises
    ------
    ImportError
        If ArviZ is not installed, or its version has no InferenceData.
    TypeError, ValueError
        If pixels or `num_samples` are not as described.
    """
    kept = min(len(chain.shared) for chain in result.chains)
    count = kept if num_samples is None else positive_int(num_samples, "num_samples")
    if count > kept:
        raise ValueError(f"the chains kept {kept} draws each, got num_samples={count}")
    groups: dict[str, xr.Dataset] = {}
    observed = None
    if pixels is not None:
        cubes = result.images().transpose(*DIMS)
        numbers = pixel_numbers(pixels, cubes.sizes["y"], cubes.sizes["x"])
        observed = chosen_spectra(cubes, numbers)
        groups["observed_data"] = observed.rename("reflectance").to_dataset()
    assert result.orders is not None and result.weights is not None
    names = result.abundances["endmember"].values
    chains = []
    for number, (chain, order) in enumerate(zip(result.chains, result.orders, strict=True)):
        few = replace(chain, shared=chain.shared[-count:])
        values = _shared(few, list(order))
        if observed is not None:
            drawn = _of_pixels(few, observed, result.num_warmup, [seed, number])
            values["abundances"] = (("draw", "pixel", "time", "endmember"), drawn[..., order])
        chains.append(xr.Dataset(values))
    posterior = xr.concat(chains, dim="chain").assign_coords(
        chain=np.arange(len(chains)), draw=np.arange(count), endmember=names
    )
    if "wavelength" in result.reference_endmembers.coords:
        posterior = posterior.assign_coords(wavelength=result.reference_endmembers["wavelength"])
    if observed is not None:
        posterior = posterior.assign_coords(
            {k: c for k, c in observed.coords.items() if "wavelength" not in c.dims}
        )
    weights = np.repeat(result.weights[:, None], count, axis=1)
    groups = {
        "posterior": posterior,
        "sample_stats": xr.Dataset({"weight": (("chain", "draw"), weights)}),
        **groups,
    }
    return inference_data(groups, attributes(result, seed, "Markov chains, not moved apart"))


def _shared(chain: Chain, order: list[int]) -> dict[str, Any]:
    """Variables with the dimension ``draw``."""
    found = {}
    for name in program_of(chain.model).shared:
        drawn = chain.stacked(name).cpu().numpy()
        axes = ("draw", *_AXES.get(name, ()))
        found[name] = (axes, drawn[..., order] if name == "endmembers" else drawn)
    return found


def _of_pixels(
    chain: Chain, observed: xr.DataArray, num_warmup: int, seed: list[int]
) -> np.ndarray:
    """Abundances (draw, pixel, time, P) under every draw of a chain; NaN where nothing was observed."""
    spectra = observed.values.astype(np.float64)
    missing = np.asarray(np.isnan(spectra).any(axis=-1))
    flat = np.where(missing[..., None], 0.0, spectra).reshape(-1, spectra.shape[-1])
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    generator = torch.Generator(chain.model.device).manual_seed(int(state) % 2**63)
    values = torch.as_tensor(flat, device=chain.model.device)
    count = len(chain.shared)
    drawn, _ = draw_own(chain, values, count, num_warmup=num_warmup, generator=generator)
    own = drawn.cpu().numpy().reshape(count, *missing.shape, -1)
    own[:, missing] = np.nan
    return own
