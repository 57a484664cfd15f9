"""Training on scenes in chunks is that on scenes in memory, and no more of the images is in memory."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from checkpoint_cases import PAIRS, assert_same_bits, everything, run, stop_after
from fit_cases import CUBES, ours
from lazy_cases import CHUNKS, GAPS, SMALL, SPECTRA

import pyro_unmix as pu
from pyro_unmix.infer.stopping import Plan

pytest.importorskip("dask.array")

# What is learned


@pytest.mark.parametrize("name", PAIRS)
def test_if_all_fits_into_memory_training_has_the_same_bits(name):
    loaded, lazy = run(name, cubes=GAPS), run(name, cubes=GAPS.chunk(CHUNKS))
    expected, got = everything(loaded), everything(lazy)
    # Read-out by tiles rounds otherwise with some guides.
    torch.testing.assert_close(got.pop("abundances"), expected.pop("abundances"), rtol=0, atol=2e-6)
    assert_same_bits(got, expected)
    xr.testing.assert_allclose(lazy.dataset, loaded.dataset, rtol=1e-5, atol=2e-6)
    xr.testing.assert_identical(lazy.dataset["valid"], loaded.dataset["valid"])
    for name, values in loaded.dataset.variables.items():
        assert lazy.dataset[name].dims == values.dims and lazy.dataset[name].attrs == values.attrs
        assert lazy.dataset[name].dtype == values.dtype
        assert isinstance(lazy.dataset[name].data, np.ndarray)


def certain(pixels, valid, *, index=None, size=None, features=None):
    """A guide without any randomness, so that an ELBO is a sum over pixels."""
    with pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1):
        for t in range(valid.shape[1] + 1):
            pyro.sample(f"c_{t}", dist.Delta(pixels.new_zeros(len(pixels), 3), event_dim=1))
            pyro.sample(f"psi_{t}", dist.Delta(pixels.new_zeros(len(pixels), 3), event_dim=1))


def certain_pair():
    reference = pu.FixedEndmembers(ours()[0].reference.value.detach().numpy())
    return pu.SGLMM(reference, basis=pu.bases.DCT(1)).double(), certain


def test_the_mean_loss_of_an_epoch_is_that_of_the_scene():
    """Without steps to speak of, and in batches of 13 of 26 pixels that cross pools."""
    still = {"learning_rate": 1e-30, "learning_rate_decay": 1.0}
    whole = run(pair=certain_pair(), cubes=GAPS, batch_size=26, num_steps=1, **still).losses
    parts = run(
        pair=certain_pair(), cubes=GAPS.chunk(CHUNKS), batch_size=13, num_steps=4,
        memory=2 * 15 * 2 * SPECTRA, **still,
    ).losses  # fmt: skip
    np.testing.assert_allclose(parts.reshape(2, 2).mean(1), whole[0], rtol=1e-9)
    assert np.ptp(parts) > 1e-3 * abs(whole[0])


def test_small_pools_end_near_what_the_scene_in_memory_does():
    settings = {"num_steps": 60, "learning_rate": 0.02, "batch_size": 10}
    loaded = run(cubes=GAPS, **settings)
    lazy = run(cubes=GAPS.chunk(CHUNKS), memory=SMALL, **settings)
    assert loaded.losses[-30:].mean() < loaded.losses[:10].mean() - 0.3
    np.testing.assert_allclose(lazy.losses[-30:].mean(), loaded.losses[-30:].mean(), atol=0.01)

    def distance(one, two):
        return float(np.sqrt(np.square(one.abundances - two.abundances).mean()))

    start = run(cubes=GAPS, num_steps=0)
    assert distance(lazy, loaded) < 0.2 * distance(start, loaded)


def test_pools_are_prepared_with_the_parameters_of_the_start(monkeypatch):
    """As a scene in memory is, and so that a resumed fit prepares them alike."""
    model, guide = ours()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    seen = []
    original = pu.ConjugateGuide.prepare

    def prepare(self, pixels, valid, *, index=None):
        seen.append((self.model.state_dict(), index))
        return original(self, pixels, valid, index=index)

    monkeypatch.setattr(pu.ConjugateGuide, "prepare", prepare)
    run(pair=(model, guide), cubes=CUBES.chunk(CHUNKS), memory=SMALL, maps=False)
    assert any(not torch.equal(v, start[k]) for k, v in model.state_dict().items())
    assert len(seen) > 5
    for state, index in seen[:-1]:  # the last one is of the pixel that tells the maps' dims
        assert len(index) in (10, 30)
        for name, value in start.items():
            assert torch.equal(state[name], value), name


def test_convergence_is_looked_at_by_whole_epochs(monkeypatch):
    """What distinguishes pools must not pass for convergence."""
    plans = []
    monkeypatch.setattr(Plan, "finished", lambda plan, losses: plans.append(plan) or True)
    for memory in (SMALL, 10**6):
        run(cubes=CUBES.chunk(CHUNKS), memory=memory, batch_size=1, num_steps=None, maps=False)
    monkeypatch.undo()
    assert [plan.whole_epochs for plan in (plans[0], plans[-1])] == [True, False]
    assert Plan(8000, None, None, 10, 1.0, whole_epochs=True).window == 800
    assert Plan(8000, None, None, 10, 1.0).window == 50
    assert Plan(80, None, None, 10, 1.0, whole_epochs=True).window == 50
    plan = Plan(1000, None, None, 10, 1.0, whole_epochs=True)
    assert not plan.finished([1.0, 1.1] * 50) and plan.finished([1.0, 1.1] * 100)
    assert plan.num_steps == 3000


# Checkpoints


@pytest.mark.parametrize(
    ("name", "memory", "crashes"),
    [("ours", SMALL, [1, 2, 3, 4, 7, 11]), ("ours", 10**9, [5]), ("automatic", SMALL, [2, 6]), ("plain", SMALL, [5])],
)  # fmt: skip
def test_a_resumed_fit_ends_with_the_bits_of_an_uninterrupted_one(name, memory, crashes, tmp_path):
    """In batches that cross pools, and epochs."""
    settings = {"cubes": GAPS.chunk(CHUNKS), "memory": memory, "batch_size": 7, "maps": False}

    def trained(*folder, **more):
        result = run(name, *folder, **settings, **more)
        return everything(replace(result, dataset=result.dataset.isel(y=[0])))

    expected = trained()
    for steps in crashes:
        folder, seen = tmp_path / str(steps), []
        with pytest.raises(RuntimeError, match="crash"):
            trained(folder, every=1, callback=stop_after(steps))
        got = trained(folder, every=1, callback=lambda s, _, seen=seen: seen.append(s))
        assert seen == list(range(steps - 1, 12))
        assert_same_bits(got, expected)


def test_a_checkpoint_of_other_images_chunks_or_memory_is_refused(tmp_path):
    run("ours", tmp_path, cubes=CUBES.chunk(CHUNKS), memory=SMALL)
    other = CUBES.copy(deep=True)
    other[2, 4, 5, 7] += 1e-3
    for cubes, memory, text in (
        (other.chunk(CHUNKS), SMALL, r"data.values \(hash\) is"),
        (CUBES.chunk(y=2, x=3), SMALL, "data.chunks of x is"),
        (CUBES.chunk(CHUNKS), 22 * SPECTRA, "data.pixels in memory is 11, the checkpoint has 10"),
        (CUBES, SMALL, "data.chunks of y is missing"),
    ):
        with pytest.raises(ValueError, match=text):
            run("ours", tmp_path, cubes=cubes, memory=memory)
    run("ours", tmp_path, cubes=CUBES.chunk(CHUNKS), memory=SMALL)


# What comes out


def test_the_result_is_that_of_the_trained_pair_on_all_pixels():
    result = run(cubes=GAPS.chunk(CHUNKS), memory=SMALL)
    expected = result.predict(GAPS)
    xr.testing.assert_allclose(result.dataset, expected.dataset, rtol=1e-5, atol=2e-6)
    assert result.cubes.chunks is not None
    xr.testing.assert_identical(result.cubes.compute(), expected.cubes)
    assert result.quantile(0.5).shape == result.abundances.shape


def test_images_on_disk_end_to_end(tmp_path):
    """A fit of a Zarr store, its maps written tile by tile, saved and loaded."""
    pytest.importorskip("zarr")
    GAPS.chunk(CHUNKS).to_dataset(name="reflectance").to_zarr(
        tmp_path / "images.zarr", consolidated=False
    )
    images = xr.open_zarr(tmp_path / "images.zarr", consolidated=False)["reflectance"]
    result = run(cubes=images, memory=SMALL, maps=False)
    for name in ("abundances", "variability", "valid"):
        assert result.dataset[name].chunks is not None
    path = result.predict_to_zarr(images, tmp_path / "maps.zarr", tile=3, progress=False)
    full = run(cubes=images, memory=SMALL)
    with xr.open_zarr(path) as written:
        maps = written["abundances"].transpose(*full.abundances.dims)
        np.testing.assert_allclose(maps, full.abundances, atol=2e-6)
    np.testing.assert_array_equal(result.losses, full.losses)
    xr.testing.assert_allclose(result.dataset.compute(), full.dataset, atol=2e-6)
    result.save(tmp_path / "saved")
    loaded = pu.Unmixing.load(tmp_path / "saved")
    np.testing.assert_allclose(loaded.abundances, full.abundances, atol=2e-6)
    np.testing.assert_array_equal(loaded.cubes, pu.as_cube_sequence(images))


def test_maps_are_left_lazy_only_where_they_can_be():
    with pytest.raises(ValueError, match="maps=False is for a DataArray in chunks"):
        run(maps=False)
    with pytest.raises(TypeError, match="maps must be True or False, got 0"):
        run(maps=0)


def test_other_parts_train_from_disk_as_well():
    """A field that pixels share, polished maps, one image, dims in another order, double precision."""
    shape = (3, 5, 6)
    prior = pu.priors.SmoothVariability(shape, length=2.0)
    model = pu.SGLMM(
        pu.FixedEndmembers(ours()[0].reference.value.detach().numpy()),
        basis=pu.bases.DCT(2, scale=0.4), abundance_prior=pu.priors.JumpWalk(), variability_prior=prior,
    )  # fmt: skip
    pair = model, pu.ConjugateGuide(model)
    smooth = run(pair=pair, cubes=GAPS.chunk(CHUNKS), memory=SMALL, num_steps=5)
    np.testing.assert_allclose(
        smooth.abundances, smooth.predict(GAPS).abundances, atol=2e-6, rtol=1e-5
    )
    polished = pu.posterior.PolishedMean(num_samples=8, num_sweeps=2)
    result = run(cubes=GAPS.chunk(CHUNKS), memory=SMALL, num_steps=3, estimate=polished)
    np.testing.assert_allclose(result.abundances, result.predict(GAPS).abundances, atol=1e-5)
    model, guide = ours()
    image = CUBES[0].astype("f8").transpose("wavelength", "x", "y")
    pair = model.double(), guide.double()
    one = run(pair=pair, cubes=image.chunk(y=2), memory=SMALL, num_steps=3)
    assert one.abundances.sizes["time"] == 1 and one.abundances.dtype == np.float64


def test_an_interrupt_returns_what_was_learned():
    def callback(step: int, elbo: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    result = run(cubes=GAPS.chunk(CHUNKS), memory=SMALL, callback=callback)
    assert len(result.losses) == 5 and np.isfinite(result.abundances).all()


@pytest.mark.usefixtures("told_at_once")
def test_progress_is_shown(capsys, caplog):
    caplog.set_level(logging.INFO)
    run(cubes=GAPS.chunk(CHUNKS), memory=SMALL, num_steps=2, progress=True)
    text = capsys.readouterr().err
    assert "look: 6 of 6 chunks" in text and "read out: 30 of 30 pixels" in text


PROGRAM = """
import json, sys
import numpy as np, torch, xarray as xr
import pyro_unmix as pu

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1e3

