"""Per-pixel spectra, noiseless pixels and degree of nonlinearity of models beyond linear mixing and components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from pyro_unmix.data.cubes import as_cube_sequence
from pyro_unmix.data.types import CubesLike, ImagesLike
from pyro_unmix.io.opening import open_images
from pyro_unmix.mixing import Hapke
from pyro_unmix.ops.engine_lock import one_engine
from pyro_unmix.posterior.programs import model_dtype_and_device, quiet_pyro
from pyro_unmix.posterior.read_out import chunks

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing


def decoded_endmembers(model: Any, variability: xr.DataArray) -> np.ndarray:
    """``model.mixing_endmembers`` of one date's variability (y, x, component, endmember): (y, x, L, P)."""
    return _by_chunks(model, model.mixing_endmembers, [_rows(variability)], variability)


def mixed_pixels(model: Any, abundances: xr.DataArray, variability: xr.DataArray) -> np.ndarray:
    """``model.mix`` of one date's abundances (y, x, endmember) and variability: (y, x, L)."""
    fractions = abundances.transpose("y", "x", "endmember").to_numpy()
    flat = fractions.reshape(-1, fractions.shape[-1])
    return _by_chunks(model, model.mix, [flat, _rows(variability)], variability)


def degree_of_nonlinearity(result: Any, time: int = 0) -> xr.DataArray:
    """Share of the nonlinear stream in the fitted pixels of one date.

    ``||y - M a|| / (||M a|| + ||y - M a||)`` with the reconstruction y of each pixel (its mixing without noise), its
    endmembers M and abundances a: 0 where the mixing is linear. This is a property of the fitted *model*;
    `TwoStreamGuide.degree_of_nonlinearity` is that of the paper's, which compares the two streams of the guide.

    Parameters
    ----------
    result : Unmixing
        Or anything with ``abundances``, ``endmembers(time)`` and ``reconstruct(time)``.
    time : int
        Position of the date.

    Returns
    -------
    DataArray (y, x), in [0, 1]

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .5], [.2, .4], [.3, .3]])  # (L, P)
    >>> result = pu.methods.fcls(np.full((1, 1, 3), .3), endmembers=M, progress=False)
    >>> pu.posterior.degree_of_nonlinearity(result).values.tolist()  # it mixes linearly
    [[0.0]]
    """
    order = ("y", "x", "wavelength", "endmember")
    fractions = result.abundances.isel(time=time).transpose("y", "x", "endmember")
    spectra = result.endmembers(time).transpose(*order).to_numpy()
    linear = (spectra @ fractions.to_numpy()[..., None])[..., 0]
    fitted = result.reconstruct(time).transpose("y", "x", "wavelength").to_numpy()
    sizes = [np.linalg.norm(stream, axis=-1) for stream in (linear, fitted - linear)]
    total = np.maximum(sizes[0] + sizes[1], np.finfo(float).tiny)
    degree = fractions.isel(endmember=0, drop=True).copy(data=sizes[1] / total)
    degree.attrs = {"long_name": "degree of nonlinearity", "units": "1"}
    return degree.rename("degree_of_nonlinearity")


def _rows(variability: xr.DataArray) -> np.ndarray:
    """(N, K, P)."""
    values = variability.transpose("y", "x", "component", "endmember").to_numpy()
    return values.reshape(-1, *values.shape[2:])


@one_engine()
def _by_chunks(
    model: Any, function: Any, inputs: list[np.ndarray], plane: xr.DataArray
) -> np.ndarray:
    dtype, device = model_dtype_and_device(model)
    tensors = [torch.from_numpy(np.ascontiguousarray(x)).to(device, dtype) for x in inputs]
    per_pixel = model.num_bands * model.num_endmembers
    with quiet_pyro(), torch.no_grad():
        parts = [
            function(*(x[part] for x in tensors)).cpu().numpy()
            for part in chunks(len(tensors[0]), per_pixel)
        ]
    values = np.concatenate(parts)
    return values.reshape(plane.sizes["y"], plane.sizes["x"], *values.shape[1:])


def as_reflectance(result: Unmixing, spectra: xr.DataArray) -> xr.DataArray:
    """Spectra in what a result unmixed, as reflectance: they are already, but where `Unmixing.mixing` is set."""
    return spectra if result.mixing is None else result.mixing.to_reflectance(spectra)


def as_unmixed(result: Unmixing, cubes: ImagesLike) -> CubesLike:
    """Images of reflectance, or their files, in what a result unmixed, in memory where they are converted."""
    cubes = open_images(cubes)
    if result.mixing is None:
        return cubes
    images = as_cube_sequence(cubes)
    return images.copy(data=result.mixing.to_albedo(images.to_numpy()).astype(images.dtype))


