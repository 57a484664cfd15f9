"""The loss, and what all pictures share: layout, axes of the user, nothing global."""

from __future__ import annotations

import copy
import itertools
import random
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from plot_cases import NAMES, images, make_result

from pyro_unmix import plots

EXAMPLES = Path(__file__).parents[2] / "examples"


# ---------------------------------------------------------------------------------------- loss


def test_losses_and_their_running_median():
    result = make_result()
    result.losses[40] = np.nan
    figure = plots.plot_losses(result)
    (ax,) = figure.axes
    raw, smooth = ax.lines
    np.testing.assert_array_equal(raw.get_xdata(), np.arange(1, 101))
    np.testing.assert_array_equal(raw.get_ydata(), result.losses)
    expected = [np.nanmedian(result.losses[max(k - 2, 0) : k + 3]) for k in range(100)]
    np.testing.assert_allclose(smooth.get_ydata(), expected)
    assert ax.get_xlabel() == "step"
    assert ax.get_ylabel() == "\N{MINUS SIGN}ELBO per observed value (nats)"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "each step",
        "running median (5 steps)",
    ]


def test_a_steep_start_is_left_out_with_a_note():
    result = make_result()
    result.losses = np.concatenate([[1000.0, 500.0], np.linspace(1.0, 0.0, 998)])
    (ax,) = plots.plot_losses(result).axes
    assert ax.get_ylim()[1] < 2
    assert [text.get_text() for text in ax.texts] == ["2 values up to 1e+03 not shown"]
    (ax,) = plots.plot_losses(make_result()).axes
    assert not ax.texts


@pytest.mark.parametrize("losses", [None, np.zeros(0), np.full(3, np.nan), np.zeros((2, 2))])
def test_no_losses(losses):
    with pytest.raises(ValueError, match="only methods trained step by step have losses"):
        plots.plot_losses(SimpleNamespace(losses=losses))
    plots.plot_losses(SimpleNamespace(losses=[3.0])).savefig("/dev/null", format="png")


# ------------------------------------------------------------------------- figures and layout


def draw_all(result: Any, truth: Any = None) -> list[Figure]:
    figures = [
        plots.plot_abundances(result, truth=truth),
        plots.plot_abundance_composite(result, truth=truth),
        plots.plot_uncertainty(result),
        plots.plot_endmembers(result, truth=truth),
        plots.plot_endmembers_over_time(result, truth=truth),
        plots.plot_losses(result),
    ]
    if result.change.sizes["time"] > 1:
        figures.append(plots.plot_change(result))
    return figures


def test_nothing_global_changes():
    plt.close("all")
    result, truth = make_result(), make_result(seed=1)
    before = copy.deepcopy([vars(result), vars(truth)])
    params, state = dict(mpl.rcParams), np.random.get_state()[1].copy()  # noqa: NPY002
    python_state = random.getstate()
    figures = draw_all(result, truth)
    for figure in figures:
        figure.savefig("/dev/null", format="png")
    assert all(isinstance(figure, Figure) for figure in figures)
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == params
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert random.getstate() == python_state
    for old, now in zip(before, [vars(result), vars(truth)], strict=True):
        for name, value in old.items():
            if isinstance(value, xr.DataArray):
                xr.testing.assert_identical(value, now[name])
            elif isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, now[name])


def visible_texts(figure: Figure) -> list[Text]:
    return [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text.get_figure() is not None
    ]


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 20, 20, 4),
        (2, 20, 40, 2),
        (6, 20, 20, 3),
        (15, 20, 20, 6),
        (2, 60, 10, 3),  # narrow
        (2, 90, 10, 1),  # narrower than a ratio of 6
        (9, 1, 60, 3),  # a row of pixels
    ],
)
def test_texts_are_legible_inside_and_do_not_overlap(sizes):
    num_dates = sizes[0]
    time = np.datetime64("2014-04-10", "ns") + np.arange(num_dates) * np.timedelta64(9, "D")
    result = make_result(*sizes, time=time, labels=[f"{name} cover" for name in NAMES[: sizes[3]]])
    result.valid.values[-1, 0, 0] = False
    for figure in draw_all(result, truth=result if num_dates < 9 else None):
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        titles = [ax.title for ax in figure.axes if ax.get_title()]
        boxes = [title.get_window_extent() for title in titles]
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)
        labels = [ax.yaxis.label for ax in figure.axes if ax.get_ylabel()]
        for one, other in itertools.combinations([la.get_window_extent() for la in labels], 2):
            assert not one.overlaps(other)
        # Tick labels outside the view are kept by matplotlib as texts, but are not drawn.
        ticks = {id(t) for ax in figure.axes for a in (ax.xaxis, ax.yaxis) for t in a.findobj(Text)}
        named = {id(ax.yaxis.label) for ax in figure.axes} | {
            id(ax.xaxis.label) for ax in figure.axes
        }
        for text in visible_texts(figure):
            assert text.get_fontsize() >= 8
            if id(text) in ticks - named:
                continue
            box = text.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1, text.get_text()
            assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text.get_text()


