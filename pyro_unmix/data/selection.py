"""Which spectra of a library stand for their classes: fewer spectra, fewer models of `mesma`.

Every spectrum models every other one alone, with shade (`square_array`); what comes of it says how well it stands for
its own class and how often it is taken for another (`library_scores`, `select_from_library`), or which set of spectra
tells the classes apart (`select_iteratively`).
"""

from __future__ import annotations

import logging

import numpy as np
import xarray as xr

from pyro_unmix.data.libraries import classes_of, missing_bands, order_of
from pyro_unmix.ops.checks import in_range, positive_int

logger = logging.getLogger(__name__)

#: What `select_from_library` sorts by: name -> scores, each with its sign, the first one first.
ORDERS: dict[str, tuple[tuple[str, int], ...]] = {
    "ear": (("ear", 1),),
    "masa": (("masa", 1),),
    "cob": (("in_cob", -1), ("out_cob", 1), ("ear", 1)),
}


def square_array(
    library: xr.DataArray, *, min_fraction: float = -0.05, max_fraction: float = 1.05
) -> xr.Dataset:
    """Every spectrum of a library modelled by every single one of it, and shade.

    Spectrum j by spectrum i, with L bands; shade has no light::

        f_ij = x_i'x_j / x_i'x_i,  set to the nearer limit where it leaves them
        RMSE_ij = sqrt(||x_j - f_ij x_i||^2 / L),   angle_ij = arccos(x_i'x_j / (|x_i| |x_j|))

    Parameters
    ----------
    library : DataArray (wavelength, endmember) with the coordinate ``label``
        Missing bands, NaN in all spectra, do not count. Not changed.
    min_fraction, max_fraction : float
        Limits, at most 0 and at least 1.

    Returns
    -------
    Dataset (model, spectrum)
        ``rmse`` (reflectance), ``angle`` (radians), ``fraction`` and, bool, ``within``: whether the fraction kept the
        limits by itself.

    Raises
    ------
    TypeError, ValueError
        If the library or a limit is not as described, or a spectrum is zero in all bands.

    Examples
    --------
    >>> import xarray as xr, pyro_unmix as pu
    >>> library = xr.DataArray([[.1, .2], [.2, .1]], dims=("wavelength", "endmember"),
    ...                        coords={"label": ("endmember", ["a", "b"])})
    >>> pu.data.square_array(library)["fraction"].values.round(2).tolist()
    [[1.0, 0.8], [0.8, 1.0]]

    References
    ----------
    Roberts, Halligan, Dennison, VIPER Tools user manual, 2007.
    """
    in_range(min_fraction, "min_fraction", high=0)
    in_range(max_fraction, "max_fraction", low=1)
    spectra, labels = _used(library)
    gram = spectra.T @ spectra
    energy = gram.diagonal()
    fraction = gram / energy[:, None]
    within = (fraction >= min_fraction) & (fraction <= max_fraction)
    fraction = np.clip(fraction, min_fraction, max_fraction)
    # not from the Gram matrix, in which the error of like spectra drowns
    rmse = np.stack(
        [
            np.sqrt(np.square(spectra - np.outer(model, shares)).mean(axis=0))
            for model, shares in zip(spectra.T, fraction, strict=True)
        ]
    )
    unit = spectra / np.sqrt(energy)
    # 2 atan2(|u - v|, |u + v|) is exact for small angles, where the cosine is not
    apart = np.stack([np.linalg.norm(unit - u[:, None], axis=0) for u in unit.T])
    along = np.stack([np.linalg.norm(unit + u[:, None], axis=0) for u in unit.T])
    dims = ("model", "spectrum")
    names = _names(library)
    return xr.Dataset(
        {
            "fraction": (dims, fraction),
            "within": (dims, within),
            "rmse": (dims, rmse, {"units": "1"}),
            "angle": (dims, 2 * np.arctan2(apart, along), {"units": "rad"}),
        },
        coords={
            "model": names,
            "spectrum": names,
            "label": ("spectrum", labels),
        },
    )


