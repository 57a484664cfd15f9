"""A saved result or a checkpoint that is damaged, or that others made: one error, with file and field."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.io import FileError, read_library, read_sequence
from pyro_unmix.io.integrity.kinds import check_kind

VALUES = np.random.default_rng(1).uniform(0.1, 0.6, (3, 5, 6, 4))
FILES = ("recipe.json", "weights.pt", "result.nc", "cubes.nc")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a result with a posterior."""
    result = pu.unmix(VALUES, 2, num_steps=2, progress=False)
    path = result.save(tmp_path_factory.mktemp("whole") / "saved")
    pu.Unmixing.load(path)
    return {name: (path / name).read_bytes() for name in FILES}


@pytest.fixture
def folder(whole: dict[str, bytes], tmp_path: Path) -> Path:
    (tmp_path / "saved").mkdir()
    for name, content in whole.items():
        (tmp_path / "saved" / name).write_bytes(content)
    return tmp_path / "saved"


def refused(folder: Path, file: str, field: str = "") -> FileError:
    with pytest.raises(FileError) as caught:
        pu.Unmixing.load(folder)
    assert Path(caught.value.path).name in (file, folder.name)
    assert field in f"{caught.value.field} {caught.value.problem}"
    return caught.value


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_files_that_are_cut(folder: Path, file: str, share: float) -> None:
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: int(share * len(content))])
    refused(folder, file)


@pytest.mark.parametrize("file", FILES[:3])
def test_files_that_are_missing(folder: Path, file: str) -> None:
    (folder / file).unlink()
    refused(folder, file)


def test_random_damage(folder: Path, whole: dict[str, bytes]) -> None:
    """Each mutant loads, or is refused in our words; HDF5 is fuzzed elsewhere."""
    rng = random.Random(0)
    for _ in range(60):
        file = rng.choice(FILES[:2])
        content = bytearray(whole[file])
        for _ in range(rng.choice([1, 3, 10])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (folder / file).write_bytes(content)
        try:
            pu.Unmixing.load(folder)
        except FileError as error:
            assert folder.name in error.path
        (folder / file).write_bytes(whole[file])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: r.pop("guide"), "guide"),
        (lambda r: r.pop("method"), "method"),
        (lambda r: r.update(method=3), "method"),
        (lambda r: r.update(method="\ud800"), "method"),
        (lambda r: r.update(seed=-1), "seed"),
        (lambda r: r.update(seed="1"), "seed"),
        (lambda r: r.update(estimate=["Elsewhere"]), "estimate"),
        (lambda r: r.update(estimate=[]), "estimate"),
        (lambda r: r.update(model={"known": "guide"}), "model"),
        (lambda r: r.update(model={"array": 10**6}), "model"),
        (lambda r: r.update(guide={"class": r["guide"]["class"], "arguments": {"x": 1}}), "guide"),
    ],
)
def test_recipes_of_others(folder: Path, change: Callable[[Any], Any], field: str) -> None:
    recipe = json.loads((folder / "recipe.json").read_text())
    change(recipe)
    (folder / "recipe.json").write_text(json.dumps(recipe))
    refused(folder, "recipe.json", field)


@pytest.mark.parametrize("text", ["[]", "3", "[" * 100_000, '{"format": 1}', "\xff"])
def test_recipes_that_are_none(folder: Path, text: str) -> None:
    (folder / "recipe.json").write_text(text, encoding="latin-1")
    refused(folder, "recipe.json")


@pytest.mark.parametrize("guide", [7, "model"])
def test_a_guide_that_the_weights_are_not_of(folder: Path, guide: Any) -> None:
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["guide"] = recipe[guide] if guide in recipe else guide
    (folder / "recipe.json").write_text(json.dumps(recipe))
    refused(folder, "weights.pt", "guide is damaged")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(folder: Path, value: float) -> None:
    saved = torch.load(folder / "weights.pt", weights_only=True)
    name = next(name for name, tensor in saved["guide"].items() if tensor.is_floating_point())
    saved["guide"][name].view(-1)[0] = value
    torch.save(saved, folder / "weights.pt")
    assert name in refused(folder, "weights.pt", "holds NaN or infinity").field


