"""Arrays of all kinds: a finite result on the simplex, or an error that says what was expected; the input unchanged."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyro_unmix as pu

DTYPES = ["f2", "<f4", ">f4", "<f8", ">f8", "g", "i2", "u1", "?", "c8", "O"]
VALUES = [
    "random", "constant", "constant pixels", "zero pixels", "low rank", "mixed", "negative", "tiny",
    "missing", "fill", "all zero",
]  # fmt: skip
LAYOUTS = ["C", "F", "step", "reversed", "swapped", "broadcast"]
KINDS = ["array", "read-only", "masked", "DataArray", "list", "image"]
few = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def values_of(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Reflectances (T, H, W, L) in double precision."""
    values = rng.uniform(0.01, 1, shape)
    spectra = rng.uniform(0.05, 0.9, (3, shape[-1]))
    some = rng.random(shape[:3]) < 0.4
    match kind:
        case "constant":
            values[:] = 0.3
        case "constant pixels":
            values[some] = 0.5
        case "zero pixels":
            values[some] = 0.0
        case "low rank":
            values = rng.uniform(0.1, 1, (*shape[:3], 1)) * spectra[0]
        case "mixed":
            values = rng.dirichlet(np.ones(3), shape[:3]) @ spectra
        case "negative":
            values -= 0.2
        case "tiny":
            values *= 1e-7
        case "missing":
            values[some, rng.integers(shape[-1])] = np.nan
        case "fill":
            values[some] = -9999
        case "all zero":
            values[:] = 0
    return values


def laid_out(values: np.ndarray, layout: str) -> np.ndarray:
    """The same values in memory of another order."""
    match layout:
        case "F":
            return np.asfortranarray(values)
        case "step":
            wide = np.full(
                (*values.shape[:2], 2 * values.shape[2], values.shape[3]), 77, values.dtype
            )
            wide[:, :, ::2] = values
            return wide[:, :, ::2]
        case "reversed":
            return np.ascontiguousarray(values[:, ::-1, :, ::-1])[:, ::-1, :, ::-1]
        case "swapped":
            return np.ascontiguousarray(values.swapaxes(0, 3)).swapaxes(0, 3)
        case "broadcast":
            return np.broadcast_to(values[:, :1], values.shape)
    return values


def wrapped(values: np.ndarray, kind: str, rng: np.random.Generator) -> Any:
    match kind:
        case "read-only":
            values.flags.writeable = False
        case "masked":
            return np.ma.masked_array(values, rng.random(values.shape) < 0.1)
        case "DataArray":
            dims = ("time", "y", "x", "wavelength")
            return xr.DataArray(values, dims=dims).transpose("wavelength", "x", "time", "y")
        case "list":
            return list(values)
        case "image":
            return values[0]
    return values


@st.composite
def inputs(draw) -> tuple[Any, int]:
    """Something that stands for images, and a number of materials."""
    sizes = ([1, 2, 3], [1, 3, 5, 6], [1, 4, 5], [1, 2, 5, 8, 9])
    shape = tuple(draw(st.sampled_from(size)) for size in sizes)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    values = values_of(draw(st.sampled_from(VALUES)), shape, rng)
    # Most are of a type that is accepted, or nothing else would be tested.
    dtype = draw(st.sampled_from(DTYPES[:6] * 4 + DTYPES))
    with np.errstate(invalid="ignore"):
        values = values.astype(dtype)
    values = laid_out(values, draw(st.sampled_from(LAYOUTS)))
    return wrapped(values, draw(st.sampled_from(KINDS)), rng), draw(
        st.sampled_from([2, 3, 4, 1, 6])
    )


def bytes_of(cubes: Any) -> list[bytes]:
    """All that could be changed: values below a mask too."""
    if isinstance(cubes, list):
        return [part for cube in cubes for part in bytes_of(cube)]
    array = cubes.values if isinstance(cubes, xr.DataArray) else cubes
    if isinstance(array, np.ma.MaskedArray):
        return [array.data.tobytes(), np.ma.getmaskarray(array).tobytes()]
    return [array.tobytes() if array.dtype != object else repr(array.tolist()).encode()]


def outcome(call: Any, cubes: Any) -> Any:
    """The result, or None after an error that a user can act on; the input must stay as it is."""
    before = bytes_of(cubes)
    try:
        result = call(cubes)
    except (ValueError, TypeError) as error:
        # A message of this package's, which was meant for the user, and not of a library inside.
        raised = traceback.extract_tb(error.__traceback__)[-1].filename
        assert Path(pu.__file__).parent in Path(raised).parents, repr(error)
        result = None
    assert bytes_of(cubes) == before
    return result