def library_scores(
    library: xr.DataArray,
    *,
    min_fraction: float = -0.05,
    max_fraction: float = 1.05,
    max_rmse: float = 0.025,
) -> xr.Dataset:
    """How well every spectrum of a library stands for its class: EAR, MASA and CoB.

    Of spectrum i in class c with n_c spectra, by `square_array`::

        EAR_i  = sum_{j in c, j != i} RMSE_ij / (n_c - 1)
        MASA_i = sum_{j in c, j != i} angle_ij / (n_c - 1)
        in_CoB_i, out_CoB_i = how many other spectra of c, and of other classes, it models within the limits

    Parameters
    ----------
    library, min_fraction, max_fraction
        As in `square_array`.
    max_rmse : float
        Largest RMSE of a model that counts in CoB, reflectance.

    Returns
    -------
    Dataset (endmember)
        ``ear`` (reflectance), ``masa`` (radians), both NaN in a class of one spectrum; ``in_cob``, ``out_cob``.

    Raises
    ------
    TypeError, ValueError
        As `square_array`, or if `max_rmse` is not positive.

    Examples
    --------
    >>> import xarray as xr, pyro_unmix as pu
    >>> library = xr.DataArray([[.1, .12, .3], [.2, .18, .1]], dims=("wavelength", "endmember"),
    ...                        coords={"label": ("endmember", ["a", "a", "b"])})
    >>> pu.data.library_scores(library)["ear"].values.round(3).tolist()
    [0.019, 0.02, nan]

    References
    ----------
    Dennison, Roberts, "Endmember selection for multiple endmember spectral mixture analysis using endmember average
    RMSE", Remote Sensing of Environment 87, 2003 (EAR); Dennison, Halligan, Roberts, "A comparison of error metrics and
    constraints for multiple endmember spectral mixture analysis and spectral angle mapper", Remote Sensing of
    Environment 93, 2004 (MASA); Roberts et al., "Evaluation of the potential of Hyperion for fire danger assessment by
    comparison to the Airborne Visible/Infrared Imaging Spectrometer", IEEE TGRS 41(6), 2003 (CoB).
    """
    in_range(max_rmse, "max_rmse", low=0, open_low=True)
    square = square_array(library, min_fraction=min_fraction, max_fraction=max_fraction)
    labels = square["label"].to_numpy()
    same = labels[:, None] == labels
    others = same & ~np.eye(len(labels), dtype=bool)
    counts = others.sum(axis=1)
    modelled = square["within"].to_numpy() & (square["rmse"].to_numpy() <= max_rmse)
    means = {
        name: np.where(others, square[of].to_numpy(), 0).sum(axis=1)
        / np.where(counts > 0, counts, np.nan)
        for name, of in (("ear", "rmse"), ("masa", "angle"))
    }
    return xr.Dataset(
        {
            "ear": ("endmember", means["ear"], {"units": "1"}),
            "masa": ("endmember", means["masa"], {"units": "rad"}),
            "in_cob": ("endmember", (modelled & others).sum(axis=1)),
            "out_cob": ("endmember", (modelled & ~same).sum(axis=1)),
        },
        coords={"endmember": _names(library), "label": ("endmember", labels)},
    )


def select_from_library(
    library: xr.DataArray,
    num_spectra: int = 1,
    *,
    by: str = "ear",
    min_fraction: float = -0.05,
    max_fraction: float = 1.05,
    max_rmse: float = 0.025,
) -> xr.DataArray:
    """The spectra of each class that stand for it best, by one of the scores of `library_scores`.

    Parameters
    ----------
    library, min_fraction, max_fraction, max_rmse
        As in `library_scores`.
    num_spectra : int
        Of each class; of a smaller class all.
    by : {"ear", "masa", "cob"}
        The smallest EAR, the smallest MASA, or the largest in-CoB, of equal ones the smallest out-CoB, then EAR.

    Returns
    -------
    DataArray (wavelength, endmember)
        The chosen spectra in the order of the library.

    Raises
    ------
    TypeError, ValueError
        As `library_scores`, or if `num_spectra` is no positive integer or `by` another text.

    Examples
    --------
    >>> import xarray as xr, pyro_unmix as pu
    >>> library = xr.DataArray([[.1, .15, .2, .3], [.2, .22, .2, .1]], dims=("wavelength", "endmember"),
    ...                        coords={"label": ("endmember", ["a", "a", "a", "b"])})
    >>> pu.data.select_from_library(library).values.tolist()
    [[0.15, 0.3], [0.22, 0.1]]

    References
    ----------
    See `library_scores`.
    """
    positive_int(num_spectra, "num_spectra")
    if by not in ORDERS:
        raise ValueError(f"by must be one of {', '.join(map(repr, ORDERS))}, got {by!r}")
    scores = library_scores(
        library, min_fraction=min_fraction, max_fraction=max_fraction, max_rmse=max_rmse
    )
    labels = scores["label"].to_numpy()
    keys = [sign * scores[name].to_numpy() for name, sign in ORDERS[by]]
    order = np.lexsort(keys[::-1])
    chosen = np.concatenate([order[labels[order] == c][:num_spectra] for c in order_of(labels)])
    return library.isel(endmember=np.sort(chosen))


