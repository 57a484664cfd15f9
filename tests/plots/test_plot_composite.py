"""Composites, and whether their colours can be told apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from plot_cases import SIGHTS, cielab, images, legend_texts, make_result

from pyro_unmix import plots


def test_composite_mixes_the_colours_of_the_materials():
    result, truth = make_result(), make_result(seed=1)
    figure = plots.plot_abundance_composite(result, truth=truth)
    drawn = images(figure)
    assert len(drawn) == len(figure.axes) == 2 * 3
    palette = [to_rgb(colour) for colour in plots.COMPOSITE_COLOURS]
    for row, source in enumerate((result, truth)):
        for t in range(3):
            expected = sum(
                source.abundances.values[t, :, :, p, None] * np.array(palette[p]) for p in range(3)
            )
            np.testing.assert_allclose(drawn[3 * row + t], expected, atol=1e-12)
    assert legend_texts(figure) == ["water", "vegetation", "soil"]
    assert [figure.axes[k].get_ylabel() for k in (0, 3)] == ["estimate", "truth"]


def test_composite_of_some_materials():
    result = make_result(num_endmembers=5)
    figure = plots.plot_abundance_composite(result, materials=["snow", 0])
    a = result.abundances.values[0, 2, 3]
    orange, blue = (np.array(to_rgb(colour)) for colour in plots.COMPOSITE_COLOURS[:2])
    expected = a[4] * orange + a[0] * blue + (a[1] + a[2] + a[3]) * np.ones(3)
    np.testing.assert_allclose(images(figure)[0][2, 3], expected, atol=1e-12)
    assert legend_texts(figure) == ["snow", "water", "other materials"]
    two = plots.plot_abundance_composite(make_result(num_endmembers=2))
    assert legend_texts(two) == ["water", "vegetation"]


@pytest.mark.parametrize(
    ("materials", "message"),
    [
        (["glass"], "expected materials among .* got 'glass'"),
        ([5], "expected materials between -5 and 4, got 5"),
        ([0, 1, 2, 3], "expected one to three different materials"),
        ([0, "water"], "expected one to three different materials"),
        ([], "expected one to three different materials"),
    ],
)
def test_composite_of_wrong_materials(materials, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_abundance_composite(make_result(num_endmembers=5), materials=materials)


def test_composite_nan_is_grey():
    result = make_result()
    result.abundances[0, 1, 2] = np.nan
    drawn = images(plots.plot_abundance_composite(result))[0]
    np.testing.assert_array_equal(drawn[1, 2], [0.85] * 3)
    assert np.isfinite(drawn).all()


def test_the_composite_triple_is_the_safest_of_the_palette():
    """Of Okabe and Ito's eight colours, by mixtures that are half an image apart."""
    grid = np.array([(i, j, 4 - i - j) for i in range(5) for j in range(5 - i)]) / 4
    far = np.abs(grid[:, None] - grid).sum(axis=-1) / 2 >= 0.5
    eight = [*plots.MATERIAL_COLOURS, "#000000"]

    def separation(triple: tuple[str, ...]) -> float:
        palette = np.array([to_rgb(colour) for colour in triple])
        seen = [cielab(grid @ palette, sight) for sight in SIGHTS]
        return min(np.linalg.norm(s[:, None] - s, axis=-1)[far].min() for s in seen)

    scores = {frozenset(triple): separation(triple) for triple in itertools.combinations(eight, 3)}
    best = max(scores, key=lambda triple: scores[triple])
    assert best == set(plots.COMPOSITE_COLOURS) and len(scores) == 56
    others = [score for triple, score in scores.items() if "#000000" not in triple]
    assert scores[best] > 2 * max(others)
