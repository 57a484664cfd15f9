"""The folder of a saved result: NetCDF, state dicts and JSON, no pickled code."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from pyro_unmix import bases, guides, mixing, models, priors  # noqa: F401 - whose classes a saved result may name
from pyro_unmix.io.errors import FileError
from pyro_unmix.io.integrity.kinds import check_kind
from pyro_unmix.io.write.replacing import clean, replace_folder, workshop
from pyro_unmix.io.write.whole_files import write_netcdf4
from pyro_unmix.models.base import FunctionModel
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.engine_lock import one_engine
from pyro_unmix.ops.recipes import Recorded, from_recipe, to_recipe
from pyro_unmix.posterior.decoding import name_of
from pyro_unmix.posterior.estimates import PlugInMean, PolishedMean, PosteriorMean

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing


_FORMAT = 1
_FIELDS = {"method", "seed", "estimate", "model", "guide"}
_FILES = {"recipe.json", "weights.pt", "result.nc", "cubes.nc"}
_OF_SYSTEMS = {".DS_Store", "Thumbs.db", "desktop.ini"}  # which nobody misses
_MAX_RECIPE = 64 * 2**20  # bytes; the arrays of a model are not in it
_UNDEFINED = "is not defined here: import the module"
_ESTIMATES = {cls.__name__: cls for cls in (PosteriorMean, PlugInMean, PolishedMean)}


def save(
    result: Unmixing, path: str | os.PathLike[str], *, with_cubes: bool, overwrite: bool
) -> Path:
    """Write an `Unmixing`; see `Unmixing.save`."""
    path = Path(path)
    target = path.absolute()
    clean(target.parent)
    _check_target(target, overwrite)
    recipe, arrays = _recipe_of(result)
    with workshop(target.parent) as room:
        folder = room / "new"
        folder.mkdir()
        _write(result, folder, recipe, arrays, with_cubes)
        replace_folder(folder, target, room)
    return path


def _check_target(path: Path, overwrite: bool) -> None:
    """Refuse whatever is not a saved result and nothing else, as it would be removed."""
    if path.is_symlink():
        raise FileExistsError(
            f"{path} is a link: pass the folder that it leads to ({os.path.realpath(path)}), or "
            "another path"
        )
    if not path.exists():
        return
    if not (overwrite and (path / "recipe.json").is_file()):
        raise FileExistsError(
            f"{path} exists: pass overwrite=True to replace a saved result, or another path"
        )
    try:
        recipe = json.loads((path / "recipe.json").read_text(encoding="utf-8"))
        ours = isinstance(recipe, dict) and {"format", *_FIELDS} <= set(recipe)
    except (ValueError, RecursionError):
        ours = False
    if not ours:
        raise FileExistsError(
            f"{path} holds a recipe.json that Unmixing.save did not write, or that is damaged: "
            "remove the folder yourself, or pass another path"
        )
    foreign = sorted({entry.name for entry in os.scandir(path)} - _FILES - _OF_SYSTEMS)
    if foreign:
        raise FileExistsError(
            f"{path} also holds {', '.join(foreign[:5])}, which Unmixing.save did not write and "
            "would be lost: move it away, or pass another path"
        )


def _recipe_of(result: Unmixing) -> tuple[dict[str, Any], list[np.ndarray]]:
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
    own = {name: to_recipe(part, arrays, known) for name, part in result.saved_parts().items()}
    more = {"result": type(result).__name__, "own": own} if own else {}
    if result.mixing is not None:
        more["mixing"] = to_recipe(result.mixing, arrays)
    return {**head, "estimate": [kind, *astuple(result.estimate)], **recipes, **more}, arrays


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
    weights = io.BytesIO()  # torch's own errors of a full disk are none of the system
    torch.save({**states, "arrays": tensors}, weights)
    (folder / "weights.pt").write_bytes(weights.getbuffer())
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    write_netcdf4(result.to_dataset(), folder / "result.nc")
    if with_cubes and result.cubes is not None:
        cubes = result.cubes.rename("reflectance")
        write_netcdf4(cubes.to_dataset(), folder / "cubes.nc")


@one_engine()  # programs are made anew
def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments of the result that `save` wrote, and ``result``, the name of its class; runs no code from the file.

    Raises
    ------
    FileError
        If a file of the folder is missing, damaged or does not fit the others; it names file and field.
    """
    path = Path(path)
    recipe_file, weights, maps = (
        path / name for name in ("recipe.json", "weights.pt", "result.nc")
    )
    if not path.exists() and path.absolute().parent.is_dir():
        clean(path.absolute().parent)  # where a process was killed while it replaced it
    recipe = _read_recipe(path)
    for file in (weights, maps):
        _need(file)
    with blaming(weights, "content"):
        saved = torch.load(weights, weights_only=True, map_location="cpu")
        arrays = [tensor.numpy() for tensor in saved["arrays"]]
        states = {name: dict(saved[name]) for name in ("model", "guide")}
    parts: dict[str, Any] = {}
    for name in ("model", "guide"):
        known = dict(parts)
        with blaming(recipe_file, name):
            part = from_recipe(recipe[name], arrays, known)
        with blaming(weights, name):
            parts[name] = _trained(part, states[name], weights, name)
    with blaming(recipe_file, "estimate"):
        kind, *settings = recipe["estimate"]
        estimate = _ESTIMATES[kind](*settings)
    with blaming(recipe_file, "seed"):
        seed = positive_int(recipe["seed"], "seed", minimum=0)
    if not isinstance(recipe["method"], str):
        raise FileError(recipe_file, "method", f"must be a text, got {recipe['method']!r:.80}")
    with blaming(recipe_file, "method"):
        recipe["method"].encode()  # JSON can name halves of characters, which no file can hold
    with blaming(recipe_file, "result"):
        described = dict(recipe.get("own", {}))
        own = {name: from_recipe(part, arrays, dict(parts)) for name, part in described.items()}
        taken = _FIELDS | {"result", "dataset", "losses", "cubes", "store", "decode", "mixing"}
        if not taken.isdisjoint(own):
            raise ValueError(f"{sorted(taken & set(own))} cannot be parts of another class")
    with blaming(recipe_file, "mixing"):
        how = from_recipe(recipe.get("mixing"), arrays)
        if not isinstance(how, mixing.Hapke | None):
            raise TypeError(f"expected Hapke or nothing, got {how!r:.80}")
    dataset = _read_netcdf(maps, ("abundances", "reference_endmembers", "losses"))
    with blaming(maps, "content"):  # sizes of variables may contradict each other
        losses, dataset = dataset["losses"].to_numpy(), dataset.drop_vars("losses")
    cubes = None
    if (path / "cubes.nc").exists():
        cubes = _read_netcdf(path / "cubes.nc", ("reflectance",))["reflectance"]
        _check_sizes(path / "cubes.nc", cubes, dataset)
    return dict(
        dataset=dataset,
        losses=losses,
        cubes=cubes,
        estimate=estimate,
        seed=seed,
        method=recipe["method"],
        mixing=how,
        **parts,
        **own,
        result=recipe.get("result", "Unmixing"),
    )