def select_iteratively(
    library: xr.DataArray,
    *,
    min_fraction: float = -0.05,
    max_fraction: float = 1.05,
    max_rmse: float = 0.025,
) -> xr.DataArray:
    """The set of spectra that tells the classes of a library apart best, grown by one spectrum at a time.

    A set gives every spectrum of the library the class of that model of the set (`square_array`) which has the smallest
    RMSE within the limits, or none. The spectrum that raises Cohen's kappa of these classes most is added; then those
    are removed without which kappa is larger; until nothing raises it::

        kappa = (p_o - p_e) / (1 - p_e),   p_o = share of right classes,   p_e = sum_c n_c m_c / S^2

    with n_c spectra of class c, of which S in all, and m_c that were given it. Other than `select_from_library` it
    decides itself how many spectra a class needs; classes that others model as well may have none, which a warning
    tells. The cost grows with the third power of their number: 0.1 CPU s for 210 spectra of three
    classes, of which 94 are kept.

    Parameters
    ----------
    library, min_fraction, max_fraction, max_rmse
        As in `library_scores`; of two classes at least.

    Returns
    -------
    DataArray (wavelength, endmember)
        The chosen spectra in the order of the library; its attribute ``kappa`` is what they reach.

    Raises
    ------
    TypeError, ValueError
        As `library_scores`, or if there is one class only.

    Examples
    --------
    >>> import xarray as xr, pyro_unmix as pu
    >>> library = xr.DataArray([[.1, .12, .3, .28], [.2, .18, .1, .12]], dims=("wavelength", "endmember"),
    ...                        coords={"label": ("endmember", ["a", "a", "b", "b"])})
    >>> chosen = pu.data.select_iteratively(library)
    >>> chosen["label"].values.tolist(), chosen.attrs["kappa"]
    (['a', 'b'], 1.0)

    References
    ----------
    Schaaf, Dennison, Fryer, Roth, Roberts, "Mapping plant functional types at multiple spatial resolutions using
    imaging spectrometer data", GIScience & Remote Sensing 48(3), 2011; Roth, Dennison, Roberts, "Comparing endmember
    selection techniques for accurate mapping of plant species and land cover using imaging spectrometer data", Remote
    Sensing of Environment 127, 2012.
    """
    in_range(max_rmse, "max_rmse", low=0, open_low=True)
    square = square_array(library, min_fraction=min_fraction, max_fraction=max_fraction)
    names = order_of(square["label"].to_numpy())
    if len(names) < 2:
        raise ValueError(
            f"expected a library of two classes or more, got {names[0]!r} alone: nothing is to be told apart, take "
            "select_from_library"
        )
    truth = np.array([names.index(label) for label in square["label"].to_numpy().tolist()])
    rmse = square["rmse"].to_numpy()
    cost = np.where(square["within"].to_numpy() & (rmse <= max_rmse), rmse, np.inf)
    chosen, best = list[int](), -np.inf
    while True:
        classes, costs = _classified(cost, truth, chosen)
        kappas = _kappa(np.where(cost < costs, truth[:, None], classes), truth, len(names))
        kappas[chosen] = -np.inf
        added = int(kappas.argmax())
        if not kappas[added] > best:
            break
        chosen, best = [*chosen, added], float(kappas[added])
        while len(chosen) > 1:
            kappas = _kappa(_without_each(cost, truth, chosen), truth, len(names))
            if not kappas.max() > best:
                break
            chosen.pop(int(kappas.argmax()))
            best = float(kappas.max())
    lacking = [name for number, name in enumerate(names) if number not in truth[chosen]]
    if lacking:
        logger.warning(
            "no spectrum of %s was chosen: others model these classes as well, or none does within the limits",
            ", ".join(lacking),
        )
    return library.isel(endmember=np.sort(chosen)).assign_attrs(kappa=best)


def _classified(
    cost: np.ndarray, truth: np.ndarray, chosen: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Of every spectrum its class by the chosen models, -1 for none, and the RMSE."""
    if not chosen:
        return np.full(len(truth), -1), np.full(len(truth), np.inf)
    part = cost[chosen]
    costs = part.min(axis=0)
    return np.where(np.isfinite(costs), truth[chosen][part.argmin(axis=0)], -1), costs


def _without_each(cost: np.ndarray, truth: np.ndarray, chosen: list[int]) -> np.ndarray:
    """Classes (k, S) by k chosen models without the first, without the second, ...: those of the second best."""
    part, columns = cost[chosen], np.arange(len(truth))
    best, classes = part.argmin(axis=0), []
    for _ in range(2):
        nearest = part.argmin(axis=0)
        known = np.isfinite(part[nearest, columns])
        classes.append(np.where(known, truth[chosen][nearest], -1))
        part[nearest, columns] = np.inf
    return np.where(best == np.arange(len(chosen))[:, None], classes[1], classes[0])


def _kappa(given: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Cohen's kappa of each row of classes (n, S)."""
    size = len(truth)
    right = (given == truth).mean(axis=1)
    chance = sum(
        (truth == c).sum() * (given == c).sum(axis=1) / size**2 for c in range(num_classes)
    )
    return (right - chance) / (1 - chance)


def _used(library: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Spectra (L, S) in the bands that are there, and their classes (S,)."""
    if isinstance(library, xr.DataArray) and {"wavelength", "endmember"} == set(library.dims):
        library = library.isel(wavelength=~missing_bands(library))
    spectra, labels = classes_of(library)
    dark = np.flatnonzero(~spectra.any(axis=0))
    if dark.size:
        raise ValueError(
            f"spectra must not be zero in all bands, got spectrum {dark[0]} of class {labels[dark[0]]}: shade is in "
            "every model, remove it"
        )
    return spectra, labels


def _names(library: xr.DataArray) -> np.ndarray:
    if "endmember" in library.coords:
        return library["endmember"].to_numpy()
    return np.arange(library.sizes["endmember"])
