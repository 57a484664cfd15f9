"""Posterior draws of chosen pixels as ArviZ's InferenceData."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pyro_unmix.data.cubes import DIMS
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.extras import need
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.read_out import iterate_draws

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing

_SAMPLING = (
    "draws of a variational posterior in one chain, not a Markov chain: "
    "r_hat and ess say nothing of its quality"
)


@one_thread()
def to_arviz(result: Unmixing, pixels: Any, num_samples: int, seed: int) -> Any:
    """Posterior draws of chosen pixels, for ArviZ's tables and plots.

    Parameters
    ----------
    result : Unmixing
        With a posterior and its images.
    pixels : boolean mask (y, x), integers (n, 2) or (n,)
        A mask, positions (y, x), or numbers ``y width + x`` from 0.
    num_samples : int
        Draws, in one chain: those of `Unmixing.sample` at the same pixels.
    seed : int

    Returns
    -------
    arviz.InferenceData
        ``posterior``: ``abundances`` (chain, draw, pixel, time, endmember). ``observed_data``: ``reflectance`` (pixel,
        time, wavelength), NaN where missing. The coordinate ``pixel`` holds numbers, ``y`` and ``x`` the places. The
        draws are of a variational posterior and no Markov chain: ESS and R-hat say nothing of its quality, which
        `Unmixing.diagnose` is for.

    Raises
    ------
    ImportError
        If ArviZ is not installed, or its version has no InferenceData.
    TypeError, ValueError
        If there is no posterior, or pixels are not as described.
    """
    cubes = result._need_posterior("to_arviz").transpose(*DIMS)
    _arviz()
    num_samples = positive_int(num_samples, "num_samples", minimum=2)
    seed = positive_int(seed, "seed", minimum=0)
    numbers = pixel_numbers(pixels, cubes.sizes["y"], cubes.sizes["x"])
    observed = chosen_spectra(cubes, numbers)
    draws = _draws(result, cubes, observed, numbers, num_samples, seed)
    dates = {}
    if "time" in observed.coords:  # a result may be at some of the dates of its images
        dates = {"time": result.dataset["time"].values}
    groups = {"posterior": draws, "observed_data": observed.rename("reflectance")}
    attrs = attributes(result, seed, _SAMPLING)
    return inference_data({n: a.sel(dates).to_dataset() for n, a in groups.items()}, attrs)


def inference_data(groups: dict[str, xr.Dataset], attrs: dict[str, Any]) -> Any:
    """ArviZ's object of groups, all with the same attributes."""
    named = {name: group.assign_attrs(attrs) for name, group in groups.items()}
    return _arviz().InferenceData(**named, attrs=attrs)


def _arviz() -> Any:
    arviz = need("arviz", "arviz")
    if not hasattr(arviz, "InferenceData"):
        raise ImportError(
            f"expected an ArviZ with InferenceData, which version {arviz.__version__} does not have: "
            'pip install "pyro-unmix[arviz]"'
        )
    return arviz


def pixel_numbers(pixels: Any, height: int, width: int) -> np.ndarray:
    """Numbers ``y width + x`` of chosen pixels, in the order given; of a mask row by row.

    Parameters
    ----------
    pixels : boolean array (height, width), integers (n, 2), or integers (n,)
        A mask; positions (y, x); or numbers.
    height, width : int

    Raises
    ------
    TypeError
        If they are neither booleans nor integers.
    ValueError
        If there is none, one is outside the image or chosen twice, or the shape is another.
    """
    if isinstance(pixels, xr.DataArray) and {"y", "x"} <= set(pixels.dims):
        pixels = pixels.transpose("y", "x", ...)
    try:
        chosen = np.asarray(pixels)
    except ValueError:
        raise ValueError(_expected(height, width) + ", got rows of different lengths") from None
    if chosen.dtype != bool and not np.issubdtype(chosen.dtype, np.integer) and chosen.size:
        raise TypeError(_expected(height, width) + f", got elements of type {chosen.dtype}")
    if chosen.dtype == bool:
        if chosen.shape != (height, width):
            raise ValueError(_expected(height, width) + f", got a mask of shape {chosen.shape}")
        numbers = np.flatnonzero(chosen)
    elif chosen.ndim == 1:
        _check_range(chosen, height * width, "numbers")
        numbers = chosen.astype(int)
    elif chosen.ndim == 2 and chosen.shape[1] == 2:
        _check_range(chosen[:, 0], height, "rows")
        _check_range(chosen[:, 1], width, "columns")
        numbers = np.ravel_multi_index(tuple(chosen.T.astype(int)), (height, width))
    else:
        raise ValueError(_expected(height, width) + f", got an array of shape {chosen.shape}")
    if not numbers.size:
        raise ValueError(_expected(height, width) + ", got none: choose at least one pixel")
    values, count = np.unique(numbers, return_counts=True)
    if (count > 1).any():
        y, x = divmod(int(values[count > 1][0]), width)
        raise ValueError(f"pixels must be chosen once each, got (y, x) = ({y}, {x}) more than once")
    return numbers