def _read_recipe(path: Path) -> dict[str, Any]:
    file = path / "recipe.json"
    try:
        if path.is_dir() and file.exists():
            _need(file)
            if file.stat().st_size > _MAX_RECIPE:
                problem = f"expected at most {_MAX_RECIPE} bytes, got {file.stat().st_size}"
                raise FileError(file, "size", problem)
        recipe = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(recipe, dict):
            raise ValueError(f"holds a {type(recipe).__name__}")
    except FileError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        problem = f"is not a saved result (recipe.json: {error}): pass the folder that Unmixing.save wrote"
        raise FileError(path, "", problem) from error
    if recipe.get("format") != _FORMAT:
        problem = (
            f"has format {recipe.get('format')!r:.80}, this version reads {_FORMAT}: load it with "
            "the version of pyro_unmix that wrote it"
        )
        raise FileError(path, "", problem)
    lacking = _FIELDS - set(recipe)
    if lacking:
        raise FileError(file, ", ".join(sorted(lacking)), "is missing: the file is damaged")
    return recipe


def _need(file: Path) -> None:
    try:
        check_kind(file, folder=False)
    except FileNotFoundError as error:
        raise FileError(file, "", "is missing: the saved result is incomplete") from error


@contextmanager
def blaming(file: Path, field: str) -> Iterator[None]:
    """Whatever damaged or foreign content leads to is an error that names file and field."""
    try:
        yield
    except (FileError, ImportError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        # What only the user can mend is said as it is.
        damaged = "" if _UNDEFINED in text else f"is damaged ({type(error).__name__}): "
        raise FileError(file, field, f"{damaged}{text}") from error


def _trained(part: Any, state: dict[str, Any], file: Path, name: str) -> Any:
    """The model or guide with its parameters, all of which must be numbers."""
    if part is None:
        return None
    floating = [tensor.dtype for tensor in state.values() if tensor.is_floating_point()]
    if floating:
        part.to(floating[0])
    part.load_state_dict(state)
    for parameter, values in part.named_parameters():
        if not torch.isfinite(values).all():
            problem = "holds NaN or infinity: the file is damaged, or the fit had failed"
            raise FileError(file, f"{name}.{parameter}", problem)
    return part


def _read_netcdf(file: Path, needed: tuple[str, ...]) -> xr.Dataset:
    from pyro_unmix.io.formats.own_netcdf import open_netcdf

    _need(file)
    with blaming(file, "content"), open_netcdf(file) as dataset:
        for name in needed:
            if name not in dataset:
                raise FileError(file, name, "is missing: the file is damaged")
        return dataset.load()


def _check_sizes(file: Path, cubes: xr.DataArray, dataset: xr.Dataset) -> None:
    """Images and maps are of one scene; maps may be at other dates, between those of the images or after them."""
    plane = ("y", "x", "wavelength")
    sizes = {dim: dataset.sizes.get(dim) for dim in plane}
    if {"time", *plane} != set(cubes.dims) or {dim: cubes.sizes[dim] for dim in plane} != sizes:
        problem = f"has the sizes {dict(cubes.sizes)}, but the maps have {sizes}"
        raise FileError(file, "reflectance", problem)