def of_albedo(dataset: xr.Dataset, mixing: Hapke | None) -> xr.Dataset:
    """A dataset that says of its spectra that they are albedos, and by which mixing; without one, as it is."""
    if mixing is None:
        return dataset
    dataset = dataset.copy()
    for name in ("reference_endmembers", "date_endmembers"):
        if name in dataset:
            what = {"long_name": "single-scattering albedo of the endmembers", "units": "1"}
            dataset[name] = dataset[name].copy().assign_attrs(what)
    return dataset.assign_attrs(mixing=repr(mixing))


def reference_endmembers(result: Unmixing) -> xr.DataArray:
    """M0 (wavelength, endmember) in what was unmixed; see `Unmixing.reference_endmembers`."""
    if "reference_endmembers" in result.dataset:
        return result.dataset["reference_endmembers"]
    mean = result.dataset["endmembers"].mean(("time", "y", "x"), keep_attrs=True)
    return mean.rename("reference_endmembers")


def reference_reflectance(result: Unmixing) -> xr.DataArray:
    """See `Unmixing.reference_endmembers`."""
    reference = reference_endmembers(result)
    if result.mixing is None:
        return reference
    return as_reflectance(result, reference).assign_attrs(long_name="endmember reflectance")


def endmembers(result: Unmixing, time: int) -> xr.DataArray:
    """See `Unmixing.endmembers`."""
    return as_reflectance(result, _endmembers(result, time))


def _endmembers(result: Unmixing, time: int) -> xr.DataArray:
    _need_endmembers(result, "endmembers")
    if "endmembers" in result.dataset:
        spectra = result.dataset["endmembers"].isel(time=time)
        return spectra.transpose("y", "x", "wavelength", "endmember")
    if "library_fractions" in result.dataset:
        return _of_members(result, time)
    reference = _date_reference(result, time)
    if "variability" not in result.dataset:
        plane = result.abundances.isel(time=time, endmember=0, drop=True)
        spectra = _brightness(result, time, xr.ones_like(plane)) * reference
    else:
        psi = result.dataset["variability"].isel(time=time)
        if "components" in result.dataset:
            parts = (
                _combined(result, psi) + reference.transpose("wavelength", "endmember").to_numpy()
            )
        else:
            parts = decoded_endmembers(result.model, psi)
        plane = psi.isel(component=0, endmember=0, drop=True)
        spectra = xr.DataArray(
            parts,
            dims=("y", "x", "wavelength", "endmember"),
            coords={**plane.coords, **reference.coords},
        )
    spectra.attrs = {"long_name": "endmember reflectance", "units": "1"}
    order = ("y", "x", "wavelength", "endmember")
    return spectra.transpose(*order).rename("endmembers")


def reconstruction(result: Unmixing, time: int) -> xr.DataArray:
    """See `Unmixing.reconstruct`."""
    return as_reflectance(result, _reconstruction(result, time))


def lit_reconstruction(result: Unmixing, time: int) -> xr.DataArray:
    """As `reconstruction`, each pixel in the light in which it fits what was observed best.

    ``s_n M a_n`` with ``s_n = max(y_n'M a_n / |M a_n|^2, 0)``, one where nothing was observed. Of a result without its
    images, or one that holds the light of its pixels already, it is `reconstruction`.
    """
    fitted = _reconstruction(result, time)
    if result.cubes is None or {"library_fractions", "brightness"} & set(result.dataset):
        return as_reflectance(result, fitted)
    order = ("y", "x", "wavelength")
    observed = result.cubes.isel(time=time).transpose(*order).to_numpy()
    values = fitted.transpose(*order).to_numpy()
    lengths = np.square(values).sum(axis=-1)
    light = (observed * values).sum(axis=-1) / np.where(lengths > 0, lengths, np.nan)
    light = np.where(np.isfinite(light), np.maximum(light, 0.0), 1.0)
    lit = fitted.transpose(*order).copy(data=light[..., None] * values)
    return as_reflectance(result, lit)


