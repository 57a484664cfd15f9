"""Fits leave no trace behind, and have the same bits wherever they are repeated."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from fit_cases import CUBES, METHODS, PAIRS, changed, paper, run, weights_of

from pyro_unmix import fit

pytestmark = pytest.mark.usefixtures("seeded")


def global_state() -> dict[str, object]:
    return {
        "store": {k: v.detach().clone() for k, v in pyro.get_param_store().items()},
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),  # noqa: NPY002
        "python": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "pyro validation": pyro.settings.get("validate_infer"),
        "poutine validation": pyro.settings.get("validate_poutine"),
        "distributions validation": pyro.settings.get("validate_distributions_pyro"),
        "torch validation": torch.distributions.Distribution._validate_args,
        "handlers": list(pyro.poutine.runtime._PYRO_STACK),
    }


def assert_same_state(before: dict[str, object], after: dict[str, object]) -> None:
    for key, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, after[key]), key
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, after[key], err_msg=key)
        elif isinstance(value, dict):
            assert value.keys() == after[key].keys()
            assert all(torch.equal(v, after[key][k]) for k, v in value.items())
        else:
            assert value == after[key], key


def fail(step: int, elbo: float) -> None:
    raise RuntimeError


def interrupt(step: int, elbo: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("callback", [None, fail, interrupt])
@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_fit_leaves_no_trace(name, validation, callback):
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with pyro.get_param_store().scope(), pyro.validation_enabled(validation):
        try:
            model, guide = PAIRS[name]()
            pyro.param("mine", torch.tensor(3.0))
            torch.set_num_threads(2)
            torch.set_default_dtype(torch.float64)
            torch.manual_seed(123)
            before = global_state()
            assert before["torch validation"] == validation
            try:
                fit(model, guide, CUBES, num_steps=2, progress=False, callback=callback)
            except RuntimeError:
                assert callback is fail
            assert_same_state(before, global_state())
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)


def test_results_do_not_depend_on_the_global_state():
    expected = run()
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    threads = torch.get_num_threads()
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        # An entry of the same name must not take the parameter's place.
        pyro.param("model.noise.log_scale", torch.tensor(7.0))
        torch.set_num_threads(2)
        try:
            got = run()
        finally:
            torch.set_num_threads(threads)
    np.testing.assert_array_equal(got.losses, expected.losses)
    xr.testing.assert_identical(got.abundances, expected.abundances)


@pytest.mark.parametrize("name", PAIRS)
def test_the_users_cubes_stay_as_they_are(name):
    cubes = CUBES.copy(deep=True)
    cubes[0, 0, 0, 3] = np.nan
    before = cubes.copy(deep=True)
    run(PAIRS[name], cubes=cubes)
    xr.testing.assert_identical(cubes, before)


@pytest.mark.parametrize("name", METHODS)
def test_three_runs_have_the_same_bits(name):
    first, *others = (METHODS[name]() for _ in range(3))
    for other in others:
        np.testing.assert_array_equal(other.losses, first.losses)
        xr.testing.assert_identical(other.to_dataset(), first.to_dataset())
        assert not changed(weights_of(first.model, first.guide), other.model, other.guide)


@pytest.mark.parametrize("name", METHODS)
def test_the_number_of_threads_changes_nothing(name):
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2, 4):
        torch.set_num_threads(number)
        try:
            results.append(METHODS[name]())
        finally:
            torch.set_num_threads(threads)
    for other in results[1:]:
        np.testing.assert_array_equal(other.losses, results[0].losses)
        xr.testing.assert_identical(other.to_dataset(), results[0].to_dataset())


@pytest.mark.parametrize("name", PAIRS)
def test_the_same_seed_gives_the_same_bits(name):
    first, again, other = (run(PAIRS[name], seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.losses, again.losses)
    xr.testing.assert_identical(first.to_dataset(), again.to_dataset())
    assert not changed(weights_of(first.model, first.guide), again.model, again.guide)
    assert (first.losses != other.losses).all()


PROGRAM = """
import sys
import numpy as np
sys.path.insert(0, {tests!r})
from fit_cases import METHODS
for name in sys.argv[2:]:
    result = METHODS[name]()
    np.savez(sys.argv[1] + name, losses=result.losses, abundances=result.abundances.values)
"""


def test_fits_in_one_process_equal_those_in_others(tmp_path: Path):
    program = PROGRAM.format(tests=str(Path(__file__).parents[1] / "support"))
    processes = []
    # Sets of parameters are ordered by their hashes, which differ between processes; OpenMP and
    # BLAS have two threads, or one.
    names = [("paper", "unmix", "redsunn"), ("ours",)]
    for hash_seed, (threads, alone) in enumerate(zip(("2", "1"), names, strict=True), start=1):
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        environment |= {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        arguments = [sys.executable, "-c", program, str(tmp_path / "alone-"), *alone]
        processes.append(subprocess.Popen(arguments, env=environment))
    here = {name: make() for name, make in METHODS.items()}
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    for name, result in here.items():
        alone = np.load(tmp_path / f"alone-{name}.npz")
        # The start of the presets is found by BLAS, with its own number of threads.
        tolerance = 0 if name in PAIRS else 1e-4
        np.testing.assert_allclose(alone["losses"], result.losses, rtol=0, atol=tolerance)
        abundances = result.abundances.values
        np.testing.assert_allclose(alone["abundances"], abundances, rtol=0, atol=tolerance)


def test_fitting_again_goes_on_from_where_it_was():
    model, guide = paper()
    settings = {"batch_size": 30, "learning_rate": 0.01, "progress": False}
    first = fit(model, guide, CUBES, num_steps=40, **settings)
    second = fit(model, guide, CUBES, num_steps=40, **settings)
    assert second.losses[:5].mean() < first.losses[:5].mean()
    assert second.losses.mean() < first.losses.mean()
