"""What all methods have in common: one signature, one kind of result, the same errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import pyro_unmix as pu
from pyro_unmix.infer.settings import FitSettings, SampleSettings

#: Every method; a new one is added here.
METHODS: list[Callable[..., pu.Unmixing]] = [
    getattr(pu.methods, name) for name in pu.methods.__all__
]
#: One step of those that train.
FEW: dict[str, dict[str, Any]] = {
    name: {"num_steps": 1} for name in ("unmix", "redsunn", "redsunn_published", "idnet", "hbun")
}
FEW["unmix_by_chains"] = {"num_rounds": 4, "num_spectra": 20, "num_held_out": 5, "num_samples": 4}
BANDS, MATERIALS = 9, 3
RNG = np.random.default_rng(0)
SPECTRA = RNG.uniform(0.05, 0.6, size=(BANDS, MATERIALS))
NOISE = RNG.normal(0, 0.01, size=(2, 4, 5, BANDS))
CUBES = RNG.dirichlet(np.ones(MATERIALS), size=(2, 4, 5)) @ SPECTRA.T + NOISE

methods = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


def run(
    method: Callable[..., pu.Unmixing], *given: Any, cubes: Any = CUBES, **settings: Any
) -> pu.Unmixing:
    """A method on its first image, or on all of them, with few steps."""
    images = cubes[:1] if method.__name__ == "idnet" else cubes
    return method(images, *given, progress=False, **{**FEW.get(method.__name__, {}), **settings})


@methods
def test_one_signature(method: Callable[..., pu.Unmixing]) -> None:
    parameters = inspect.signature(method).parameters
    assert list(parameters)[:3] == ["cubes", "num_endmembers", "endmembers"]
    assert parameters["num_endmembers"].default is parameters["endmembers"].default is None
    assert parameters["ignore"].default is None
    assert parameters["seed"].default == 0 and parameters["progress"].default is True
    assert parameters["num_endmembers"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert all(p.kind is not inspect.Parameter.POSITIONAL_ONLY for p in parameters.values())
    named = list(parameters.values())[2:]
    assert {p.kind for p in named} <= {
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    }


@methods
def test_a_number_of_materials_or_their_spectra(method: Callable[..., pu.Unmixing]) -> None:
    given = run(method, endmembers=SPECTRA)
    for result in (run(method, MATERIALS), given):
        assert isinstance(result, pu.Unmixing) and result.method == method.__name__
        assert result.num_endmembers == MATERIALS
        total = result.abundances.sum("endmember").values
        np.testing.assert_allclose(total, 1.0, atol=1e-5)
    both = run(method, MATERIALS, endmembers=SPECTRA)
    np.testing.assert_array_equal(both.abundances, given.abundances)


@methods
def test_arrays_that_run_backwards(method: Callable[..., pu.Unmixing]) -> None:
    turned, spectra = CUBES[:, ::-1, ::-1], SPECTRA[:, ::-1]
    backwards = run(method, cubes=turned, endmembers=spectra)
    copies = run(method, cubes=turned.copy(), endmembers=spectra.copy())
    np.testing.assert_array_equal(backwards.abundances, copies.abundances)


@methods
def test_images_in_a_folder_are_those_in_memory(
    method: Callable[..., pu.Unmixing], tmp_path: Path
) -> None:
    images = CUBES[:1] if method.__name__ == "idnet" else CUBES
    for number, image in enumerate(images):
        np.savez(tmp_path / f"{number}.npz", Y=image[None], time=[f"2024-0{number + 1}-01"])
    dates = [f"2024-0{number + 1}-01" for number in range(len(images))]
    from_files = method(tmp_path, MATERIALS, progress=False, **FEW.get(method.__name__, {}))
    in_memory = run(method, MATERIALS, cubes=pu.as_cube_sequence(images, time=dates))
    np.testing.assert_array_equal(from_files.abundances, in_memory.abundances)


@methods
@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({}, ValueError, "num_endmembers.*or.*endmembers.*got neither"),
        ({"num_endmembers": 2.5}, TypeError, "num_endmembers must be an integer"),
        ({"num_endmembers": True}, TypeError, "num_endmembers must be an integer"),
        (
            {"num_endmembers": SPECTRA},
            TypeError,
            r"got something of shape \(9, 3\): pass spectra by their name",
        ),
        ({"num_endmembers": 4, "endmembers": SPECTRA}, ValueError, "num_endmembers is 4, but"),
        ({"endmembers": SPECTRA[:5]}, ValueError, "one row per band"),
        ({"num_endmembers": 3, "seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"num_endmembers": 3, "seed": 1.5}, TypeError, "seed must be an integer, got 1.5"),
        (
            {"num_endmembers": 3, "batchsize": 2},
            TypeError,
            "unexpected keyword argument 'batchsize'",
        ),
    ],
)
def test_errors(
    method: Callable[..., pu.Unmixing], settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        run(method, **settings)


def test_the_settings_of_methods_are_those_of_fit() -> None:
    taken = set(inspect.signature(pu.fit).parameters)
    apart = {
        "model",
        "guide",
        "cubes",
        "decode",
        "seed",
        "progress",
        "num_steps",
        "num_epochs",
    }
    assert set(get_type_hints(FitSettings)) == taken - apart


def test_the_settings_of_chains_are_those_of_sample() -> None:
    taken = set(inspect.signature(pu.sample).parameters)
    assert set(get_type_hints(SampleSettings)) == taken - {"model", "cubes", "seed", "progress"}