def _reconstruction(result: Unmixing, time: int) -> xr.DataArray:
    _need_endmembers(result, "reconstruct")
    abundances = result.abundances.isel(time=time)
    fractions = abundances.transpose("y", "x", "endmember").to_numpy()
    reference = _date_reference(result, time).transpose("wavelength", "endmember")
    spectra = fractions @ reference.to_numpy().T
    if "endmembers" in result.dataset:
        spectra = (_endmembers(result, time).to_numpy() @ fractions[..., None])[..., 0]
    elif "library_fractions" in result.dataset:
        members = (
            result.dataset["library_fractions"].isel(time=time).transpose("y", "x", "spectrum")
        )
        library = result.dataset["library"].transpose("spectrum", "wavelength")
        spectra = members.to_numpy() @ library.to_numpy()
    elif "variability" not in result.dataset:
        plane = xr.ones_like(abundances.isel(endmember=0, drop=True))
        spectra = (
            spectra * _brightness(result, time, plane).transpose("y", "x").to_numpy()[..., None]
        )
    elif hasattr(result.model, "mix"):
        psi = result.dataset["variability"].isel(time=time)
        spectra = mixed_pixels(result.model, abundances, psi)
    else:
        psi = result.dataset["variability"].isel(time=time)
        weighted = psi.transpose("y", "x", "component", "endmember").to_numpy()
        weighted = weighted * fractions[:, :, None, :]
        flat = _components(result).reshape(len(reference), -1)
        spectra = spectra + weighted.reshape(*fractions.shape[:2], -1) @ flat.T
    plane = abundances.isel(endmember=0, drop=True)
    coords = {k: v for k, v in reference.coords.items() if v.dims == ("wavelength",)}
    return xr.DataArray(
        spectra,
        dims=("y", "x", "wavelength"),
        coords={**plane.coords, **coords},
        name="reconstruction",
        attrs={"long_name": "reconstructed reflectance", "units": "1"},
    )


def _brightness(result: Unmixing, time: int, ones: xr.DataArray) -> xr.DataArray:
    """What the fractions of a date's pixels (y, x) summed to, where they were scaled to one; else one."""
    if "brightness" not in result.dataset:
        return ones
    return result.dataset["brightness"].isel(time=time)


def _of_members(result: Unmixing, time: int) -> xr.DataArray:
    """Of each class the mean of its library spectra, weighted by their fractions in the pixel, times its brightness.

    So that ``M_n a_n`` is the reconstruction. A class that the pixel has nothing of gets its mean spectrum.
    """
    fractions = result.dataset["library_fractions"].isel(time=time).transpose("y", "x", "spectrum")
    library = result.dataset["library"].transpose("wavelength", "spectrum")
    labels = library["label"].to_numpy()
    reference = reference_endmembers(result).transpose("wavelength", "endmember")
    weights = fractions.to_numpy()
    shares = result.abundances.isel(time=time).transpose("y", "x", "endmember").to_numpy()
    brightness = weights.sum(-1)
    columns = []
    for position, name in enumerate(reference["endmember"].to_numpy()):
        mine = labels == str(name)
        weighted = weights[..., mine] @ library.to_numpy()[:, mine].T
        share = shares[..., position, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            own = weighted / share
        mean = brightness[..., None] * reference.to_numpy()[:, position]
        columns.append(np.where(share == 0, mean, own))
    plane = fractions.isel(spectrum=0, drop=True)
    found = xr.DataArray(
        np.stack(columns, axis=-1),
        dims=("y", "x", "wavelength", "endmember"),
        coords={**plane.coords, **reference.coords},
        name="endmembers",
    )
    return found.assign_attrs(long_name="endmember reflectance", units="1")


def unit_maximum(result: Unmixing) -> xr.DataArray:
    """See `Unmixing.unit_maximum`."""
    _need_endmembers(result, "unit_maximum")
    peaks = xr.concat(
        [endmembers(result, t).max("wavelength") for t in range(result.dataset.sizes["time"])],
        dim="time",
        coords="minimal",
        compat="override",
    ).transpose(*result.abundances.dims)
    weighted = result.abundances * peaks.to_numpy().clip(min=0)
    total = weighted.sum("endmember")
    return (weighted / total.where(total > 0)).rename("unit_maximum_abundances")


def no_endmembers(what: str) -> str:
    """What to say where endmembers are asked for and none are known."""
    return (
        f".{what} needs endmembers, and decode returned abundances alone: let it return a pair, abundances and "
        "endmembers (..., T, L, P) or (L, P)"
    )


def _need_endmembers(result: Unmixing, what: str) -> None:
    if not result.has_endmembers:
        raise ValueError(no_endmembers(f"{what}()"))


def _date_reference(result: Unmixing, time: int) -> xr.DataArray:
    """The spectra that the pixels of one date vary around (wavelength, endmember)."""
    if "date_endmembers" in result.dataset:
        return result.dataset["date_endmembers"].isel(time=time, drop=True)
    return reference_endmembers(result)


def _combined(result: Unmixing, psi: xr.DataArray) -> np.ndarray:
    """``sum_k F_k diag(psi_k)`` of one date (y, x, L, P)."""
    # one matrix product per material, instead of xarray's general contraction
    return np.einsum(
        "yxkp,lkp->yxlp",
        psi.transpose("y", "x", "component", "endmember").to_numpy(),
        _components(result),
        optimize=True,
    )


def _components(result: Unmixing) -> np.ndarray:
    order = ("wavelength", "component", "endmember")
    return result.dataset["components"].transpose(*order).to_numpy()
