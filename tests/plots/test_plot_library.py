"""Pictures of libraries."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from plot_cases import legend_texts

from pyro_unmix import plots


def library() -> xr.DataArray:
    nm = np.linspace(2400.0, 450.0, 40)
    spectra = np.random.default_rng(0).uniform(0.1, 0.6, size=(40, 9))
    spectra[10:12] = np.nan
    return xr.DataArray(
        spectra,
        dims=("wavelength", "endmember"),
        coords={"wavelength": nm, "label": ("endmember", list("aabababac"))},
    )


def test_every_class_has_its_spectra_and_their_mean() -> None:
    given = library()
    figure = plots.plot_library(given, num_spectra=3)
    assert [ax.get_title() for ax in figure.axes] == [
        "a: 3 of 5 spectra",
        "b: 3 spectra",
        "c: 1 spectrum",
    ]
    order = np.argsort(given["wavelength"].values)
    for ax, label in zip(figure.axes, "abc", strict=True):
        own = given.values[:, given["label"].values == label][order]
        *thin, mean = [np.asarray(line.get_ydata()) for line in ax.lines]
        assert len(thin) == min(own.shape[1], 3)
        chosen = [
            np.flatnonzero([np.array_equal(s, t, equal_nan=True) for s in own.T]).item()
            for t in thin
        ]
        assert len(set(chosen)) == len(thin)
        np.testing.assert_allclose(mean, own.mean(1))
        assert np.isnan(mean).sum() == 2
        np.testing.assert_array_equal(ax.lines[0].get_xdata(), given["wavelength"].values[order])
        assert ax.get_ylim() == figure.axes[0].get_ylim()
    assert legend_texts(figure) == ["spectra of the library", "mean of the class"]
    assert figure.axes[0].get_ylabel() == "reflectance" and figure.axes[0].get_xlabel()


def test_it_draws_into_given_axes() -> None:
    figure, axes = plt.subplots(1, 3)
    try:
        assert plots.plot_library(library(), axes=axes) is figure
        with pytest.raises(ValueError, match="expected 3 axes for this picture, got 2"):
            plots.plot_library(library(), axes=axes[:2])
    finally:
        plt.close(figure)


def test_what_is_no_library_is_refused() -> None:
    with pytest.raises(ValueError, match="coordinate label along endmember"):
        plots.plot_library(library().drop_vars("label"))
    with pytest.raises(ValueError, match="num_spectra must be at least 1"):
        plots.plot_library(library(), num_spectra=0)
