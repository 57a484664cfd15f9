"""The recipes for other programs run where these are installed; what they are given is right in any case."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "other_programs.md"


def recipe(package: str) -> str:
    found = re.search(
        rf"<!-- recipe: {package} -->\n```python\n(.*?)```",
        PAGE.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    scene = pu.simulate.scaled_scene(num_dates=2, height=6, width=5, seed=0)
    model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    guide = pu.ConjugateGuide(model, correction=False)
    result = pu.fit(model, guide, scene.cubes, num_steps=2, progress=False)
    return {"pu": pu, "result": result, "cubes": scene.cubes}


@pytest.mark.slow
@pytest.mark.parametrize("package", ["napari", "arviz", "distributed"])
def test_a_recipe_runs(
    package: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    there = dict(names)
    exec(compile(recipe(package), str(PAGE), "exec"), there)
    if package == "napari":
        layers = there["viewer"].layers
        expected = names["result"].abundances
        assert [layer.name for layer in layers] == list(expected["endmember"].values)
        np.testing.assert_array_equal(layers[1].data, expected[..., 1])
        assert len({tuple(layer.colormap.map(1.0).ravel()) for layer in layers}) == len(layers)
    if package == "arviz":
        assert there["draws"].posterior["abundances"].notnull().all()
    if package == "distributed":
        np.testing.assert_allclose(there["maps"], names["result"].abundances, atol=1e-5)


@pytest.mark.slow
def test_processes_share_the_tiles_and_the_dashboard_answers(names: dict[str, Any]) -> None:
    distributed = pytest.importorskip("distributed")
    address: dict[str, Any] = {"dashboard_address": ":0"}
    with distributed.Client(n_workers=2, threads_per_worker=1, **address) as client:
        with urlopen(client.dashboard_link, timeout=30) as page:
            assert page.status == 200
        assert len(client.run(lambda: 0)) == 2
        maps = names["result"].predict(names["cubes"].chunk(y=3)).abundances.compute()
    np.testing.assert_allclose(maps, names["result"].abundances, atol=1e-5)


def test_layers_of_napari_have_the_colours_of_pictures(
    names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Laid over each other, layers of one colour would be white everywhere; napari is a stand-in."""
    layers: list[dict[str, Any]] = []
    viewer = SimpleNamespace(
        add_image=lambda maps, **how: layers.append(how), dims=SimpleNamespace(axis_labels=())
    )
    napari = SimpleNamespace(
        components=SimpleNamespace(ViewerModel=lambda: viewer),
        utils=SimpleNamespace(Colormap=lambda colours, name: colours),
    )
    monkeypatch.setitem(sys.modules, "napari", napari)  # type: ignore[misc]
    exec(compile(recipe("napari"), str(PAGE), "exec"), dict(names))
    assert [layer["colormap"] for layer in layers] == [
        ["black", colour] for colour in pu.plots.MATERIAL_COLOURS[:3]
    ]


def test_a_dataset_as_hypercoast_reads_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its dims, and wavelengths as coordinate; the reader itself is a stand-in."""
    cubes = pu.simulate.scaled_scene(num_dates=1, height=30, width=30, seed=0).cubes
    dims = {"y": "latitude", "x": "longitude"}
    image = (
        cubes.isel(time=0, drop=True).rename(dims).assign_coords(latitude=np.linspace(47, 46, 30))
    )
    reader = type("hypercoast", (), {"read_emit": lambda path: xr.Dataset({"reflectance": image})})
    monkeypatch.setitem(sys.modules, "hypercoast", reader)
    monkeypatch.chdir(tmp_path)
    code = recipe("hypercoast").replace(
        "pu.unmix(image, 4,", "pu.methods.fcls(image, 4, progress=False,"
    )
    there: dict[str, Any] = {"pu": pu}
    exec(compile(code.partition("result.to_geotiff")[0], str(PAGE), "exec"), there)
    result = there["result"]
    assert result.abundances.sizes == {"time": 1, "y": 30, "x": 30, "endmember": 4}
    np.testing.assert_array_equal(result.abundances["y"], image["latitude"])