def test_images_of_another_scene(folder: Path) -> None:
    pu.as_cube_sequence(VALUES[:, :3]).to_netcdf(folder / "cubes.nc", engine="h5netcdf")
    refused(folder, "cubes.nc", "but the maps have")


def test_maps_with_a_dim_twice(folder: Path) -> None:
    with h5py.File(folder / "result.nc", "r+") as file:
        dims = file["abundances"].dims
        other = next(axis for axis in dims if file["time"] != axis[0])
        other.detach_scale(other[0])
        other.attach_scale(file["time"])
    refused(folder, "result.nc", "content")


def test_maps_that_lack_something(folder: Path) -> None:
    xr.Dataset({"abundances": ("x", np.zeros(3))}).to_netcdf(
        folder / "result.nc", engine="h5netcdf"
    )
    refused(folder, "result.nc", "reference_endmembers")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_in_a_result(folder: Path, file: str, kind: str) -> None:
    (folder / file).unlink()
    if kind == "pipe":
        os.mkfifo(folder / file)
    else:
        (folder / file).symlink_to("/dev/zero")
    refused(folder, file, "got a pipe, a device or the like")


# ------------------------------------------------------------------ images and libraries


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "a.spectrum.txt")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        for read in (read_sequence, read_library):
            with pytest.raises(FileError, match="kind: must be a file or a folder, got a pipe"):
                read(path)
    with pytest.raises(FileError, match="a.spectrum.txt: kind: must be a file, got a pipe"):
        read_library(tmp_path)
    with pytest.raises(FileError, match="kind: must be a file, got a folder"):
        check_kind(tmp_path, folder=False)


def test_a_file_system_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.nc").write_text("x")

    def late(*_: Any, **__: Any) -> None:
        raise TimeoutError(110, "Connection timed out")

    monkeypatch.setattr(Path, "open", late)
    with pytest.raises(FileError, match="a.nc: content: cannot be read: Connection timed out"):
        read_sequence(tmp_path / "a.nc")


# ------------------------------------------------------------------ checkpoints


def checkpoint(folder: Path, change: Callable[[Any], Any]) -> None:
    """Replace the newest checkpoint by one that others made, with the digest of its content in its name."""
    from pyro_unmix.infer.checkpoints import _digest

    newest = sorted(folder.glob("step-*.pt"))[-1]
    state = torch.load(newest, weights_only=True)
    change(state)
    torch.save(state, folder / "new")
    content = (folder / "new").read_bytes()
    (folder / "new").unlink()
    for path in folder.glob("step-*.pt"):
        path.unlink()
    newest.with_name(f"{newest.name[:15]}{_digest(content)}.pt").write_bytes(content)


def _nan(state: Any) -> None:
    name = next(k for k, v in state["guide"].items() if v.is_floating_point())
    state["guide"][name] = torch.full_like(state["guide"][name], torch.nan)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.update(losses=s["losses"][:1]), "expected the losses of 4 steps, .* got 1"),
        (lambda s: s.pop("losses"), "expected the losses of 4 steps, .* got none"),
        (lambda s: s.update(losses=s["losses"] * torch.nan), "losses hold NaN"),
        (_nan, "holds NaN or infinity"),
        (lambda s: s.pop("optimiser"), "is damaged"),
        (lambda s: s.pop("fingerprint"), "is damaged"),
        (lambda s: s.update(guide={}), "is damaged"),
        (lambda s: s.update(batches=3), "is damaged"),
        (lambda s: s.update(random={"cpu": torch.zeros(3)}), "is damaged"),
    ],
)
def test_checkpoints_of_others(tmp_path: Path, change: Callable[[Any], Any], text: str) -> None:
    settings: dict[str, Any] = {"progress": False, "checkpoint": tmp_path}
    pu.unmix(VALUES, 2, num_steps=4, **settings)
    checkpoint(tmp_path, change)
    with pytest.raises(ValueError, match=text):
        pu.unmix(VALUES, 2, num_steps=4, **settings)
