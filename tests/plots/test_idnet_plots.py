"""Pictures of nonlinearity and latents: what is drawn is compared with numbers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from pyro_unmix import plots
from pyro_unmix.posterior import degree_of_nonlinearity

NAMES = ["water", "tree", "soil"]


def make_result(num_dates: int = 1, components: int = 2, **extra: Any) -> SimpleNamespace:
    """Bilinear pixels ``M a + 0.5 m_0 m_1``, with the attributes of a result."""
    rng = np.random.default_rng(0)
    shape = (num_dates, 4, 5)
    a = rng.dirichlet(np.ones(3), size=shape)
    m = rng.uniform(0.1, 0.8, size=(*shape, 6, 3))
    y = np.einsum("tyxlp,tyxp->tyxl", m, a) + 0.5 * m[..., 0] * m[..., 1]
    labels = {"endmember": NAMES}
    z = rng.normal(size=(*shape, components, 3))
    variability = xr.DataArray(z, dims=("time", "y", "x", "component", "endmember"), coords=labels)
    spectra, pixels = ("y", "x", "wavelength", "endmember"), ("y", "x", "wavelength")
    return SimpleNamespace(
        abundances=xr.DataArray(a, dims=("time", "y", "x", "endmember"), coords=labels),
        endmembers=lambda time: xr.DataArray(m[time], dims=spectra, coords=labels),
        reconstruct=lambda time: xr.DataArray(y[time], dims=pixels),
        dataset=xr.Dataset({"variability": variability}),
        arrays=(a, m, y, z),
        **extra,
    )


def by_hand(result: SimpleNamespace, time: int) -> np.ndarray:
    _, m, y, _ = result.arrays
    out = np.empty((4, 5))
    for i, j in np.ndindex(out.shape):
        stream = 0.5 * m[time, i, j, :, 0] * m[time, i, j, :, 1]
        linear = y[time, i, j] - stream
        out[i, j] = np.sqrt((stream**2).sum()) / (
            np.sqrt((stream**2).sum()) + np.sqrt((linear**2).sum())
        )
    return out


def images(figure: Figure) -> list[np.ndarray]:
    return [np.ma.getdata(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def test_the_degree_of_nonlinearity_is_the_share_of_the_nonlinear_stream() -> None:
    result = make_result(2)
    for time in (0, 1):
        degree = degree_of_nonlinearity(result, time)
        assert degree.dims == ("y", "x") and "endmember" not in degree.coords
        np.testing.assert_allclose(degree, by_hand(result, time), rtol=1e-10)
    turned = SimpleNamespace(**vars(result))
    turned.endmembers = lambda time: result.endmembers(time).transpose()
    np.testing.assert_allclose(degree_of_nonlinearity(turned), by_hand(result, 0))


def test_linear_and_black_pixels_have_degree_zero() -> None:
    result = make_result()
    a, m, _, _ = result.arrays
    dims = ("y", "x", "wavelength")
    for scale in (1.0, 0.0):
        result.endmembers = lambda time, s=scale: xr.DataArray(
            s * m[0], dims=("y", "x", "wavelength", "endmember")
        )
        linear = scale * (m[0] @ a[0][..., None])[..., 0]
        result.reconstruct = lambda time, y=linear: xr.DataArray(y, dims=dims)
        assert (degree_of_nonlinearity(result).values == 0).all()
        assert plots.plot_nonlinearity(result).axes[0].images[0].get_clim() == (0.0, 1.0)


def test_nonlinearity_is_drawn_date_by_date() -> None:
    result = make_result(3)
    figure = plots.plot_nonlinearity(result, dates=[0, 2])
    drawn = images(figure)
    assert len(drawn) == 2
    for image, time in zip(drawn, (0, 2), strict=True):
        np.testing.assert_allclose(image, by_hand(result, time))
    largest = max(by_hand(result, t).max() for t in (0, 2))
    assert figure.axes[0].images[0].get_clim() == pytest.approx((0, largest))
    labels = {ax.get_xlabel() for ax in figure.axes} | {ax.get_ylabel() for ax in figure.axes}
    assert "degree of nonlinearity" in labels


@pytest.mark.parametrize("of_idnet", [True, False])
def test_latents_are_drawn_by_material_coloured_by_abundance(of_idnet: bool) -> None:
    extra = {"model": SimpleNamespace(latent_size=2)} if of_idnet else {}
    result = make_result(2, components=3, **extra)
    result.valid = xr.DataArray(np.ones((2, 4, 5), dtype=bool), dims=("time", "y", "x"))
    result.valid[1, 0, 0] = False
    figure = plots.plot_latents(result, time=-1, components=(2, 0), names=["a", "b", "c"])
    a, _, _, z = result.arrays
    panels = figure.axes[:3]
    assert [ax.get_title() for ax in panels] == ["a", "b", "c"]
    for p, ax in enumerate(panels):
        points = ax.collections[0]
        drawn = np.column_stack([points.get_offsets(), points.get_array()])
        expected = np.column_stack(
            [z[1, ..., 2, p].ravel(), z[1, ..., 0, p].ravel(), a[1, ..., p].ravel()]
        )[1:]
        np.testing.assert_allclose(drawn, expected[np.argsort(expected[:, 2])])
        assert [patch.radius for patch in ax.patches] == ([1, 2] if of_idnet else [])
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_{3}$", "$z_{1}$")
    assert "19 of 20 pixels" in figure.get_suptitle()


def test_one_latent_is_drawn_against_the_abundance_and_few_pixels_are_drawn() -> None:
    result = make_result(components=1)
    figure = plots.plot_latents(result, num_pixels=7)
    a, _, _, z = result.arrays
    known = np.column_stack([z[0, ..., 0, 1].ravel(), a[0, ..., 1].ravel()])
    points = figure.axes[1].collections[0].get_offsets()
    assert len(points) == 7
    for point in points:
        assert (np.abs(known - point).max(1) < 1e-12).any()
    assert figure.axes[0].get_ylabel() == "abundance (fraction)"


def test_given_axes_are_drawn_into() -> None:
    figure = Figure()
    axes = figure.subplots(1, 3)
    assert plots.plot_latents(make_result(), axes=axes) is figure
    assert all(len(ax.collections) == 1 for ax in axes)
    one = Figure()
    assert plots.plot_nonlinearity(make_result(), axes=one.subplots()) is one


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: plots.plot_latents(SimpleNamespace(abundances=make_result().abundances)),
         TypeError, "expected a result with `variability`"),
        (lambda: plots.plot_latents(make_result(), components=(0, 5)), ValueError,
         "expected components between -2 and 1, got 5"),
        (lambda: plots.plot_latents(make_result(), num_pixels=-1), ValueError,
         "num_pixels must be at least 1, got -1"),
        (lambda: plots.plot_latents(make_result(), time=3), ValueError, "expected time between"),
        (lambda: plots.plot_nonlinearity(SimpleNamespace(abundances=make_result().abundances)),
         TypeError, r"expected a result with `.endmembers\(time\)`"),
        (lambda: plots.plot_nonlinearity(3), TypeError, "expected a result with `.abundances`"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