def _expected(height: int, width: int) -> str:
    return (
        f"pixels must be (y, x) pairs, a boolean mask of shape ({height}, {width}), or numbers from 0 to "
        f"{height * width - 1}"
    )


def _check_range(values: np.ndarray, size: int, what: str) -> None:
    outside = values[(values < 0) | (values >= size)]
    if outside.size:
        raise ValueError(f"pixels must have {what} from 0 to {size - 1}, got {outside[0]}")


def chosen_spectra(cubes: xr.DataArray, numbers: np.ndarray) -> xr.DataArray:
    """Reflectance (pixel, time, wavelength) of the chosen pixels."""
    y, x = np.unravel_index(numbers, (cubes.sizes["y"], cubes.sizes["x"]))
    places = {"y": xr.DataArray(y, dims="pixel"), "x": xr.DataArray(x, dims="pixel")}
    chosen = cubes.isel(places).transpose("pixel", "time", "wavelength")
    labels = {"pixel": numbers}
    for name, position in (("y", y), ("x", x)):
        if name not in chosen.coords:
            labels[name] = ("pixel", position)  # type: ignore[assignment]
    kept = ("time", "wavelength", "y", "x")
    unused = [name for name in chosen.coords if name not in kept]
    return chosen.drop_vars(unused).assign_coords(labels)


def _draws(
    result: Unmixing,
    cubes: xr.DataArray,
    observed: xr.DataArray,
    numbers: np.ndarray,
    num_samples: int,
    seed: int,
) -> xr.DataArray:
    """Abundances (chain, draw, pixel, time, endmember): the draws that `Unmixing.sample` has at these pixels."""
    # In their order, of which the parameters of Pyro's guides are, and back.
    order = np.argsort(numbers)
    rows = observed.values[order].transpose(1, 0, 2)
    few = xr.DataArray(rows[:, np.newaxis], dims=DIMS)  # one row
    place = numbers[order], cubes.sizes["y"] * cubes.sizes["x"]
    parts = iterate_draws(
        result.model, result.guide, few, num_samples, seed, result.store, place,
        estimate=result.estimate, decode=result.decode,
    )  # fmt: skip
    values = np.concatenate([part["draws"].cpu().numpy() for _, part in parts], axis=1)
    values = values[:, order.argsort()]
    coords = {name: c for name, c in observed.coords.items() if "wavelength" not in c.dims}
    labels = {"chain": [0], "draw": np.arange(len(values))}
    return xr.DataArray(
        values[np.newaxis],
        dims=("chain", "draw", "pixel", "time", "endmember"),
        coords={**coords, **labels, "endmember": result.abundances["endmember"].values},
        name="abundances",
        attrs={"long_name": "posterior draws of the abundances", "units": "1"},
    )


def attributes(result: Unmixing, seed: int, sampling: str) -> dict[str, Any]:
    """What ArviZ's schema names, and where the draws come from."""
    # The version belongs to the package, which imports this module.
    version = sys.modules["pyro_unmix"].__version__
    guide = result.guide
    return {
        "inference_library": "pyro_unmix",
        "inference_library_version": version,
        "method": result.method,
        "guide": getattr(guide, "__name__", type(guide).__name__),
        "estimate": repr(result.estimate),
        "seed": seed,
        "sampling": sampling,
    }
