"""Parts of images, masks, chunks and devices from the command line."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cli_file_cases import run
from products import write_safe, write_tiff
from rasterio.transform import Affine

import pyro_unmix as pu

NM = np.linspace(400.0, 2400.0, 14)
RNG = np.random.default_rng(0)
SPECTRA = RNG.uniform(0.05, 0.6, (14, 2))
VALUES = RNG.dirichlet(np.ones(2), (1, 6, 8)) @ SPECTRA.T


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("pyro_unmix.cli.unmixing.write_pictures", lambda *_: [])
    monkeypatch.setattr(
        "pyro_unmix.cli.unmixing.write_report", lambda _, path, **__: path.touch() or path
    )
    pu.as_cube_sequence(VALUES, wavelength=NM).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    rows = [",".join(["class", *map(repr, NM.tolist())])]
    rows += [
        f"{n}," + ",".join(map(repr, v.tolist())) for n, v in zip("ab", SPECTRA.T, strict=True)
    ]
    (tmp_path / "library.csv").write_text("\n".join(rows))
    return tmp_path / "a.nc"


def unmixed(image: Path, *more: object, method: str = "fcls") -> pu.Unmixing:
    out = image.with_name("out")
    given = ("--endmembers", image.with_name("library.csv"), "--method", method, "--out", out)
    assert run("unmix", image, *given, *more) == 0
    return pu.Unmixing.load(out / "saved")


@pytest.mark.parametrize("dask", [True, False])
def test_a_window_is_that_part_of_the_images(
    image: Path, dask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dask:
        pytest.importorskip("dask")
    else:
        monkeypatch.setattr("pyro_unmix.cli.arguments.find_spec", lambda _: None)
    part = unmixed(image, "--window", 1, 2, 3, 4)
    whole = unmixed(image)
    np.testing.assert_array_equal(part.abundances, whole.abundances[:, 1:4, 2:6])
    assert part.abundances.sizes["y"] == 3 and part.abundances.sizes["x"] == 4


@pytest.mark.parametrize("window", [(0, 0, 7, 1), (5, 7, 1, 2), (0, 0, 0, 3)])
def test_a_window_beyond_the_images_is_refused(
    image: Path, window: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--endmembers", 2, "--method", "fcls", "--out", image.with_name("out"))
    assert run("unmix", image, *given, "--window", *window) == 2
    assert "must lie within the 6 rows and 8 columns" in capsys.readouterr().err


def test_masked_pixels_are_missing(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clouds = np.zeros((6, 8), dtype="u1")
    clouds[2, 3:5] = 1
    np.save(image.with_name("clouds.npy"), clouds)
    result = unmixed(image, "--mask", image.with_name("clouds.npy"))
    np.testing.assert_array_equal(result.valid[0], clouds == 0)
    assert "4.2 % of the pixels are masked" in capsys.readouterr().err
    given = ("--endmembers", 2, "--method", "fcls", "--out", image.with_name("out"))
    assert run("unmix", image, *given, "--mask", "product") == 2
    assert "pass --mask the file of the mask" in capsys.readouterr().err
    mask = image.with_name("clouds.npy")
    assert run("unmix", image, *given, "--mask", mask, "--mask", mask) == 2
    assert (
        "--mask must be 'product', one mask, or one for each of 1 files" in capsys.readouterr().err
    )


def test_chunks_and_device_do_not_change_a_fit(image: Path) -> None:
    pytest.importorskip("dask")
    plain = unmixed(image, "--steps", 1, method="unmix")
    other = unmixed(image, "--steps", 1, "--chunks", 4, "--device", "cpu", method="unmix")
    np.testing.assert_array_equal(other.abundances, plain.abundances)


def test_maps_of_images_in_chunks_have_the_rmse(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dask")
    rasterio = pytest.importorskip("rasterio")
    module = importlib.import_module("pyro_unmix.methods.unmix")
    monkeypatch.setattr(module, "MOST_PIXEL_DATES", 10)  # images stay in chunks
    result = unmixed(image, "--steps", 1, "--trained", "--chunks", 4, method="unmix")
    (path,) = image.with_name("out").glob("geotiff/abundances_*[0-9].tif")
    with rasterio.open(path) as file:
        assert file.descriptions[-1] == "rmse"
        np.testing.assert_allclose(file.read(file.count), result.rmse[0], rtol=1e-5)
    with xr.open_dataset(image.with_name("out") / "result.nc", engine="h5netcdf") as dataset:
        assert dataset["rmse"].notnull().all()


@pytest.mark.parametrize(
    "more, text",
    [
        (("--device", "abacus"), "--device abacus cannot be used:"),
        (("--device", "cpu", "--method", "fcls"), "--device is for unmix, redsunn, redsunn_published, idnet, not"),
        (("--chunks", 3, "--method", "mesma"), "--chunks is for unmix, not for mesma, which loads the images"),
    ],
)  # fmt: skip
def test_what_a_method_has_not_is_refused(
    image: Path, more: tuple[object, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("unmix", image, "--endmembers", 2, "--out", image.with_name("out"), *more) == 2
    assert text in capsys.readouterr().err


def test_the_command_of_the_tutorial_leaves_out_the_clouds_of_the_product(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bands = {name: RNG.integers(1500, 5000, (3, 4)).astype("u2") for name in ("B2", "B4", "B11")}
    classes = np.full((3, 4, 1), 4, "u1")
    classes[1, 2] = 9
    for day in ("09", "30"):
        safe = write_safe(image.parent, bands, start=f"2024-08-{day}T10:05:59.024Z")
        grid = {"crs": "EPSG:32632", "transform": Affine(20, 0, 600000.0, 0, -20, 5100000.0)}
        folder = next(safe.glob("GRANULE/*/IMG_DATA/R20m"))
        write_tiff(folder / f"T32TPS_202408{day}T100559_SCL_20m.tif", classes, **grid)
    page = Path(__file__).parents[2] / "docs" / "tutorials" / "cover.md"
    (line,) = [x for x in page.read_text().splitlines() if x.startswith("pyro-unmix unmix")]
    _, command, files, *given = shlex.split(line)
    monkeypatch.chdir(image.parent)
    assert run(command, *sorted(image.parent.glob(files)), *given, "--method", "nnls") == 0
    result = pu.Unmixing.load(image.with_name("cover") / "saved")
    np.testing.assert_array_equal(result.valid, np.stack([classes[..., 0] == 4] * 2))
