"""Saving: nothing of others is removed, the old result stays until the new one is there, a full disk is an error."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.io.write import replacing, whole_files
from pyro_unmix.io.write.datasets import write_netcdf, write_zarr
from pyro_unmix.io.write.whole_files import write_netcdf4
from pyro_unmix.posterior import saving

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a cheap process of its own")


def result(seed: int = 0, height: int = 5) -> pu.Unmixing:
    values = np.random.default_rng(seed).dirichlet(np.ones(2), (1, height, 6))
    dataset = xr.Dataset(
        {
            "abundances": (("time", "y", "x", "endmember"), values),
            "reference_endmembers": (("wavelength", "endmember"), np.full((4, 2), 0.3)),
            "valid": (("time", "y", "x"), np.ones(values.shape[:3], dtype=bool)),
        }
    )
    return pu.Unmixing(dataset)


def in_child(work: Callable[[], Any]) -> int:
    """The exit code of a process: 0 done, 1 OSError, 2 anything else; negative: a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except OSError:
            os._exit(1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# ------------------------------------------------------------------ what is not ours


@pytest.mark.parametrize("text", ["{}", '{"ingredients": ["flour"]}', "[1]", "no json"])
def test_a_recipe_of_others_is_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "cake").mkdir()
    (tmp_path / "cake" / "recipe.json").write_text(text)
    with pytest.raises(FileExistsError, match="a recipe.json that Unmixing.save did not write"):
        result().save(tmp_path / "cake", overwrite=True)
    assert (tmp_path / "cake" / "recipe.json").read_text() == text


def test_notes_in_the_folder_of_a_result_are_kept(tmp_path: Path) -> None:
    path = result().save(tmp_path / "saved")
    (path / "notes.txt").write_text("weeks of work")
    with pytest.raises(FileExistsError, match="also holds notes.txt, which Unmixing.save did not"):
        result(1).save(path, overwrite=True)
    assert (path / "notes.txt").read_text() == "weeks of work"
    (path / "notes.txt").unlink()
    (path / ".DS_Store").touch()
    result(1).save(path, overwrite=True)
    xr.testing.assert_identical(pu.Unmixing.load(path).abundances, result(1).abundances)


@pytest.mark.parametrize("there", [True, False])
def test_links_are_refused(tmp_path: Path, there: bool) -> None:
    if there:
        result().save(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    with pytest.raises(FileExistsError, match="link is a link: pass the folder .*real"):
        result(1).save(tmp_path / "link", overwrite=True)
    assert not hidden(tmp_path)
    if there:
        xr.testing.assert_identical(
            pu.Unmixing.load(tmp_path / "link").abundances, result().abundances
        )


# ------------------------------------------------------------------ killed at any moment


@needs_fork
@pytest.mark.parametrize("point", range(1, 6))
def test_killed_while_replacing(tmp_path: Path, point: int) -> None:
    """Either the old or the new result is there, and the next call leaves nothing hidden."""
    path = result().save(tmp_path / "saved")

    def killed() -> None:
        calls = 0

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **settings: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **settings)

            return wrapped

        # Before the write, each of the two renames, and the removal of what was replaced.
        saving._write = counted(saving._write)  # type: ignore[assignment]
        replacing.os.replace = counted(os.replace)  # type: ignore[assignment]
        replacing.shutil.rmtree = counted(replacing.shutil.rmtree)  # type: ignore[assignment]
        result(1).save(path, overwrite=True)

    code = in_child(killed)
    assert code == (-signal.SIGKILL if point < 5 else 0)
    found = pu.Unmixing.load(path).abundances
    xr.testing.assert_identical(found, result(1 if point > 3 else 0).abundances)
    result(2).save(path, overwrite=True)
    xr.testing.assert_identical(pu.Unmixing.load(path).abundances, result(2).abundances)
    assert not hidden(tmp_path)


