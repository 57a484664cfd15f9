"""The folder of a saved result: NetCDF, state dicts and JSON, no pickled code."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from pyro_unmix._recipe import from_recipe, to_recipe
from pyro_unmix.estimates import PlugInMean, PolishedMean, PosteriorMean
from pyro_unmix.io.own_netcdf import open_netcdf

_FORMAT = 1
_ESTIMATES = {cls.__name__: cls for cls in (PosteriorMean, PlugInMean, PolishedMean)}


def save(result: Any, path: str | os.PathLike[str], *, with_cubes: bool, overwrite: bool) -> Path:
    """Write an `Unmixing`; see `Unmixing.save`."""
    path = Path(path)
    if path.exists() and not (overwrite and (path / "recipe.json").is_file()):
        raise FileExistsError(
            f"{path} exists: pass overwrite=True to replace a saved result, or another path"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _write(result, folder, with_cubes)
        if path.exists():
            shutil.rmtree(path)
        os.replace(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    path.chmod(0o755)
    return path


def _write(result: Any, folder: Path, with_cubes: bool) -> None:
    arrays: list[np.ndarray] = []
    known = {id(result.model): "model"}
    recipe = {
        "format": _FORMAT,
        "method": result.method,
        "seed": result.seed,
        "estimate": [type(result.estimate).__name__, *astuple(result.estimate)],
        "model": to_recipe(result.model, arrays),
        "guide": to_recipe(result.guide, arrays, None if result.model is None else known),
    }
    states = {
        name: {} if part is None else part.state_dict()
        for name, part in (("model", result.model), ("guide", result.guide))
    }
    tensors = [torch.from_numpy(array) for array in arrays]
    torch.save({**states, "arrays": tensors}, folder / "weights.pt")
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    result.to_dataset().to_netcdf(folder / "result.nc", engine="h5netcdf")
    if with_cubes and result.cubes is not None:
        result.cubes.to_netcdf(folder / "cubes.nc", engine="h5netcdf")


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments of the `Unmixing` that `save` wrote; runs no code from the file."""
    path = Path(path)
    try:
        recipe = json.loads((path / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a saved result (recipe.json: {error}): pass the folder that "
            "Unmixing.save wrote"
        ) from error
    if recipe.get("format") != _FORMAT:
        raise ValueError(
            f"{path} has format {recipe.get('format')}, this version reads {_FORMAT}: load it "
            "with the version of pyro_unmix that wrote it"
        )
    saved = torch.load(path / "weights.pt", weights_only=True, map_location="cpu")
    arrays = [tensor.numpy() for tensor in saved["arrays"]]
    model = _rebuild(recipe["model"], arrays, saved["model"], {})
    guide = _rebuild(recipe["guide"], arrays, saved["guide"], {"model": model})
    dataset = _read_netcdf(path / "result.nc")
    cubes = _read_netcdf(path / "cubes.nc") if (path / "cubes.nc").exists() else None
    kind, *settings = recipe["estimate"]
    return dict(
        dataset=dataset.drop_vars("losses"),
        losses=dataset["losses"].to_numpy(),
        model=model,
        guide=guide,
        cubes=None if cubes is None else cubes["reflectance"],
        estimate=_ESTIMATES[kind](*settings),
        seed=recipe["seed"],
        method=recipe["method"],
    )


def _rebuild(recipe: Any, arrays: list[np.ndarray], state: Any, known: dict[str, Any]) -> Any:
    part = from_recipe(recipe, arrays, known)
    if part is not None:
        floating = [tensor.dtype for tensor in state.values() if tensor.is_floating_point()]
        if floating:
            part.to(floating[0])
        part.load_state_dict(state)
    return part


def _read_netcdf(path: Path) -> xr.Dataset:
    with open_netcdf(path) as dataset:
        return dataset.load()
