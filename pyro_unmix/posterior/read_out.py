"""Read a fitted model and guide out into labelled arrays, pixel by pixel and independent of tiling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_unmix.data.cubes import DIMS, from_pixels, valid_mask
from pyro_unmix.data.types import GuideProgram, ModelProgram
from pyro_unmix.kernels.sweeps import check_model, elements_per_pixel, num_chains, polished
from pyro_unmix.mixing import change_detector, linear_regression
from pyro_unmix.models.base import Decode
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.small_matrices import project
from pyro_unmix.posterior.autoguides import holds_scene
from pyro_unmix.posterior.decoding import (
    Decoded,
    Decoding,
    OfFunction,
    Variables,
    decoding_of,
    latents_of,
    name_of,
    need_own_decode,
)
from pyro_unmix.posterior.estimates import PlugInMean, PolishedMean, PosteriorMean
from pyro_unmix.posterior.programs import (
    CommonNoise,
    FixedNoise,
    OneDraw,
    ParamStore,
    as_tensors,
    is_latent,
    prepare,
    quiet_pyro,
)

_CHUNK_ELEMENTS = 6_000_000
_ROUND = 64  # pixels
_ALL = slice(None)
#: ``index``, ``size`` and ``features``, as programs take them.
Keywords = dict[str, Any]

__all__ = ["PlugInMean", "PolishedMean", "PosteriorMean", "iterate_draws", "read_out"]


class _Means(Messenger):
    """Every latent site takes its distribution's mean."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_latent(msg):
            try:
                msg["value"] = msg["fn"].mean
            except NotImplementedError:
                raise TypeError(
                    f"site {msg['name']!r} of the guide is {type(msg['fn']).__name__}, which has no mean: use "
                    "PosteriorMean()"
                ) from None


def draw_abundances(
    decoding: Decoding,
    guide: GuideProgram,
    noise: CommonNoise,
    pixels: Tensor,
    valid: Tensor,
    known: Keywords,
) -> Decoded:
    """Posterior draws of abundances (S, B, T, P) and means of what tells the endmembers."""
    if not decoding.broadcasts:
        # one run of the guide for every draw
        runs = [_latents(guide, h, pixels, valid, known) for h in one_by_one(noise)]
        latents = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
        return decoding.decode(latents, tuple(pixels.shape))
    draw = getattr(guide, "draw", None)
    drawn = draw(pixels, valid, known["features"], noise) if draw else None
    if drawn is None:
        abundances, maps, _ = _run(decoding, guide, FixedNoise(noise), pixels, valid, known)
        variability = maps["variability"]
        shape = (noise.num_samples, *abundances.shape[-3:])
        drawn = abundances.expand(shape), variability.reshape(-1, *variability.shape[-4:]).mean(0)
    return Decoded(drawn[0], {"variability": drawn[1]}, {})


class _Kept:
    """CommonNoise that is made once per site, for one draw after the other."""

    def __init__(self, noise: CommonNoise) -> None:
        self._noise, self._kept = noise, dict[tuple[str, int], Tensor]()

    def __call__(self, site: str, size: int) -> Tensor:
        if (site, size) not in self._kept:
            self._kept[site, size] = self._noise(site, size)
        return self._kept[site, size]


def one_by_one(noise: CommonNoise) -> list[OneDraw]:
    """Handlers that fix the draws of a guide, each of one run, for programs that know no axis of draws."""
    kept = _Kept(noise)
    return [OneDraw(kept, draw) for draw in range(noise.num_samples)]


def _latents(
    guide: GuideProgram, handler: Messenger, pixels: Tensor, valid: Tensor, known: Keywords
) -> dict[str, Tensor]:
    """Values (pixels, ...) of the latent sites in one run of the guide under a handler that fixes its draws."""
    with handler:
        trace = poutine.trace(guide).get_trace(pixels, valid, **known)
    return latents_of(trace.nodes, known["index"] if holds_scene(guide) else None)


