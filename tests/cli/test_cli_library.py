"""Libraries and comparisons from the command line, against the functions behind them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cli_file_cases import run
from matplotlib.image import imread

import pyro_unmix as pu
from pyro_unmix.data import (
    merge_libraries,
    resample_library,
    select_from_library,
    select_iteratively,
)
from pyro_unmix.io import library_from_pixels, write_library

pytest.importorskip("spectral")

NM = np.linspace(450.0, 2400.0, 20)
RNG = np.random.default_rng(0)
VALUES = RNG.uniform(0.1, 0.6, (1, 4, 5, 20))
SOIL, LEAF = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
SOIL[0, :4] = LEAF[2:, 3] = True


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pu.as_cube_sequence(VALUES, wavelength=NM).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    np.save(tmp_path / "soil.npy", SOIL)
    np.save(tmp_path / "leaf.npy", LEAF.astype("u1"))
    return tmp_path / "a.nc"


@pytest.fixture
def library(image: Path) -> Path:
    made = library_from_pixels(pu.read_sequence(image), {"soil": SOIL, "leaf": LEAF})
    return write_library(made, image.with_name("library.csv"))[0]


@pytest.mark.parametrize("suffix", [".csv", ".sli"])
def test_build_from_masks(image: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = image.with_name(f"built{suffix}")
    classes = [f"{name}={image.with_name(f'{name}.npy')}" for name in ("soil", "leaf")]
    assert run("library", "build", image, "--classes", *classes, "--out", out) == 0
    expected = library_from_pixels(pu.read_sequence(image), {"soil": SOIL, "leaf": LEAF})
    xr.testing.assert_equal(pu.read_library(out), expected)
    said = capsys.readouterr().out
    assert f"Wrote {out}" in said and "4 soil, 2 leaf" in said
    few = ("--max-spectra", 2, "--seed", 3, "--window", 0, 0, 4, 5)
    assert run("library", "build", image, "--classes", *classes, "--out", out, *few) == 0
    drawn = library_from_pixels(
        pu.read_sequence(image), {"soil": SOIL, "leaf": LEAF}, max_spectra=2, seed=3
    )
    xr.testing.assert_equal(pu.read_library(out), drawn)


def test_build_from_polygons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyogrio")
    pytest.importorskip("rasterio")
    crs = {"crs_wkt": "EPSG:32633"}
    made = pu.as_cube_sequence(VALUES, wavelength=NM).assign_coords(
        x=500_000 + 10 * (np.arange(5) + 0.5), y=10 * (3.5 - np.arange(4)), spatial_ref=xr.Variable((), 0, crs)
    )  # fmt: skip
    image = tmp_path / "a.nc"
    made.to_netcdf(image, engine="h5netcdf")
    ring = [[500_000, 40], [500_040, 40], [500_040, 30], [500_000, 30], [500_000, 40]]
    text = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}},
        "features": [
            {
                "type": "Feature",
                "properties": {"cover": "soil"},
                "geometry": {"type": "Polygon", "coordinates": [ring]},
            }
        ],
    }
    (tmp_path / "p.geojson").write_text(json.dumps(text))
    given = (
        "library",
        "build",
        image,
        "--classes",
        tmp_path / "p.geojson",
        "--out",
        tmp_path / "l.csv",
    )
    assert run(*given) == 2
    assert "pass --field one of cover" in capsys.readouterr().err
    assert run(*given, "--field", "cover") == 0
    np.testing.assert_array_equal(pu.read_library(tmp_path / "l.csv"), VALUES[0, 0, :4].T)


@pytest.mark.parametrize(
    "classes, text",
    [
        (["soil.npy", "leaf.npy"], "one file of polygons, or masks as CLASS=FILE, got 'soil.npy'"),
        (["soil=soil.npy", "soil=leaf.npy"], "--classes has 'soil' twice"),
        (["soil=none.npy"], "no such mask: none.npy"),
        (["none.gpkg"], "no such file of polygons: none.gpkg"),
    ],
)
def test_classes_that_are_not_understood(
    image: Path, classes: list[str], text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(image.parent)
    assert run("library", "build", image, "--classes", *classes, "--out", "l.csv") == 2
    assert text in capsys.readouterr().err


def test_masks_are_of_the_whole_image_in_a_window_too(image: Path) -> None:
    out = image.with_name("built.csv")
    classes = [f"{name}={image.with_name(f'{name}.npy')}" for name in ("soil", "leaf")]
    given = ("library", "build", image, "--classes", *classes, "--out", out)
    assert run(*given, "--window", 0, 2, 4, 3) == 0
    built = pu.read_library(out)
    assert built["label"].values.tolist() == ["soil"] * 2 + ["leaf"] * 2
    expected = [VALUES[0, 0, 2], VALUES[0, 0, 3], VALUES[0, 2, 3], VALUES[0, 3, 3]]
    np.testing.assert_array_equal(built.values.T, expected)
    whole = library_from_pixels(pu.read_sequence(image), {"soil": SOIL, "leaf": LEAF})
    assert set(built["source"].values) < set(whole["source"].values)
    assert built["source"].values[[0, -1]].tolist() == ["row 0 column 2", "row 3 column 3"]


@pytest.mark.parametrize(
    "option", [("--field", "cover"), ("--layer", "a"), ("--crs", "EPSG:32633"), ("--all-touched",)]
)
def test_options_of_polygons_are_refused_beside_masks(
    image: Path, option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--classes", f"soil={image.with_name('soil.npy')}", "--out", image.with_name("b.csv"))
    assert run("library", "build", image, *given, *option) == 2
    assert f"{option[0]} is of polygons, but masks are given" in capsys.readouterr().err


def test_several_dates_need_one(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = [f"{name}={image.with_name(f'{name}.npy')}" for name in ("soil", "leaf")]
    out = image.with_name("built.csv")
    pair = ("library", "build", image, image, "--dates", "2021-05-01,2021-06-01")
    assert run(*pair, "--classes", *classes, "--out", out) == 2
    assert "are of 2 dates: pass --date the position" in capsys.readouterr().err
    assert run(*pair, "--classes", *classes, "--out", out, "--date", 1) == 0
    assert pu.read_library(out)["source"].values[0] == "row 0 column 0 2021-06-01"


def test_info(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("library", "info", library) == 0
    said = capsys.readouterr().out
    assert "soil: 4, leaf: 2" in said and "20, 450 to 2400 nm" in said
    assert run("library", "info", library, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["classes"] == {"soil": 4, "leaf": 2} and facts["missing_bands"] == []
    stored = pu.read_library(library)
    np.testing.assert_allclose(facts["reflectance"], [stored.min(), stored.max()])
    assert run("library", "info", library, "--label", "colour") == 2
    assert "no column 'colour'" in capsys.readouterr().err


def test_advice_on_units_is_in_words_of_the_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "micrometres.csv"
    path.write_text("class,0.5,0.6,0.7\nsoil,0.1,0.2,0.3\nleaf,0.2,0.1,0.4\n")
    assert run("library", "info", path) == 2
    said = capsys.readouterr().err
    assert "pass --unit nm or --unit um" in said and "read_library" not in said
    assert run("library", "info", path, "--unit", "um") == 0
    assert "500 to 700 nm" in capsys.readouterr().out


def test_resample_and_merge(library: Path, tmp_path: Path) -> None:
    coarse = pu.as_cube_sequence(VALUES[..., ::2][..., 2:8], wavelength=NM[::2][2:8] + 20)
    coarse.to_netcdf(tmp_path / "coarse.nc", engine="h5netcdf")
    out = tmp_path / "out.csv"
    stored = pu.read_library(library)
    given = ("--bands-of", tmp_path / "coarse.nc", "--out", out)
    assert run("library", "resample", library, *given) == 0
    xr.testing.assert_equal(pu.read_library(out), resample_library(stored, coarse))
    other = stored.assign_coords(endmember=[f"t{i}" for i in range(6)])
    write_library(other, tmp_path / "other.csv")
    assert run("library", "merge", library, tmp_path / "other.csv", "--out", out) == 0
    xr.testing.assert_equal(pu.read_library(out), merge_libraries([stored, other]))
    assert run("library", "merge", library, tmp_path / "other.csv", *given) == 0
    assert pu.read_library(out).sizes == {"wavelength": 6, "endmember": 12}


def test_what_was_built_is_merged_with_a_table_of_the_same_classes(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [",".join(["class", *map(repr, NM.tolist())])]
    measured = RNG.uniform(0.1, 0.6, (3, 20))
    rows += [
        f"{label}," + ",".join(map(repr, values.tolist()))
        for label, values in zip(("soil", "soil", "leaf"), measured, strict=True)
    ]
    (tmp_path / "measured.csv").write_text("\n".join(rows))
    out = tmp_path / "both.sli"
    assert run("library", "merge", tmp_path / "measured.csv", library, "--out", out) == 0
    both, built = pu.read_library(out), pu.read_library(library)
    np.testing.assert_array_equal(both, np.concatenate([measured.T, built.values], axis=1))
    assert both["label"].values.tolist() == ["soil", "soil", "leaf", *built["label"].values]
    assert len(set(both["endmember"].values)) == 9
    assert "names of earlier ones and are numbered on" in capsys.readouterr().err
    assert run("library", "merge", library, library, "--out", out) == 2
    said = capsys.readouterr().err
    assert "'soil 1' of the class 'soil' is there twice" in said and "assign_coords" not in said


def test_bands_that_a_library_lacks_are_ignored_as_advised(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wider = pu.as_cube_sequence(VALUES, wavelength=[380.0, *NM[1:]])
    wider.to_netcdf(tmp_path / "wider.nc", engine="h5netcdf")
    stored, out = pu.read_library(library), tmp_path / "out.csv"
    write_library(
        stored.assign_coords(endmember=[f"t{i}" for i in range(6)])[2:], tmp_path / "short.csv"
    )
    given = ("--bands-of", tmp_path / "wider.nc", "--out", out)
    for command in (("resample", library), ("merge", library, tmp_path / "short.csv")):
        assert run("library", *command, *given) == 2
        said = capsys.readouterr().err
        assert "--ignore 380-380" in said
        ranges = said.split("--ignore ")[1].split()[0].rstrip(",")
        if command[0] == "merge":
            ranges += ",380-560"
        assert run("library", *command, *given, "--ignore", ranges) == 0
        last = 19 if command[0] == "resample" else 18
        np.testing.assert_array_equal(pu.read_library(out)["wavelength"], NM[-last:])
    assert run("library", "merge", library, tmp_path / "short.csv", "--out", out) == 2
    advised = capsys.readouterr().err.split("--ignore ")[1].split()[0].rstrip(",")
    given = ("--out", out, "--ignore", advised)
    assert run("library", "merge", library, tmp_path / "short.csv", *given) == 0
    np.testing.assert_array_equal(pu.read_library(out)[:, :6], stored[2:])
    capsys.readouterr()
    assert run("library", "info", library, "--ignore", "0-500,2350-2500", "--json") == 0
    assert json.loads(capsys.readouterr().out)["wavelength_nm"] == NM[1:-1].tolist()


def test_select(library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, stored = tmp_path / "out.csv", pu.read_library(library)
    more = ("--by", "cob", "--number", 2, "--max-rmse", 0.2)
    assert run("library", "select", library, *more, "--out", out) == 0
    expected = select_from_library(stored, 2, by="cob", max_rmse=0.2)
    xr.testing.assert_equal(pu.read_library(out), expected)
    assert (
        run("library", "select", library, "--by", "iterative", "--max-rmse", 0.3, "--out", out) == 0
    )
    xr.testing.assert_equal(pu.read_library(out), select_iteratively(stored, max_rmse=0.3))
    assert run("library", "select", library, "--by", "iterative", "--number", 2, "--out", out) == 2
    assert "leave out --number" in capsys.readouterr().err


def test_plot(library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("library", "plot", library, "--out", tmp_path / "l.png") == 0
    assert imread(tmp_path / "l.png")[..., :3].std() > 0.02
    assert run("library", "plot", library, "--out", tmp_path / "l.txt") == 2
    assert "suffixes .png, .pdf, .svg" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("library", "plot", tmp_path / "none.csv")
    assert (
        "expected a spectral library, a file, a folder or 'earthlib', got"
        in capsys.readouterr().err
    )


# ------------------------------------------------------------------ compare


def test_methods_side_by_side(
    image: Path, library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cubes, spectra = pu.read_sequence(image), pu.read_library(library)
    results = {
        name: getattr(pu.methods, name)(cubes, endmembers=spectra, progress=False)
        for name in ("fcls", "nnls")
    }
    for name, result in results.items():
        result.save(tmp_path / name)
    results["nnls"].to_netcdf(tmp_path / "other.nc")
    expected = pu.metrics.side_by_side(results)
    paths = (tmp_path / "fcls", tmp_path / "nnls", tmp_path / "other.nc")
    assert run("compare", *paths[:2], "--json") == 0
    found = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(found["difference"], expected["difference"])
    np.testing.assert_allclose(found["cover"], expected["cover"])
    assert found["fit"] == ["fcls", "nnls"] and found["held_out"] is None
    assert run("compare", *paths) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["soil", "leaf", "RMSE", "90", "%", "differs"]
    assert [line.split()[0] for line in said[1:]] == ["fcls", "nnls", "other"]
    assert said[2].split()[1:] == said[3].split()[1:]
    assert said[2].split()[-1] == f"{float(expected['difference'][0, 1]):.3f}"
    assert run("compare", paths[0]) == 2
    assert run("compare", paths[0], paths[0]) == 2
    assert run("compare", *paths[:2], "--held-out") == 2
    said = capsys.readouterr().err
    assert "two results or more, got one" in said and "is there twice" in said


def test_trained_results_are_ranked(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        fitted = pu.unmix(pu.read_sequence(image), 2, num_steps=1, seed=seed, progress=False)
        fitted.save(tmp_path / f"seed{seed}")
    assert run("compare", tmp_path / "seed0", tmp_path / "seed1", "--held-out", "--json") == 0
    found = json.loads(capsys.readouterr().out)["held_out"]
    assert (
        sorted(found["fit"]) == ["seed0", "seed1"] and found["held_out"][0] >= found["held_out"][1]
    )
    assert run("compare", tmp_path / "seed0", tmp_path / "seed1", "--held-out") == 0
    assert "held_out_se" in capsys.readouterr().out