def test_axes_of_the_user():
    result = make_result()
    figure = Figure(figsize=(9, 9))
    top, bottom = figure.subfigures(2, 1)
    assert plots.plot_abundances(result, axes=top.subplots(3, 3)) is figure
    axes = bottom.subplots(1, 4)
    assert plots.plot_endmembers(result, axes=list(axes[:3])) is figure
    assert plots.plot_losses(result, ax=axes[3]) is figure
    np.testing.assert_array_equal(images(top)[4], result.abundances.values[1, :, :, 1])
    np.testing.assert_array_equal(axes[3].lines[0].get_ydata(), result.losses)
    assert axes[0].get_legend() is not None and not figure.legends
    other = Figure()
    plots.plot_abundance_composite(result, axes=other.subplots(1, 3))
    assert other.axes[2].get_legend() is not None
    assert plots.plot_change(result, dates=[1], axes=Figure().subplots()).axes[0].images
    with pytest.raises(ValueError, match="expected 9 axes for this picture, got 2"):
        plots.plot_abundances(result, axes=Figure().subplots(1, 2))
    with pytest.raises(TypeError, match="expected matplotlib Axes, got list"):
        plots.plot_abundances(result, axes=[1] * 9)


def test_more_materials_than_colours():
    figure = plots.plot_endmembers(make_result(num_endmembers=9))
    assert len(figure.axes) == 9
    # The hue of the second material, with 60 % of its light.
    again = to_rgb(figure.axes[8].lines[0].get_color())
    expected = 0.6 * np.array(to_rgb(plots.MATERIAL_COLOURS[1]))
    np.testing.assert_allclose(again, expected, atol=0.5 / 255 + 1e-9)


# --------------------------------------------------------------------- pictures of the examples


def test_haze_does_not_tint_the_true_colour_images():
    draw = runpy.run_path(str(EXAMPLES / "real_sequence.py"))["plot_true_colour"]
    rng = np.random.default_rng(0)
    # A grey surface, bands B1 to B12, under haze that is brighter the shorter the wavelength.
    surface = rng.uniform(0.0, 0.05, size=(2, 30, 30, 1))
    cubes = xr.DataArray(surface + np.linspace(0.1, 0.0, 13), dims=("time", "y", "x", "wavelength"))
    cubes[1] *= 3  # thin cloud: does not darken the other date
    for ax in draw(cubes).axes:
        image = np.asarray(ax.images[0].get_array())
        assert image.shape == (30, 30, 3)
        np.testing.assert_allclose(image, image[..., [2, 0, 1]], atol=1e-9)
        assert image.min() == 0 and image.max() == 1


def test_steps_of_the_ablation_are_whole_numbers():
    draw = runpy.run_path(str(EXAMPLES / "ablation.py"))["draw"]
    names = [f"model {k}" for k in range(8)]
    quick = draw({name: np.linspace(2.0, 1.0, 3) for name in names})
    (ax,) = quick.axes
    FigureCanvasAgg(quick).draw()
    assert all(float(tick).is_integer() for tick in ax.get_xticks())
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2, 3])
    looks = {(to_rgb(line.get_color()), line.get_linestyle()) for line in ax.lines}
    assert len(looks) == 8
    # The mean of steps 1 to 5 stands at step 3.
    (ax,) = draw({"model": np.arange(100.0)}).axes
    np.testing.assert_array_equal(ax.lines[0].get_xdata()[:2], [3, 8])
    np.testing.assert_allclose(ax.lines[0].get_ydata()[:2], [0.001, 5.001])


def test_a_notebook_shows_a_picture_whose_backend_nobody_imported():
    result = make_result()
    figures = [plots.plot_abundances(result), plots.plot_endmembers(result)]
    figures.append(plots.plot_losses(SimpleNamespace(losses=np.arange(9.0))))
    for figure in figures:
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_dollar_signs_in_names_are_no_formulas() -> None:
    names = ["a $\\b{$ c", "5 $", "$x$"]
    result = make_result(labels=names)
    figures = [
        plots.plot_abundances(result),
        plots.plot_abundances(result, dates=[0]),
        plots.plot_abundance_composite(result),
        plots.plot_endmembers(result),
    ]
    for figure in figures:
        figure.canvas.draw()
        texts = [text for text in figure.findobj(Text) if "$" in text.get_text()]
        assert len(texts) >= 3
        assert all(text._preprocess_math(text.get_text())[1] is False for text in texts)
    shown = {text._preprocess_math(text.get_text())[0] for text in texts}
    assert shown == set(names)
