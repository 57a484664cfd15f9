"""What once was accepted in silence, or ended in an error of another library."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu
from pyro_unmix import metrics
from pyro_unmix.cli import main
from pyro_unmix.data.checks import as_endmembers, as_wavelengths
from pyro_unmix.data.lazy import as_lazy_cubes, cleaned
from pyro_unmix.io import FileError, read_library, read_sequence
from pyro_unmix.ops.checks import positive_int

VALUES = np.random.default_rng(8).uniform(0.05, 0.5, (2, 6, 5, 4))


def cubes(values: np.ndarray = VALUES) -> xr.DataArray:
    return xr.DataArray(values, dims=("time", "y", "x", "wavelength"))


# ------------------------------------------------------------------ images


@pytest.mark.parametrize("chunks", [None, "auto"])
def test_images_without_a_positive_value(tmp_path: Path, chunks: Any) -> None:
    with pytest.raises(ValueError, match=r"got no positive value \(-0.49.* to -0.05"):
        pu.as_cube_sequence(-VALUES)
    np.save(tmp_path / "a.npy", -VALUES)
    with pytest.raises(FileError, match="a.npy: values: .*got no positive value"):
        read_sequence(tmp_path / "a.npy", chunks=chunks)
    some = -VALUES.copy()
    some[0, 0, 0, 0] = 0.1
    pu.as_cube_sequence(some)


@pytest.mark.parametrize("chunks", [None, "auto"])
@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e-6])
def test_images_of_no_scale(tmp_path: Path, chunks: Any, scale: float) -> None:
    with pytest.raises(
        ValueError, match="got no value beyond .*: multiply by the scale of the product"
    ):
        pu.as_cube_sequence(scale * VALUES)
    with pytest.raises(ValueError, match="endmembers must be reflectances .*, got none beyond"):
        as_endmembers(scale * VALUES[0, 0])
    np.save(tmp_path / "a.npy", scale * VALUES)
    with pytest.raises(
        FileError, match="a.npy: values: .*(got no value beyond|closer to 0 than 1e-30)"
    ):
        read_sequence(tmp_path / "a.npy", chunks=chunks)
    np.testing.assert_array_equal(pu.as_cube_sequence(1e-4 * VALUES), 1e-4 * VALUES)


def test_a_tile_in_the_shade_is_no_reason_to_refuse_a_scene() -> None:
    tile = cubes(-VALUES)
    np.testing.assert_array_equal(cleaned(tile), tile)
    with pytest.raises(ValueError, match="looks like a fill value"):
        cleaned(-9999 + 0 * tile)


def test_sizes_that_dask_does_not_know() -> None:
    array = pytest.importorskip("dask.array")
    pixels = array.from_array(VALUES.reshape(-1, 4))
    known = pixels[pixels[:, 0] > 0.2]
    odd = xr.DataArray(known[np.newaxis, np.newaxis], dims=("time", "y", "x", "wavelength"))
    for look in (pu.as_cube_sequence, as_lazy_cubes):
        with pytest.raises(ValueError, match="must have known sizes, got none along x: call comp"):
            look(odd)


# ------------------------------------------------------------------ wavelengths and seeds


def test_wavelengths_that_are_all_equal(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must differ between bands, got 500 nm for all 4"):
        as_wavelengths(np.full(4, 500.0), 4)
    np.testing.assert_array_equal(as_wavelengths([500, 500, 600, 700], 4), [500, 500, 600, 700])
    np.testing.assert_array_equal(as_wavelengths([500], 1), [500])
    np.savez(tmp_path / "a.npz", cubes=VALUES, wavelength=np.full(4, 0.5), wavelength_unit="um")
    for chunks in (None, "auto"):
        with pytest.raises(FileError, match="a.npz: wavelength: must differ .* got 0.5 um for all"):
            read_sequence(tmp_path / "a.npz", chunks=chunks)


def test_numbers_beyond_64_bits() -> None:
    assert positive_int(2**63 - 1, "seed") == 2**63 - 1
    with pytest.raises(ValueError, match=f"seed must be at most {2**63 - 1}, got {2**70}"):
        pu.unmix(cubes(), 2, seed=2**70)


# ------------------------------------------------------------------ names of materials


def spectra(names: Any) -> xr.DataArray:
    values = np.random.default_rng(0).uniform(0.1, 0.6, (4, len(names)))
    return xr.DataArray(values, dims=("wavelength", "endmember"), coords={"endmember": names})


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["soil", "soil"], "names of endmembers must differ, got 'soil' more than once"),
        ([1, 1], "must differ, got 1 more than once"),
        (["soil", ""], "and not empty, got ''"),
        (["soil", "  "], "and not empty, got '  '"),
        (["soil", "a\0b"], r"without null characters, and not empty, got 'a\\x00b'"),
        (["soil", "a\udcff"], r"texts of UTF-8 without null .* got 'a\\udcff'"),
    ],
)
def test_names_of_materials(names: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"{text}.*assign_coords"):
        as_endmembers(spectra(names))
    with pytest.raises(ValueError, match=text):
        pu.unmix(cubes(), endmembers=spectra(names))


def test_names_of_spectra_in_a_library_may_be_alike() -> None:
    library = spectra(["soil", "soil", "tree"]).assign_coords(label=("endmember", list("abb")))
    assert as_endmembers(library).shape == (4, 3)


def test_names_in_files_of_libraries(tmp_path: Path) -> None:
    for number, (name, text) in enumerate({"a\0b": r"'a\\x00b'", "\0": r"'\\x00'"}.items()):
        path = tmp_path / f"{number}.csv"
        path.write_text(f"class,500,600,700\n{name},0.1,0.2,0.3\nc,0.1,0.2,0.4\n")
        with pytest.raises(FileError, match=f"{number}.csv: names.*null characters.*{text}"):
            read_library(path)
    header = "ENVI\nsamples = 3\nlines = 2\nbands = 1\ndata type = 4\ninterleave = bsq\n"
    header += "byte order = 0\nfile type = ENVI Spectral Library\nwavelength units = nm\n"
    header += "wavelength = {500, 600, 700}\nspectra names = {a, }\n"
    (tmp_path / "b.hdr").write_text(header)
    np.full(6, 0.3, "f4").tofile(tmp_path / "b.sli")
    with pytest.raises(FileError, match="names of spectra and classes: must be .* not empty, got"):
        read_library(tmp_path / "b.sli")


# ------------------------------------------------------------------ archives


@pytest.mark.parametrize("second", ["cubes.npy", "cubes"])
def test_an_archive_that_holds_an_array_twice(tmp_path: Path, second: str) -> None:
    np.savez(tmp_path / "a.npz", cubes=VALUES)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        content = archive.read("cubes.npy")
        with pytest.warns(UserWarning) if second == "cubes.npy" else _nothing():
            archive.writestr(second, content)
    with pytest.raises(FileError, match="a.npz: cubes: is in the archive twice"):
        read_sequence(tmp_path / "a.npz")


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


# ------------------------------------------------------------------ scores and pictures


def test_a_score_against_an_array() -> None:
    truth = pu.simulate.scaled_scene(num_dates=2, height=4, width=4)
    with pytest.raises(TypeError, match=r"got list: pass np\.asarray\(truth\)"):
        metrics.score(truth, [0.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="result must have abundances, .*got DataArray without"):
        metrics.score(truth.abundances, truth)  # type: ignore[arg-type]


def test_pictures_of_a_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = tmp_path / "scene.nc"
    sizes = ["--num-dates", "2", "--height", "6", "--width", "7"]
    assert main(["simulate", "scaled", "--out", str(scene), *sizes]) == 0
    assert main(["plot", str(scene), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"pyro-unmix: error: {scene}: variables: lacks valid: expected a result"
    )
    assert not (tmp_path / "out").exists()