torch.set_num_threads(1)
L = 120
spectra = pu.simulate.library(np.linspace(400, 2500, L)).values[:, :2]
found = []
for path in sys.argv[1:]:
    cubes = xr.open_zarr(path, consolidated=False)["reflectance"]
    model = pu.SGLMM(pu.FixedEndmembers(spectra), basis=pu.bases.DCT(1, scale=0.1))
    guide = pu.ConjugateGuide(model)
    result = pu.fit(
        model, guide, cubes, num_steps=60, batch_size=64, memory=2_000_000, progress=False,
        estimate=pu.posterior.PosteriorMean(4),
    )
    assert np.isfinite(result.abundances).all() and len(result.losses) == 60
    del result
    found.append([cubes.nbytes / 1e6, peak()])
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory as Linux tells it")
def test_memory_does_not_grow_with_the_number_of_pixels(tmp_path):
    pytest.importorskip("zarr")
    rng = np.random.default_rng(0)
    spectra = pu.simulate.library(np.linspace(400, 2500, 120)).values[:, :2]
    paths = []
    for height in (50, 50, 200):  # twice, to get all started
        mixed = rng.dirichlet([1, 1], size=(2, height, 100)) @ spectra.T
        cubes = xr.DataArray(mixed.astype("f4"), dims=("time", "y", "x", "wavelength"))
        paths.append(str(tmp_path / f"{len(paths)}.zarr"))
        stored = cubes.chunk(y=25, x=40).to_dataset(name="reflectance")
        stored.to_zarr(paths[-1], consolidated=False)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *paths],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (_, _), (small, before), (large, after) = json.loads(done.stdout.splitlines()[-1])
    assert large == 4 * small > 19
    # The maps themselves grow by 2 MB; all spectra by 14, of which a fit would hold several copies.
    assert after - before < 11, (before, after)