def surveyed(
    decoding: Decoding, guide: GuideProgram, pixels: Tensor, valid: Tensor, index: Tensor, size: int
) -> tuple[Decoding, int]:
    """How a program is read out, and the numbers that a draw of a pixel takes, found out on the first pixel, twice.

    Raises
    ------
    TypeError, ValueError
        If the guide cannot be drawn, or `decode` does not return what it must.
    """
    if not isinstance(decoding, OfFunction):
        return decoding, 0
    rows = torch.zeros(2, dtype=torch.long, device=index.device)
    y, v, numbers = pixels[rows], valid[rows], index[rows]
    handler = OneDraw(CommonNoise(2, 0, y), 0)
    known = {"index": numbers, "size": size, "features": prepare(guide, y, v, numbers)}
    latents = _latents(guide, handler, y, v, known)
    if not latents:
        raise ValueError(f"{name_of(guide)} has no latent sites: it must draw those of the model")
    one = {name: value.unsqueeze(0) for name, value in latents.items()}
    abundances, spectra = decoding.draws(one, tuple(y.shape))
    by_pixel = spectra is not None and spectra.shape[1] == 2
    tensors = [*one.values(), abundances, *([] if spectra is None else [spectra, spectra])]
    return replace(decoding, by_pixel=by_pixel), sum(
        t.numel() // 2 for t in tensors if t.shape[1] == 2
    )


def _run(
    decoding: Decoding,
    guide: Any,
    handler: Messenger,
    pixels: Tensor,
    valid: Tensor,
    known: Keywords,
) -> Decoded:
    """Run the guide under a handler that fixes its draws, and decode them."""
    if not decoding.broadcasts:
        latents = _latents(guide, handler, pixels, valid, known)
        one = {name: value.unsqueeze(0) for name, value in latents.items()}
        return decoding.decode(one, tuple(pixels.shape))
    with handler:
        trace = poutine.trace(guide).get_trace(pixels, valid, **known)
    sites = trace.nodes.items()
    latents = {k: site["value"] for k, site in sites if site["type"] == "sample"}
    return decoding.decode(latents, tuple(pixels.shape))


