"""Tables of spectra by scikit-learn's ``fit`` and ``transform`` (extra ``sklearn``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.methods.members import solve
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.extras import need
from pyro_unmix.ops.least_squares import Fractions
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.start.extraction import vca

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    need("sklearn.base", "sklearn")
    raise

_BLOCK = 50_000  # spectra at once


class Unmixer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Abundances of the spectra of a table, as a transformer of scikit-learn.

    `fit` finds the spectra of P materials in the rows of a table, ``y_n = M a_n + noise`` with ``a_n >= 0`` and
    ``1'a_n = 1``; `transform` solves for the fractions of other rows. Rows have neither a place nor a date: images are
    for `unmix` and the other methods, which know their neighbours.

    Parameters
    ----------
    num_endmembers : int
        P, at least 2, at most the number of bands and of spectra.
    endmembers : array (P, L), optional
        Spectra that are known, a row each as in the tables; then `num_endmembers` does not count. Default extracted.
    method : callable, optional
        A method of `pyro_unmix.methods`, which fits the rows as an image of one column, such as `unmix`; rows must then
        be reflectance. Other rows are predicted by its posterior; without one the method is called again, with the
        spectra that it found, and must take these by ``endmembers=``. Default: `vca`, and least squares with fractions
        that are not negative and sum to one, of any numbers.
    seed : int
        Of the extraction, or of `method`.

    Attributes
    ----------
    components_ : array (P, L)
        The spectra of the materials, a row each.
    n_features_in_ : int
        L.
    result_ : Unmixing or None
        What `method` returned, with draws and intervals of the rows that were fitted.

    Raises
    ------
    ImportError
        Without scikit-learn.
    TypeError, ValueError
        If the rows are no numbers, or too few, or an argument is not as described.

    Notes
    -----
    Passes scikit-learn's `check_estimator` with the default `method`. Methods that read reflectance refuse the tables
    of these checks, whose numbers are none.

    References
    ----------
    Nascimento, Bioucas-Dias, "Vertex component analysis", IEEE TGRS 43(4), 2005; Heinz, Chang, "Fully constrained least
    squares linear spectral mixture analysis", IEEE TGRS 39(3), 2001.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .2, .3], [.5, .4, .3]])
    >>> fractions = np.array([[.25, .75], [1, 0], [0, 1], [.5, .5]])
    >>> unmixer = pu.Unmixer(2).fit(fractions @ M)
    >>> order = np.argsort(unmixer.components_[:, 0])
    >>> unmixer.transform(fractions @ M)[:, order].round(2).tolist()
    [[0.25, 0.75], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    """

    def __init__(
        self,
        num_endmembers: int = 2,
        *,
        endmembers: ArrayLike | None = None,
        method: Callable[..., Unmixing] | None = None,
        seed: int = 0,
    ) -> None:
        self.num_endmembers = num_endmembers
        self.endmembers = endmembers
        self.method = method
        self.seed = seed

    @one_thread()
    def fit(self, X: Any, y: Any = None) -> Unmixer:
        """Find the spectra of the materials.

        Parameters
        ----------
        X : array (n, L)
        y : ignored

        Returns
        -------
        Unmixer
            Itself.
        """
        rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=2, ensure_min_features=2)
        seed = positive_int(self.seed, "seed", minimum=0)
        given = self._given(rows.shape[1])
        count = len(given) if given is not None else self._count(rows)
        self.result_ = None
        if self.method is not None and not callable(self.method):
            name = self.method if isinstance(self.method, str) else "unmix"
            raise TypeError(
                f"method must be a function of pyro_unmix.methods, got {self.method!r}: pass pu.methods.{name}"
            )
        if self.method is not None:
            spectra = None if given is None else given.T
            self.result_ = self.method(
                _image(rows), count, endmembers=spectra, seed=seed, progress=False
            )
            given = self.result_.reference_endmembers.transpose("endmember", "wavelength").values
        elif given is None:
            given = vca(rows, count, seed=seed).T
        self.components_ = np.array(given, dtype=np.float64)
        return self

    @one_thread()
    def transform(self, X: Any) -> np.ndarray:
        """The fractions of each row.

        Parameters
        ----------
        X : array (n, L)

        Returns
        -------
        array (n, P)
        """
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        if self.result_ is not None and self.result_.model is not None:
            return _rows_of(self.result_.predict(_image(rows)))
        if self.result_ is not None and self.method is not None:
            return _rows_of(
                self.method(
                    _image(rows), len(self.components_), endmembers=_spectra_of(self.result_),
                    seed=self.seed, progress=False,
                )
            )  # fmt: skip
        parts = range(0, len(rows), _BLOCK)
        found = [solve(rows[i : i + _BLOCK], self.components_.T, Fractions()) for i in parts]
        return np.concatenate(found)

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """The spectra (n, L) of fractions (n, P), ``A M``."""
        check_is_fitted(self)
        fractions = np.asarray(X, dtype=np.float64)
        if fractions.ndim != 2 or fractions.shape[1] != len(self.components_):
            raise ValueError(
                f"expected fractions of shape (n, {len(self.components_)}), a column per material, got "
                f"{fractions.shape}: pass what transform returned"
            )
        return np.asarray(fractions @ self.components_)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _given(self, num_bands: int) -> np.ndarray | None:
        if self.endmembers is None:
            return None
        spectra = np.asarray(self.endmembers, dtype=np.float64)
        if spectra.ndim != 2 or spectra.shape[1] != num_bands or len(spectra) < 2:
            raise ValueError(
                f"endmembers must be two spectra or more of {num_bands} bands, a row each, got the shape "
                f"{spectra.shape}: transpose them if they are columns"
            )
        if not np.isfinite(spectra).all():
            raise ValueError(
                f"endmembers must be finite, got NaN or infinity in {(~np.isfinite(spectra)).any(1).sum()} of "
                f"{len(spectra)} spectra: leave out the bands that they lack, also of the rows"
            )
        return spectra

    def _count(self, rows: np.ndarray) -> int:
        count = positive_int(self.num_endmembers, "num_endmembers", minimum=2)
        if count > min(rows.shape):
            raise ValueError(
                f"num_endmembers is {count}, but n_samples = {rows.shape[0]} and n_features = {rows.shape[1]}: "
                "pass more spectra or bands, or fewer materials"
            )
        return count


def _rows_of(result: Unmixing) -> np.ndarray:
    maps = result.abundances.isel(time=0, x=0).transpose("y", "endmember")
    return np.asarray(maps, dtype=np.float64)


def _spectra_of(result: Unmixing) -> np.ndarray | xr.DataArray:
    """What a method that trains nothing found, to call it again: a library where it took single spectra."""
    dataset = result.to_dataset()
    if "library" not in dataset:
        return result.reference_endmembers.transpose("wavelength", "endmember").values
    library = dataset["library"].transpose("wavelength", "spectrum")
    if library.sizes["spectrum"] == dataset.sizes["endmember"]:
        return library.values
    labels = ("endmember", library["label"].values)
    return xr.DataArray(library.values, dims=("wavelength", "endmember"), coords={"label": labels})


def _image(rows: np.ndarray) -> np.ndarray:
    """An image (1, n, 1, L) of one column."""
    return rows[np.newaxis, :, np.newaxis]
