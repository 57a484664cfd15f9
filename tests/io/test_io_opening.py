"""Paths, folders and arrays at the door of methods and engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from envi_files import write
from products import cube, write_tiff

import pyro_unmix as pu
from pyro_unmix.io import FileError, open_images
from pyro_unmix.start.several_starts import several_starts

IMAGE = np.random.default_rng(0).uniform(0.1, 0.6, size=(3, 4, 5))


def save(path: Path, image: np.ndarray = IMAGE, day: str = "2024-05-01") -> Path:
    np.savez(path, Y=image[None], time=[day])
    return path


def test_a_path_a_list_and_a_folder(tmp_path: Path) -> None:
    one = save(tmp_path / "a.npz")
    two = save(tmp_path / "b.npz", IMAGE / 2, "2024-04-01")
    (tmp_path / "notes.txt").write_text("seen from the hill")
    (tmp_path / ".hidden.npz").write_bytes(one.read_bytes())
    (tmp_path / "quicklooks").mkdir()
    np.testing.assert_array_equal(open_images(str(one))[0], IMAGE)
    for given in ([one, str(two)], tmp_path, str(tmp_path)):
        images = open_images(given)
        np.testing.assert_array_equal(images, [IMAGE / 2, IMAGE])  # in the order of their dates
        assert images["time"].values[0] == np.datetime64("2024-04-01")


@pytest.mark.parametrize("names", [("a.hdr", "a.img"), ("a.HDR", "a.img"), ("A.img.HDR", "A.img")])
def test_an_envi_image_and_its_header_are_one(tmp_path: Path, names: tuple[str, str]) -> None:
    header = write(tmp_path, header=names[0], name=names[1])
    assert {p.name for p in tmp_path.iterdir()} == set(names)
    np.testing.assert_array_equal(open_images(tmp_path), pu.read_sequence(header))


def test_what_lies_beside_images_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("spectral")
    save(tmp_path / "EMIT_L2A_RFL_001_20240501T101010.npz")
    beside = [
        "EMIT_L2A_MASK_001_20240501T101010.npz", "EMIT_L2A_RFLUNCERT_001_20240501T101010.npz",
        "ENMAP01-QL_QUALITY_CLOUD.npz", "T32_SCL_20m.npz", "mask.npz", "cloud_mask.npz", "b.tif.ovr", "b.tif.msk",
    ]  # fmt: skip
    for name in beside:
        if name.endswith(".npz"):
            save(tmp_path / name, np.zeros((3, 4, 1)))
        else:
            write_tiff(tmp_path / name, cube())
    spectra = xr.DataArray(
        np.full((5, 2), 0.3), dims=("wavelength", "endmember"),
        coords={"wavelength": np.arange(5) + 500.0, "label": ("endmember", ["soil", "water"])},
    )  # fmt: skip
    pu.io.write_library(spectra, tmp_path / "endmembers.sli")
    with caplog.at_level("INFO", logger="pyro_unmix"):
        np.testing.assert_array_equal(open_images(tmp_path), [IMAGE])
    for name in [*beside, "endmembers.sli", "endmembers.hdr"]:
        assert (tmp_path / name).exists() and name in caplog.text
    (tmp_path / "EMIT_L2A_RFL_001_20240501T101010.npz").unlink()
    with pytest.raises(
        FileError, match=r"without an image among its 10 .*passed over .*cloud_mask"
    ):
        open_images(tmp_path)


@pytest.mark.parametrize("name", ["unmasked.npz", "quasqla.npz", "masks_applied.npz"])
def test_names_that_only_look_like_masks_are_images(tmp_path: Path, name: str) -> None:
    save(tmp_path / name)
    np.testing.assert_array_equal(open_images(tmp_path), [IMAGE])


def test_an_error_of_a_folder_says_that_it_was_one(tmp_path: Path) -> None:
    save(tmp_path / "a.npz")
    np.savez(tmp_path / "clouds.npz", Y=np.zeros((1, 3, 4, 1)), time=["2024-06-01"])
    with pytest.raises(FileError, match="found in the folder .*: pass a list of the images"):
        open_images(tmp_path)
    with pytest.raises(FileError) as caught:
        open_images([tmp_path / "a.npz", tmp_path / "clouds.npz"])
    assert "found in" not in caught.value.problem


def test_what_is_in_memory_comes_back(tmp_path: Path) -> None:
    assert open_images(IMAGE) is IMAGE
    assert open_images([IMAGE, IMAGE])[1] is IMAGE


def test_a_folder_that_is_one_image_is_read_as_such(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    cubes = pu.as_cube_sequence(IMAGE)
    cubes.to_dataset().to_zarr(tmp_path / "scene.zarr")
    np.testing.assert_array_equal(open_images(tmp_path / "scene.zarr"), cubes)
    np.testing.assert_array_equal(open_images(tmp_path), cubes)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file: .*nothing"):
        open_images(tmp_path / "nothing")
    (tmp_path / "readme.txt").write_text("empty")
    with pytest.raises(FileError, match="a folder without an image among its 1 entries"):
        open_images(tmp_path)
    path = save(tmp_path / "a.npz")
    with pytest.raises(TypeError, match="paths only or arrays only, got PosixPath, ndarray"):
        open_images([path, IMAGE])
    write_tiff(tmp_path / "b.tif", cube())
    with pytest.raises(FileError, match="scale"):  # integers without one
        pu.unmix(tmp_path / "b.tif", 2)


def test_paths_as_users_write_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.npz")
    save(tmp_path / "b.npz", IMAGE / 2, "2024-06-01")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for given in (tmp_path.glob("*.npz"), "~", Path("~"), ["~/a.npz", "~/b.npz"]):
        np.testing.assert_array_equal(open_images(given), [IMAGE, IMAGE / 2])
    np.testing.assert_array_equal(pu.read_sequence(tmp_path.glob("*.npz")), [IMAGE, IMAGE / 2])
    np.testing.assert_array_equal(pu.read_sequence("~/a.npz"), [IMAGE])
    assert open_images(iter([IMAGE]))[0] is IMAGE
    for read in (open_images, pu.read_sequence):
        for empty in ("", [""]):
            with pytest.raises(ValueError, match="a path must not be empty, got '': pass '.' for"):
                read(empty)
        with pytest.raises(FileNotFoundError, match=r"no such file: .*\*.npz: expand it with Path"):
            read(tmp_path / "*.npz")
        with pytest.raises(ValueError, match="paths must name at least one file"):
            read(tmp_path.glob("*.tif"))
        with pytest.raises(FileError, match="is a folder, and none of .*: pass its files"):
            read([tmp_path])


def test_engines_take_paths(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz")
    spectra = np.random.default_rng(1).uniform(0.1, 0.6, size=(5, 2))
    model = pu.SGLMM(spectra, basis=pu.Brightness())
    how = {"num_steps": 1, "progress": False}
    from_file = pu.fit(model, pu.ConjugateGuide(model), path, **how)
    again = pu.SGLMM(spectra, basis=pu.Brightness())
    in_memory = pu.fit(again, pu.ConjugateGuide(again), IMAGE, **how)
    np.testing.assert_array_equal(from_file.abundances, in_memory.abundances)
    np.testing.assert_array_equal(
        from_file.predict(path).abundances, from_file.predict(IMAGE).abundances
    )
    chains = {"num_rounds": 4, "num_spectra": 8, "num_held_out": 2, "num_samples": 4}
    simplex = pu.models.SimplexMixing(spectra)
    drawn = [pu.sample(simplex, x, progress=False, **chains) for x in (path, IMAGE)]
    np.testing.assert_array_equal(drawn[0].abundances, drawn[1].abundances)


def test_what_begins_with_images_takes_paths(tmp_path: Path) -> None:
    scene = pu.simulate.scaled_scene(num_dates=1, height=8, width=8, seed=0).cubes[..., ::8]
    path = tmp_path / "a.npz"
    np.savez(path, Y=scene.values, wavelength=scene["wavelength"].values)
    cubes = pu.read_sequence(path)
    for name in ("hysime", "estimate_noise_scale"):
        assert getattr(pu.start, name)(path) == getattr(pu.start, name)(cubes)
    assert pu.extract_endmembers(str(path), 3).equals(pu.extract_endmembers(cubes, 3))
    one, two = (pu.choose_start(x, 3, progress=False) for x in ([path], cubes))
    assert one.log_likelihoods == two.log_likelihoods
    assert len(several_starts(path, one)) == len(several_starts(cubes, two))
    model = pu.SGLMM(one.endmembers, basis=pu.Brightness())
    assert pu.start.misfit_factor(model, path) == pu.start.misfit_factor(model, cubes)
    mask = {"all": np.ones((8, 8), dtype=bool)}
    assert pu.io.library_from_pixels(path, mask).equals(pu.io.library_from_pixels(cubes, mask))
    with pytest.raises(TypeError, match="pyro_unmix.read_sequence for a file"):
        pu.as_cube_sequence(path)  # type: ignore[arg-type]


def test_dims_by_other_names_with_bands_to_ignore() -> None:
    bands = [450.0, 800.0, 1400.0, 1650.0, 2200.0]
    ours = pu.as_cube_sequence(IMAGE, wavelength=bands)
    theirs = xr.DataArray(
        IMAGE, dims=("lat", "lon", "band"), coords={"wavelength": ("band", bands)}
    )
    spectra = np.random.default_rng(1).uniform(0.1, 0.6, size=(5, 2))
    how = {"endmembers": spectra, "ignore": [(1300, 1500)], "progress": False}
    one, two = (pu.methods.fcls(x, **how) for x in (ours, theirs))
    np.testing.assert_array_equal(one.abundances, two.abundances)
    assert one.cubes is not None and one.cubes.sizes["wavelength"] == 4
