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

from pyro_unmix import bases, guides, mixing, models, priors  # noqa: F401 - whose classes a saved result may name
from pyro_unmix.models.base import FunctionModel
from pyro_unmix.ops.recipes import Recorded, from_recipe, to_recipe
from pyro_unmix.posterior.decoding import name_of
from pyro_unmix.posterior.estimates import PlugInMean, PolishedMean, PosteriorMean

_FORMAT = 1
_ESTIMATES = {cls.__name__: cls for cls in (PosteriorMean, PlugInMean, PolishedMean)}


def save(result: Any, path: str | os.PathLike[str], *, with_cubes: bool, overwrite: bool) -> Path:
    """Write an `Unmixing`; see `Unmixing.save`."""
    path = Path(path)
    if path.exists() and not (overwrite and (path / "recipe.json").is_file()):
        raise FileExistsError(
            f"{path} exists: pass overwrite=True to replace a saved result, or another path"
        )
    recipe, arrays = _recipe_of(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _write(result, folder, recipe, arrays, with_cubes)
        if path.exists():
            shutil.rmtree(path)
        os.replace(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    path.chmod(0o755)
    return path


def _recipe_of(result: Any) -> tuple[dict[str, Any], list[np.ndarray]]:
    """How to make model and guide again.

    Raises
    ------
    TypeError
        If they cannot be.
    """
    arrays: list[np.ndarray] = []
    known = {id(result.model): "model"}
    if result.decode is not None:
        raise TypeError(_no_recipe("decode", result.decode))
    if result.store and result.store["params"]:
        raise TypeError(
            f"cannot save the parameters {sorted(result.store['params'])} of Pyro's store: make them nn.Parameter in "
            f"the constructors of model and guide, or {_MAPS}"
        )
    recipes: dict[str, Any] = {}
    for name, part in (("model", result.model), ("guide", result.guide)):
        try:
            has_model = name == "guide" and result.model is not None
            recipes[name] = to_recipe(part, arrays, known if has_model else None)
        except TypeError as error:
            if isinstance(part, (Recorded, type(None))):
                raise  # which names the argument of its constructor that is to blame
            raise TypeError(_no_recipe(f"the {name}", part)) from error
    kind = type(result.estimate).__name__
    head = {"format": _FORMAT, "method": result.method, "seed": result.seed}
    return {**head, "estimate": [kind, *astuple(result.estimate)], **recipes}, arrays


_MAPS = "write the maps, with to_netcdf(), to_zarr() or to_geotiff()"


def _no_recipe(what: str, part: Any) -> str:
    return (
        f"cannot save {what} {name_of(part)}, a {_kind(part)}: a saved program is made again from the arguments of its "
        "constructor, so derive the model from pyro_unmix.models.Model, with decode as a method, and the guide from "
        f"pyro_unmix.guides.Guide; or {_MAPS}"
    )


def _kind(part: Any) -> str:
    is_function = isinstance(part, FunctionModel) or not isinstance(part, torch.nn.Module)
    return "function" if is_function else "module that does not record them"


def _write(
    result: Any, folder: Path, recipe: dict[str, Any], arrays: list[np.ndarray], with_cubes: bool
) -> None:
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
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        return dataset.load()
