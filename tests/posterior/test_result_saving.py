"""Results are saved without pickled code and come back the same."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from result_cases import CUBES, PAIRS, SCENE, fitted, ours, paper, plain

from pyro_unmix import SGLMM, BiLSTMGuide, ConjugateGuide, Unmixing, fit
from pyro_unmix.bases import DCT, Brightness, LearnedBasis
from pyro_unmix.priors import (
    AutoRegressive,
    FixedEndmembers,
    Independent,
    JumpWalk,
    KnownAbundances,
    RandomWalk,
    WhiteNoise,
)

pytestmark = pytest.mark.usefixtures("seeded")
LOADER = """
import sys
import numpy as np
import xarray as xr
from pyro_unmix import Unmixing
result = Unmixing.load(sys.argv[1])
cubes = xr.open_dataarray(sys.argv[2], engine="h5netcdf")
np.savez(
    sys.argv[3],
    abundances=result.abundances.values,
    std=result.abundances_std.values,
    losses=result.losses,
    predicted=result.predict(cubes).abundances.values,
    drawn=(result if result.cubes is not None else result.predict(cubes)).sample(4).values,
)
"""


def load_elsewhere(saved: Path, tmp_path: Path) -> dict[str, np.ndarray]:
    """Load in a fresh process, predict and draw there."""
    cubes, out = tmp_path / "given.nc", tmp_path / "out.npz"
    CUBES.to_netcdf(cubes, engine="h5netcdf")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = [sys.executable, "-c", LOADER, str(saved), str(cubes), str(out)]
    subprocess.run(arguments, env=environment, check=True, timeout=120)
    return dict(np.load(out))


@pytest.mark.parametrize("name", PAIRS)
def test_a_saved_result_is_the_same_in_a_fresh_process(name, results, tmp_path):
    result = results[name]
    path = result.save(tmp_path / "saved", cubes=name == "ours")
    assert path == tmp_path / "saved"
    there = load_elsewhere(path, tmp_path)
    np.testing.assert_array_equal(there["abundances"], result.abundances)
    np.testing.assert_array_equal(there["std"], result.abundances_std)
    np.testing.assert_array_equal(there["losses"], result.losses)
    np.testing.assert_array_equal(there["predicted"], result.predict(CUBES).abundances)
    np.testing.assert_array_equal(there["drawn"], result.sample(4))


PARTS = {
    "learned basis, fixed M0, jumps": lambda: SGLMM(
        FixedEndmembers(SCENE.reference_endmembers.values),
        basis=LearnedBasis(np.random.default_rng(0).normal(size=(20, 2, 3))),
        abundance_prior=JumpWalk(scale=0.1, jump_probability=0.02),
        variability_prior=AutoRegressive(0.3, 0.8, learn=False),
        noise=WhiteNoise(0.03, learn=False),
        seed=3,
    ),
    "scaled DCT, named M0, walks": lambda: SGLMM(
        SCENE.reference_endmembers,
        basis=DCT(3, scale=[0.5, 0.2, 0.1]),
        variability_prior=RandomWalk(0.05, learn=True),
    ),
    "known abundances, brightness": lambda: SGLMM(
        SCENE.reference_endmembers,
        basis=Brightness(0.2),
        abundance_prior=KnownAbundances(SCENE.abundances.values.reshape(3, 42, 3).swapaxes(0, 1)),
        variability_prior=Independent(0.7),
    ),
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("kind", [BiLSTMGuide, ConjugateGuide])
def test_every_part_is_saved_and_loaded(name, kind, tmp_path):
    model = PARTS[name]()
    # A Gaussian guide has no density under a point mass.
    kind = kind if model.abundance_prior.is_random else ConjugateGuide
    guide = kind(model, seed=2)
    result = fit(model, guide, CUBES, num_steps=1, progress=False, method="mine", seed=5)
    loaded = Unmixing.load(result.save(tmp_path / "saved"))
    for mine, theirs in ((result.model, loaded.model), (result.guide, loaded.guide)):
        assert type(theirs) is type(mine)
        state, other = mine.state_dict(), theirs.state_dict()
        assert state.keys() == other.keys()
        for key, value in state.items():
            assert torch.equal(value, other[key]), key
            assert value.dtype == other[key].dtype
    assert loaded.guide.model is loaded.model
    assert loaded.model.endmember_names == result.model.endmember_names
    assert (loaded.method, loaded.seed, loaded.estimate) == ("mine", 5, result.estimate)
    xr.testing.assert_equal(loaded.to_dataset(), result.to_dataset())
    np.testing.assert_array_equal(loaded.predict(CUBES).abundances, result.abundances)
    np.testing.assert_array_equal(loaded.sample(3), result.sample(3))
    again = fit(loaded.model, loaded.guide, CUBES, num_steps=1, progress=False)
    assert np.isfinite(again.losses).all()


def test_a_loaded_result_is_trained_on_as_if_it_had_not_been_saved(tmp_path):
    result = fitted(ours)
    loaded = Unmixing.load(result.save(tmp_path / "saved"))
    settings = {"num_steps": 3, "progress": False, "seed": 1}
    expected = fit(result.model, result.guide, CUBES, **settings)
    got = fit(loaded.model, loaded.guide, CUBES, **settings)
    np.testing.assert_array_equal(got.losses, expected.losses)
    np.testing.assert_array_equal(got.abundances, expected.abundances)


def test_double_precision_is_kept(tmp_path):
    model, guide = ours()
    result = fit(model.double(), guide.double(), CUBES, num_steps=1, progress=False)
    loaded = Unmixing.load(result.save(tmp_path / "saved"))
    assert loaded.model.noise.log_scale.dtype == torch.float64
    assert loaded.guide.head.dtype == torch.float64
    np.testing.assert_array_equal(loaded.predict(CUBES).abundances, result.abundances)


def test_a_result_without_a_posterior_is_saved_too(tmp_path):
    result = plain()
    loaded = Unmixing.load(result.save(tmp_path / "saved"))
    assert loaded.model is None
    assert loaded.method == "fcls"
    np.testing.assert_array_equal(loaded.abundances, result.abundances)
    np.testing.assert_array_equal(loaded.reference_endmembers, result.reference_endmembers)
    with pytest.raises(ValueError, match="fcls has none"):
        loaded.sample()


def test_without_the_images_a_loaded_result_predicts_and_says_what_it_cannot(results, tmp_path):
    loaded = Unmixing.load(results["ours"].save(tmp_path / "saved", cubes=False))
    assert not (tmp_path / "saved" / "cubes.nc").exists()
    with pytest.raises(ValueError, match="saved without them: call result.predict"):
        loaded.sample()
    predicted = loaded.predict(CUBES)
    np.testing.assert_array_equal(predicted.sample(3), results["ours"].sample(3))


def test_coordinates_survive_saving(results, tmp_path):
    loaded = Unmixing.load(results["ours"].save(tmp_path / "saved"))
    for name in ("time", "y", "x", "wavelength"):
        np.testing.assert_array_equal(loaded.cubes[name], CUBES[name])
    xr.testing.assert_identical(loaded.abundances, results["ours"].abundances)
    tiled = CUBES.assign_coords(tile=("y", [0, 0, 0, 4, 4, 4]))
    other = results["ours"].predict(tiled)
    loaded = Unmixing.load(other.save(tmp_path / "tiled"))
    np.testing.assert_array_equal(loaded.cubes.tile, tiled.tile)
    assert loaded.cubes.tile.dtype.kind == "i"


def test_nothing_saved_is_pickled_code(results, tmp_path):
    path = results["ours"].save(tmp_path / "saved")
    names = {file.name for file in path.iterdir()}
    assert names == {"recipe.json", "weights.pt", "result.nc", "cubes.nc"}
    torch.load(path / "weights.pt", weights_only=True)
    recipe = json.loads((path / "recipe.json").read_text())
    assert recipe["format"] == 1


def test_an_existing_folder_is_replaced_only_if_asked_for(results, tmp_path):
    path = tmp_path / "deep" / "saved"
    results["ours"].save(path)
    with pytest.raises(FileExistsError, match="exists: pass overwrite=True to replace a saved"):
        results["paper"].save(path)
    results["paper"].save(path, overwrite=True)
    assert isinstance(Unmixing.load(path).guide, BiLSTMGuide)
    assert [child.name for child in path.parent.iterdir()] == ["saved"]
    # What is not a saved result is never removed.
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.png").write_text("")
    with pytest.raises(FileExistsError, match="photos exists"):
        results["paper"].save(foreign, overwrite=True)
    assert (foreign / "cat.png").exists()


def test_a_failed_save_leaves_what_was_there(results, tmp_path):
    path = results["ours"].save(tmp_path / "saved")
    model, _ = paper()
    odd = BiLSTMGuide(model, change_detector=lambda v, a: a[..., 0])
    broken = dataclasses.replace(results["paper"], model=model, guide=odd)
    with pytest.raises(TypeError, match="cannot save <function .*put it into such a subclass"):
        broken.save(path, overwrite=True)
    assert isinstance(Unmixing.load(path).guide, ConjugateGuide)
    assert [child.name for child in tmp_path.iterdir()] == ["saved"]


def test_load_errors(results, tmp_path):
    with pytest.raises(ValueError, match="is not a saved result .recipe.json: .*pass the folder"):
        Unmixing.load(tmp_path / "nowhere")
    path = results["ours"].save(tmp_path / "saved", cubes=False)
    recipe = json.loads((path / "recipe.json").read_text())
    for change, text in (
        ({"format": 99}, "has format 99, this version reads 1: load it with the version"),
        (
            {"guide": {"class": "elsewhere.MyGuide", "arguments": {}}},
            "uses the class elsewhere.MyGuide, which is not defined here: import the module",
        ),
    ):
        (path / "recipe.json").write_text(json.dumps({**recipe, **change}))
        with pytest.raises(ValueError, match=text):
            Unmixing.load(path)