def assert_on_simplex(result: pu.Unmixing, count: int) -> None:
    values = result.abundances.values
    assert values.shape[-1] == count
    assert np.isfinite(values[result.valid.values.astype(bool)]).all()
    assert np.isfinite(result.reference_endmembers).all()
    observed = values[result.valid.values.astype(bool)]
    assert (observed >= -1e-6).all()
    np.testing.assert_allclose(observed.sum(-1), 1, atol=1e-5)


@settings(few, max_examples=200)
@given(inputs())
def test_the_data_contract(drawn):
    cubes, _ = drawn
    result = outcome(pu.as_cube_sequence, cubes)
    if result is None:
        return
    assert result.dims == ("time", "y", "x", "wavelength")
    assert result.dtype in (np.float32, np.float64)
    assert result.dtype.isnative
    # Values that are not masked, missing or fill are those of the input, in its order of dims.
    if isinstance(cubes, xr.DataArray):
        given_values = cubes.transpose(*result.dims).values
    else:
        given_values = np.ma.masked_array(cubes) if not isinstance(cubes, list) else np.stack(cubes)
        given_values = given_values.reshape(result.shape)
    expected = np.ma.filled(np.ma.masked_array(given_values, dtype=float), np.nan)
    expected = np.where((expected == 0).all(-1, keepdims=True), np.nan, expected)
    np.testing.assert_allclose(result.values, expected, rtol=1e-6)
    assert not result.values.flags.writeable or not np.shares_memory(result.values, given_values)


@settings(few, max_examples=150)
@given(inputs(), st.integers(0, 100), st.sampled_from(["random", "equal", "collinear", "count"]))
def test_fcls(drawn, seed, kind):
    cubes, count = drawn
    num_bands = np.shape(cubes)[-1]
    if isinstance(cubes, xr.DataArray):
        num_bands = cubes.sizes["wavelength"]
    endmembers: Any = np.random.default_rng(seed).uniform(0.05, 0.9, (num_bands, count))
    if kind == "equal":
        endmembers[:] = endmembers[:, :1]
    elif kind == "collinear":
        endmembers = endmembers[:, :1] * np.linspace(0.5, 1, count)
    elif kind == "count":
        endmembers = count
    result = outcome(lambda x: pu.methods.fcls(x, endmembers=endmembers, progress=False), cubes)
    if result is not None:
        assert_on_simplex(result, count)


@settings(few, max_examples=100)
@given(inputs())
def test_unmix(drawn):
    cubes, count = drawn
    result = outcome(lambda x: pu.unmix(x, count, num_steps=0, progress=False), cubes)
    if result is not None:
        assert_on_simplex(result, count)
        assert np.isfinite(result.abundances).all()  # what is missing is filled
        assert (result.abundances_std >= 0).all()


@settings(few, max_examples=50)
@given(inputs())
def test_redsunn(drawn):
    cubes, count = drawn
    result = outcome(lambda x: pu.redsunn(x, count, num_steps=0, progress=False), cubes)
    if result is not None:
        assert_on_simplex(result, count)
        assert np.isfinite(result.abundances).all()


@pytest.mark.parametrize("count", [2, 3])
def test_a_plain_scene_is_no_error(count):
    """The tests above would pass if everything were refused."""
    rng = np.random.default_rng(0)
    cubes = values_of("mixed", (2, 4, 4, 6), rng)
    for call in (
        lambda x: pu.methods.fcls(x, count, progress=False),
        lambda x: pu.unmix(x, count, num_steps=0, progress=False),
        lambda x: pu.redsunn(x, count, num_steps=0, progress=False),
    ):
        assert outcome(call, cubes) is not None


@pytest.mark.parametrize(
    ("seed", "shape", "dtype"),
    [(19, (2, 4, 4, 8), "f4"), (20, (3, 4, 4, 9), "f2"), (72, (3, 6, 4, 5), "f2")],
)
def test_more_materials_than_the_scene_has(seed, shape, dtype):
    """Endmembers of rank 3, up to rounding: matrices that single precision makes singular."""
    rng = np.random.default_rng(seed)
    rng.integers(1, 4), rng.integers(4)
    cubes = values_of("mixed", shape, rng).astype(dtype)
    result = pu.unmix(cubes, 4, num_steps=0, progress=False)
    assert_on_simplex(result, 4)