def chunks(num_pixels: int, per_pixel: int) -> Iterator[slice]:
    """Slices of pixels, of one length, so that a chunk's largest array stays small, within an eighth."""
    size = max(1, min(4096, _CHUNK_ELEMENTS // max(per_pixel, 1)))
    # A short chunk at the end takes hardly less time than a long one.
    size = -(-num_pixels // max(1, -(-num_pixels // size)))
    if size > 8 * _ROUND:  # rows of powers of two would take each other's places in the cache
        size = (-(-size // _ROUND) | 1) * _ROUND
    for start in range(0, num_pixels, size):
        yield slice(start, min(start + size, num_pixels))


def iterate_pixels(
    model: ModelProgram,
    guide: GuideProgram,
    cubes: xr.DataArray,
    per_pixel: int,
    place: tuple[np.ndarray, int] | None = None,
    rows: slice = _ALL,
) -> Iterator[tuple[slice, Tensor, Tensor, Keywords]]:
    """Chunk by chunk of `rows` of the pixels: which, spectra, validity, and keywords of the programs.

    `place` as `read_out` takes it; a pixel takes `per_pixel` numbers.
    """
    # All dates of a few pixels are put together when it is their turn, while they are in the cache.
    images = cubes.transpose(*DIMS).to_numpy()
    images = images.reshape(len(images), 1, -1, images.shape[-1])
    numbers, size = (np.arange(images.shape[2]), images.shape[2]) if place is None else place
    images, numbers = images[:, :, rows], numbers[rows]
    for part in chunks(len(numbers), per_pixel):
        y, v = as_tensors(xr.DataArray(images[:, :, part], dims=DIMS), model)
        index = torch.as_tensor(numbers[part], device=y.device)
        yield part, y, v, {"index": index, "size": size, "features": prepare(guide, y, v, index)}


def iterate_draws(
    model: Any,
    guide: GuideProgram,
    cubes: xr.DataArray,
    num_samples: int,
    seed: int,
    store: ParamStore | None = None,
    place: tuple[np.ndarray, int] | None = None,
    rows: slice = _ALL,
    estimate: PosteriorMean | None = None,
    decode: Decode | None = None,
) -> Iterator[tuple[slice, dict[str, Any]]]:
    """Chunk by chunk of `rows` of the pixels: what was drawn, and the chunk's tensors; `store` as `loose_params` gave
    it, `place` and `decode` as `read_out` takes them. Draws are the guide's, or those of a `PolishedMean`.
    """
    num_dates, num_bands = cubes.sizes["time"], cubes.sizes["wavelength"]
    numbers, size = ([0], cubes.sizes["y"] * cubes.sizes["x"]) if place is None else place
    decoding = decoding_of(model, decode)
    polish = estimate if isinstance(estimate, PolishedMean) and estimate.num_sweeps else None
    per_pixel = num_dates * max(num_bands, 3 * num_samples)
    num_draws = num_samples
    if polish is not None:
        check_model(model)
        need_own_decode(decoding)
        num_draws = num_chains(num_samples)
        per_pixel = max(per_pixel, elements_per_pixel(model, num_dates, num_draws, polish.exact))
    with quiet_pyro(store), torch.no_grad():
        y, v = as_tensors(cubes.isel(y=[0], x=[0]), model)
        first = torch.as_tensor(numbers[:1], device=y.device)
        decoding, per_draw = surveyed(decoding, guide, y, v, first, size)
        per_pixel = max(per_pixel, per_draw * num_samples)
        for part, y, v, known in iterate_pixels(model, guide, cubes, per_pixel, place, rows):
            noise = CommonNoise(num_draws, seed, y)
            told = draw_abundances(decoding, guide, noise, y, v, known)
            if polish is not None:
                moved, variability = polished(
                    model, y, v, told.abundances, num_samples=num_samples, num_sweeps=polish.num_sweeps,
                    noise_factor=polish.noise_factor, exact=polish.exact, seed=seed, index=known["index"],
                )  # fmt: skip
                told = Decoded(moved, {"variability": variability}, {})
            drawn = {"draws": told.abundances, "told": told, "decoding": decoding}
            yield part, {**drawn, "pixels": y, "valid": v, "known": known}


def read_out(
    model: ModelProgram,
    guide: GuideProgram,
    cubes: xr.DataArray,
    *,
    estimate: PosteriorMean,
    seed: int = 0,
    store: ParamStore | None = None,
    progress: bool = False,
    place: tuple[np.ndarray, int] | None = None,
    workers: Any = None,
    decode: Decode | None = None,
) -> xr.Dataset:
    """The posterior of every pixel and date as a labelled dataset.

    Parameters
    ----------
    model, guide : fitted pair
    cubes : DataArray
        As `as_cube_sequence` returns.
    estimate : PosteriorMean, PlugInMean or PolishedMean
    seed : int
        Of the draws.
    store : mapping, optional
        Trained parameters of plain functions, from `loose_params`.
    progress : bool
        Show a bar over the pixels.
    place : tuple of array (N,) and int, optional
        Of a tile: the numbers of its pixels in the whole scene, and how many pixels that has.
    workers : Workers, optional
        Those that read out a part of the pixels each; all get the whole.
    decode : callable, optional
        As `fit` takes it; default what the model says.

    Returns
    -------
    xarray.Dataset
        ``abundances``, ``abundances_std`` (time, y, x, endmember) and ``valid`` (time, y, x). Of a `VariabilityModel`
        also ``variability`` (time, y, x, component, endmember), ``change`` (time, y, x), ``reference_endmembers``
        (wavelength, endmember) and ``components`` (wavelength, component, endmember). Of another program whatever
        `decode` tells of the endmembers: ``endmembers`` (time, y, x, wavelength, endmember), or where all pixels share
        them ``reference_endmembers``, with ``date_endmembers`` (time, wavelength, endmember) if dates differ.
    """
    parts: dict[str, list[Tensor]] = {}
    total = cubes.sizes["y"] * cubes.sizes["x"]
    shared = workers is not None and 1 < workers.size <= total
    rows = workers.rows(total) if shared else slice(0, total)
    bar = progress_bar(total=rows.stop, shown=progress, desc="read out", unit="pixel")
    draws = iterate_draws(
        model, guide, cubes, estimate.num_samples, seed, store, place, rows, estimate, decode
    )
    for part, chunk in draws:
        drawn, told, decoding = chunk["draws"], chunk["told"], chunk["decoding"]
        mean = drawn.mean(0)
        values = {"abundances": mean, "abundances_std": _std(drawn, mean)}
        if isinstance(estimate, PlugInMean):
            inputs = (chunk[k] for k in ("pixels", "valid", "known"))
            told = _run(decoding, guide, _Means(), *inputs)
            values["abundances"] = told.abundances.reshape(mean.shape)
        values |= told.maps
        if "variability" in told.maps:
            psi = told.maps["variability"]
            values["change"] = _change(model, chunk, values["abundances"], psi)
        for name, value in values.items():
            parts.setdefault(name, []).append(value.cpu())
        bar.update(part.stop - part.start)
    bar.close()
    maps = {name: torch.cat(values) for name, values in parts.items()}
    if shared:
        maps = workers.gathered(maps, total)
    arrays = {name: value.numpy() for name, value in maps.items()}
    return _to_dataset(decoding, cubes, arrays, told.shared)


def _std(drawn: Tensor, mean: Tensor) -> Tensor:
    """``drawn.std(0)``, which torch computes one number after the other unless draws are neighbours in memory."""
    total = torch.zeros_like(mean)
    for draw in drawn:
        step = draw - mean
        total.addcmul_(step, step)
    return total.div_(len(drawn) - 1).sqrt_()


def _change(model: Any, chunk: dict[str, Any], abundances: Tensor, variability: Tensor) -> Tensor:
    """``u_t`` (B, T) of the fitted M and a; NaN at the first date and where a date is missing."""
    pixels, valid = chunk["pixels"], chunk["valid"]
    change = torch.full_like(pixels[..., 0], float("nan"))
    if pixels.shape[1] < 2:
        return change
    # In double precision: the regression enlarges what rounding makes of the size of a chunk.
    design = model.design().double()
    previous = variability[:, :-1].flatten(-2).double()
    moments = project(pixels[:, 1:], design, torch.double).permute(2, 1, 0)
    regression = linear_regression(design.mT @ design, moments, previous)
    change[:, 1:] = change_detector(regression, abundances[:, :-1].double())
    return change.masked_fill(~valid, float("nan"))


def _to_dataset(
    decoding: Decoding, cubes: xr.DataArray, parts: dict[str, np.ndarray], shared: Variables
) -> xr.Dataset:
    material = {"endmember": decoding.names(parts["abundances"].shape[-1])}
    dims = {"abundances": material, "abundances_std": material, **decoding.layouts(material)}
    arrays = {k: from_pixels(v, cubes, dims[k], name=k) for k, v in parts.items()}
    with torch.no_grad():
        spectra = {**decoding.shared(), **shared}
    wavelength = {"wavelength": cubes["wavelength"]} if "wavelength" in cubes.coords else {}
    return describe(
        xr.Dataset(
            {
                **arrays,
                "valid": valid_mask(cubes),
                **spectra,
            },
            coords=wavelength,
        )
    )


_DESCRIPTIONS = {
    "abundances": ("abundance estimate", "1"),
    "abundances_std": ("posterior standard deviation of the abundance", "1"),
    "variability": ("posterior mean of the endmember variability psi", "1"),
    "change": ("change detector u_t", "1"),
    "valid": ("pixel-date was observed", "1"),
    "reference_endmembers": ("reference endmember reflectance", "1"),
    "date_endmembers": ("endmember reflectance of each date", "1"),
    "endmembers": ("posterior mean of the endmember reflectance", "1"),
    "library_fractions": ("fraction of each library spectrum, brightness included", "1"),
    "library": ("library reflectance", "1"),
    "brightness": ("sum of the fractions before they were scaled to one", "1"),
    "components": ("spectral components of the endmember variability", "1"),
}


def describe(dataset: xr.Dataset) -> xr.Dataset:
    """Long names and units on the variables that have them here."""
    for name, (long_name, units) in _DESCRIPTIONS.items():
        if name in dataset:
            dataset[name].attrs.update(long_name=long_name, units=units)
    return dataset