@needs_fork
def test_leftovers_of_all_writers_are_cleaned(tmp_path: Path) -> None:
    def killed() -> None:
        with replacing.workshop(tmp_path) as room:
            (room / "half").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == -signal.SIGKILL
    assert len(hidden(tmp_path)) == 1
    with replacing.workshop(tmp_path) as room:  # in use, so left alone by others
        write_netcdf(result().to_dataset(), tmp_path / "a.nc")
        assert hidden(tmp_path) == [room.name]
    assert not hidden(tmp_path)
    (tmp_path / ".pyro_unmix-of-others").mkdir()
    write_netcdf(result().to_dataset(), tmp_path / "a.nc", overwrite=True)
    assert hidden(tmp_path) == [".pyro_unmix-of-others"]


def test_a_rename_that_fails_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = result().save(tmp_path / "saved")
    rename, calls = os.replace, []

    def second_fails(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise OSError("no more")
        rename(*args)

    monkeypatch.setattr(replacing.os, "replace", second_fails)
    with pytest.raises(OSError, match="no more"):
        result(1).save(path, overwrite=True)
    xr.testing.assert_identical(pu.Unmixing.load(path).abundances, result().abundances)
    assert not hidden(tmp_path)


def test_a_store_that_is_a_link(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    write_zarr(result().to_dataset(), tmp_path / "a.zarr")
    (tmp_path / "link").symlink_to(tmp_path / "a.zarr", target_is_directory=True)
    with pytest.raises(FileExistsError, match="is a link: pass the store that it leads to"):
        write_zarr(result().to_dataset(), tmp_path / "link", overwrite=True)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_lies_in_a_store_and_is_none_of_it_is_kept(tmp_path: Path, zarr_format: int) -> None:
    pytest.importorskip("zarr", minversion="3" if zarr_format == 3 else None)
    path = tmp_path / "a.zarr"
    settings = {"zarr_format": zarr_format} if zarr_format == 3 else {}
    maps = xr.Dataset({"a": ("x", np.arange(3.0))})
    maps.to_zarr(path, **settings)
    maps.to_zarr(path, group="of/2021", mode="a", **settings)
    (path / ".DS_Store").write_text("")
    (path / "notes.txt").write_text("mine")
    (path / "of" / "thesis").mkdir()
    for name in ("notes.txt", "of/thesis"):
        other = path / name
        with pytest.raises(FileExistsError, match=f"holds .*{name}.* would be lost: move it"):
            write_zarr(result().to_dataset(), path, overwrite=True)
        other.rmdir() if other.is_dir() else other.unlink()
    write_zarr(result().to_dataset(), path, overwrite=True)
    assert "abundances" in xr.open_zarr(path)


# ------------------------------------------------------------------ a full disk


def small_files() -> None:
    """From here on, no file can have more than 4 kB: as a disk that is full."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


@needs_fork
@pytest.mark.parametrize("what", ["save", "to_netcdf"])
def test_a_full_disk_is_an_error_and_the_old_file_stays(tmp_path: Path, what: str) -> None:
    path = tmp_path / "kept"
    small, large = result(), result(1, height=2000)
    getattr(small, what)(path)

    def full() -> None:
        small_files()
        getattr(large, what)(path, overwrite=True)

    assert in_child(full) == 1
    if what == "save":
        found = pu.Unmixing.load(path).abundances
    else:
        found = xr.open_dataset(path, engine="h5netcdf")["abundances"]
    np.testing.assert_array_equal(found.transpose(*small.abundances.dims), small.abundances)
    assert not hidden(tmp_path)


def test_a_large_file_needs_its_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_files, "_IN_MEMORY", 100)
    dataset = result().to_dataset()
    write_netcdf4(dataset, tmp_path / "a.nc")
    xr.testing.assert_identical(
        xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf").load(), dataset
    )
    usage = whole_files.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(whole_files.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        OSError, match="No space left on device: up to .* are needed, 1000 are free"
    ):
        write_netcdf4(dataset, tmp_path / "b.nc")


@needs_fork
def test_a_full_disk_at_a_checkpoint_does_not_end_the_fit(tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(0.1, 0.6, (3, 5, 6, 4))
    settings: dict[str, Any] = {"num_steps": 4, "progress": False}
    plain = pu.unmix(values, 2, **settings)

    def full() -> None:
        small_files()
        found = pu.unmix(values, 2, checkpoint=tmp_path, **settings)
        assert not list(tmp_path.iterdir())
        np.testing.assert_array_equal(found.abundances, plain.abundances)

    assert in_child(full) == 0
