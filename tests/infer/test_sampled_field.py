"""A sampled result that was moved to what neighbouring pixels say: draws, maps, and the folder it is saved in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_unmix as pu
from pyro_unmix.infer import Sampled, sample
from pyro_unmix.io import FileError
from pyro_unmix.models.library_mixing import LibraryMixing
from pyro_unmix.models.simplex import SimplexMixing
from pyro_unmix.start import FieldEstimate

REFERENCE = np.array([[0.1, 0.6, 0.3], [0.2, 0.5, 0.7], [0.5, 0.3, 0.6], [0.6, 0.1, 0.2]])
SHAPE = (5, 6, 2)  # rows, columns, dates


@pytest.fixture(scope="module")
def plain() -> Sampled:
    models = [SimplexMixing(REFERENCE, rank=1), SimplexMixing(REFERENCE * 0.9, rank=1)]
    values = models[0].simulate(30, 2, seed=4)["pixels"].numpy().clip(0.001, 1.2)
    cubes = values.reshape(*SHAPE, 4).transpose(2, 0, 1, 3).copy()
    cubes[0, 0, 0] = np.nan
    return sample(
        models, cubes, num_rounds=8, num_spectra=40, num_held_out=10, num_kept=4, num_samples=12,
        seed=1, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def field(plain: Sampled) -> FieldEstimate:
    rng = np.random.default_rng(0)
    abundances = rng.dirichlet([2.0, 2.0, 2.0], 60)
    observed = plain.valid.transpose("y", "x", "time").values.ravel()
    abundances[~observed] = np.nan
    return FieldEstimate(torch.as_tensor(abundances), 0.9 * REFERENCE)


@pytest.fixture(scope="module")
def moved(plain: Sampled, field: FieldEstimate) -> Sampled:
    return plain.about(field, progress=False)


def test_draws_and_maps_are_where_the_field_is(
    plain: Sampled, field: FieldEstimate, moved: Sampled
) -> None:
    assert plain.drawn is not None
    at = field.abundances.numpy().reshape(*SHAPE, 3).transpose(2, 0, 1, 3)
    at[0, 0, 0] = at[1, 0, 0]  # filled from the other date
    draws = plain.drawn.double().reshape(12, *SHAPE, 3).permute(0, 3, 1, 2, 4).numpy()
    assert moved.field is not None and 0.75 <= moved.field.remaining <= 1
    expected = at + moved.field.remaining * (draws - draws.mean(0))
    inside = expected.min((0, -1)) > 0  # where the projection does nothing
    assert inside.sum() > 5
    got = moved.sample().transpose("sample", "time", "y", "x", "endmember").values
    np.testing.assert_allclose(got[:, inside], expected[:, inside], atol=1e-6)
    np.testing.assert_allclose(moved.abundances.values, got.mean(0), atol=1e-6)
    np.testing.assert_allclose(moved.abundances_std.values, got.std(0, ddof=1), atol=1e-6)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-6)


def test_draws_that_were_not_kept_are_drawn_and_moved(
    plain: Sampled, field: FieldEstimate, moved: Sampled
) -> None:
    again = replace(plain, drawn=None).about(field, progress=False)
    np.testing.assert_allclose(again.abundances, moved.abundances, atol=1e-5)
    assert not np.allclose(plain.abundances, moved.abundances, atol=0.05)
    more = moved.sample(40, seed=5)
    np.testing.assert_allclose(more.mean("sample"), moved.abundances, atol=0.1)


def test_a_field_of_other_images_or_about_a_library_is_refused(
    plain: Sampled, field: FieldEstimate, moved: Sampled
) -> None:
    short = FieldEstimate(field.abundances[:-1], field.endmembers)
    with pytest.raises(ValueError, match="60 pixel-dates, got 59"):
        plain.about(short)
    library = LibraryMixing(REFERENCE, ["a", "a", "b"], num_slots=2)
    chains = tuple(replace(chain, model=library) for chain in plain.chains)
    with pytest.raises(ValueError, match="of a library"):
        replace(plain, chains=chains).about(field)
    other = FieldEstimate(field.abundances.flip(-1), field.endmembers)
    direct = plain.about(other, progress=False)
    again = moved.about(other, progress=False)
    np.testing.assert_allclose(again.abundances, direct.abundances, atol=1e-5)
    np.testing.assert_allclose(again.abundances_std, direct.abundances_std, atol=1e-5)


def test_endmembers_are_those_of_the_field(moved: Sampled) -> None:
    reference = moved.reference_endmembers.transpose("wavelength", "endmember").values
    np.testing.assert_allclose(reference, 0.9 * REFERENCE, atol=0.01)  # but for draws below zero
    lower, upper = moved.endmembers_interval().transpose("bound", "wavelength", "endmember").values
    assert ((lower <= reference) & (reference <= upper)).all() and (lower < upper).any()


def test_the_field_is_saved_and_is_not_for_other_images(moved: Sampled, tmp_path: Path) -> None:
    moved.save(tmp_path / "result")
    loaded = pu.Unmixing.load(tmp_path / "result")
    assert isinstance(loaded, Sampled) and loaded.field is not None and moved.field is not None
    np.testing.assert_array_equal(loaded.field.abundances, moved.field.abundances)
    np.testing.assert_allclose(loaded.interval(), moved.interval(), atol=1e-5)
    assert loaded.field.remaining == moved.field.remaining
    cut = replace(moved, field=FieldEstimate(moved.field.abundances[1:], moved.field.endmembers))
    cut.save(tmp_path / "cut")
    with pytest.raises(FileError, match="not as many pixel-dates"):
        pu.Unmixing.load(tmp_path / "cut")
    other = moved.predict(moved.cubes)
    assert other.field is None
    assert not np.allclose(other.abundances, moved.abundances, atol=0.05)


@pytest.mark.parametrize(
    ("name", "value"),
    [("field endmembers", [[1.0]]), ("field abundances", [1.0]), ("field remaining", 2.0)],
)
def test_a_damaged_field_is_refused(
    moved: Sampled, tmp_path: Path, name: str, value: object
) -> None:
    moved.save(tmp_path / "result")
    recipe = tmp_path / "result" / "recipe.json"
    described = json.loads(recipe.read_text())
    own = next(part for part in described.values() if isinstance(part, dict) and name in part)
    own[name] = value
    recipe.write_text(json.dumps(described))
    with pytest.raises(FileError, match=name.split()[1]):
        pu.Unmixing.load(tmp_path / "result")
