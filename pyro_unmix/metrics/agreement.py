"""Results of the same images side by side: what each says, and how far they are from each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.data.names import material_names
from pyro_unmix.posterior.residuals import has_rmse
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.start.extraction import match_endmembers

_DIMS = ("time", "y", "x", "endmember")


def side_by_side(results: Mapping[str, Unmixing]) -> xr.Dataset:
    """What several methods say of the same images, over the pixel-dates of which all of them know the abundances.

    With abundances ``a_r`` of result r, and N such pixel-dates::

        cover_r = sum_n a_rn / N,   difference_rs = sqrt(sum_n ||a_rn - a_sn||^2 / (N P))

    Differences are not errors: where they are larger than what can be accepted, images and spectra do not decide the
    question. `compare` ranks results with a posterior by what they predict.

    Parameters
    ----------
    results : mapping of name to Unmixing
        Of any methods, with the same images and number of materials. Materials go together by their names where all
        results have the same ones, else by the angles between their spectra.

    Returns
    -------
    Dataset (fit, other, endmember)
        ``cover`` (fit, endmember); ``rmse`` (fit), the median of the RMSE of the spectra, and ``rmse_90``, what 90 %
        are below, NaN where a result has none; ``difference`` (fit, other); ``compared``, the share of pixel-dates.
        The order and names of the materials are those of the first result.

    Raises
    ------
    TypeError, ValueError
        If there are not two results, they are of different sizes or numbers of materials, know no pixel in common, or
        have other names of materials and one has no spectra by which they could go together.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .5], [.2, .4], [.3, .3]])
    >>> cubes = 0.5 * np.array([[[.25, .75], [1, 0]]]) @ M.T
    >>> results = {name: getattr(pu.methods, name)(cubes, endmembers=M, progress=False) for name in ("fcls", "nnls")}
    >>> pu.metrics.side_by_side(results)["cover"].values.round(2).tolist()
    [[0.91, 0.09], [0.62, 0.38]]
    """
    _check(results)
    (first_name, first), *others = results.items()
    parts = {first_name: first.abundances.transpose(*_DIMS).to_numpy()}
    for name, result in others:
        order = _order(result, first, name, first_name)
        parts[name] = result.abundances.transpose(*_DIMS).to_numpy()[..., order]
        if parts[name].shape != parts[first_name].shape:
            raise ValueError(
                f"expected results of the same images, got {parts[name].shape[:3]} (time, y, x) in {name!r} and "
                f"{parts[first_name].shape[:3]} in {first_name!r}"
            )
    known = np.logical_and.reduce([np.isfinite(part).all(axis=-1) for part in parts.values()])
    known &= np.logical_and.reduce(
        [r.valid.transpose(*_DIMS[:3]).to_numpy() for r in results.values()]
    )
    if not known.any():
        raise ValueError("the results know no pixel in common: compare results of the same images")
    values = np.stack([part[known] for part in parts.values()])
    errors = [_errors(result, known) for result in results.values()]
    differences = np.sqrt(np.square(values[:, None] - values[None]).mean(axis=(2, 3)))
    return xr.Dataset(
        {
            "cover": (("fit", "endmember"), values.mean(axis=1)),
            "rmse": ("fit", [np.quantile(e, 0.5) for e in errors]),
            "rmse_90": ("fit", [np.quantile(e, 0.9) for e in errors]),
            "difference": (("fit", "other"), differences),
            "compared": float(known.mean()),
        },
        coords={
            "fit": list(results),
            "other": list(results),
            "endmember": material_names(first.abundances),
        },
    )


def _check(results: Mapping[str, Unmixing]) -> None:
    if not isinstance(results, Mapping):
        raise TypeError(
            f"results must map names to results, such as {{'fcls': fcls(...)}}, got {type(results).__name__}"
        )
    if len(results) < 2:
        raise ValueError(f"expected two results at least, got {len(results)}")
    for name, result in results.items():
        if not isinstance(result, Unmixing):
            raise TypeError(f"results must hold what a method returned, got {result!r} as {name!r}")


def _order(result: Unmixing, first: Unmixing, ours_name: str, theirs_name: str) -> np.ndarray:
    """Positions in a result of the materials of the first one."""
    ours, theirs = material_names(result.abundances), material_names(first.abundances)
    if len(ours) != len(theirs):
        raise ValueError(
            f"expected results with as many materials, got {len(ours)} ({', '.join(ours)}) and {len(theirs)} "
            f"({', '.join(theirs)})"
        )
    labels: list[Any] = first.abundances["endmember"].to_numpy().tolist()
    labelled = all(isinstance(label, str) for label in labels)
    if labelled and set(ours) == set(theirs) and len(set(ours)) == len(ours):
        return np.array([ours.index(name) for name in theirs])
    for name, one in ((ours_name, result), (theirs_name, first)):
        if not one.has_endmembers:
            raise ValueError(
                f"materials of other names go together by their spectra, and {name!r} knows none: give both results "
                "the names of the same materials, result.dataset.coords['endmember'] = [...]"
            )
    return np.asarray(match_endmembers(result.reference_endmembers, first.reference_endmembers))


def _errors(result: Unmixing, known: np.ndarray) -> np.ndarray:
    if not has_rmse(result):
        return np.array([np.nan])
    return np.asarray(result.rmse.transpose(*_DIMS[:3]).to_numpy()[known])
