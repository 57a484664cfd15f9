"""Maps of several dates that are replaced: never some of a new result beside some of an older one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forks import forked
from writer_cases import make_result

from pyro_unmix.io.write import replacing
from pyro_unmix.io.write.replacing import clean

pytest.importorskip("rasterio")
pytest.importorskip("rioxarray")
pytest.importorskip("spectral.io.envi")
WRITERS = ("to_geotiff", "to_envi")


def contents(folder: Path) -> dict[str, bytes]:
    """Of the files that anybody sees."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def write(folder: Path, kind: str, value: float) -> None:
    result = make_result(std=False)
    maps = result.abundances.copy(data=0 * result.abundances.values + value)
    result = type(result)(result.dataset.assign(abundances=maps), method="fit")
    getattr(result, kind)(folder, overwrite=True)


def broken_off(number: int, end: Callable[[], Any]) -> Callable[..., None]:
    """`os.replace` that ends the work before its call of a number."""
    made = [0]
    rename = os.replace

    def replace(*names: Any) -> None:
        if made[0] == number:
            end()
        made[0] += 1
        rename(*names)

    return replace


def killed(folder: Path, kind: str, number: int) -> int:
    """The exit status of a child that writes, and is gone at a rename."""

    def work() -> None:
        replacing.os.replace = broken_off(number, lambda: os._exit(7))  # type: ignore[attr-defined]
        write(folder, kind, 0.75)

    return os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_kill_leaves_no_mixture(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "old", kind, 0.25)
    write(tmp_path / "new", kind, 0.75)
    old, new = contents(tmp_path / "old"), contents(tmp_path / "new")
    assert sorted(old) == sorted(new)
    own = [name for name in old if old[name] != new[name]]
    assert len(own) >= 2  # one of each date
    found, number, status = set(), 0, 7
    while status == 7:
        folder = tmp_path / str(number)
        write(folder, kind, 0.25)
        status = killed(folder, kind, number)
        seen = contents(folder)
        assert not any(seen.get(n) == old[n] for n in own) or not any(
            seen.get(n) == new[n] for n in own
        )
        clean(folder)
        whole = contents(folder)
        assert whole in (old, new), number
        assert sorted(os.listdir(folder)) == sorted(old)
        found.add(whole == new)
        number += 1
    assert status == 0 and found == {True, False} and number > 3 * len(own)


@pytest.mark.parametrize("kind", WRITERS)
def test_an_interrupt_leaves_no_mixture(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "old", kind, 0.25)
    write(tmp_path / "new", kind, 0.75)
    both = [contents(tmp_path / "old"), contents(tmp_path / "new")]
    for number in range(2 * len(both[0])):
        folder = tmp_path / str(number)
        write(folder, kind, 0.25)
        with monkeypatch.context() as patch:
            once = iter([KeyboardInterrupt()])

            def interrupt(once: Any = once) -> None:
                for error in once:
                    raise error

            patch.setattr(replacing.os, "replace", broken_off(number, interrupt))
            with pytest.raises(KeyboardInterrupt):
                write(folder, kind, 0.75)
        assert contents(folder) in both, number
        assert sorted(os.listdir(folder)) == sorted(both[0])


def test_other_files_stay_and_those_that_came_meanwhile(tmp_path: Path) -> None:
    write(tmp_path, "to_geotiff", 0.25)
    (tmp_path / "notes.txt").write_text("mine")
    count = len(contents(tmp_path)) - 1
    assert killed(tmp_path, "to_geotiff", 2 * count) == 7  # all are aside, none is there
    assert list(contents(tmp_path)) == ["notes.txt"]
    name = "abundances_2021-05-01.tif"
    (tmp_path / name).write_bytes(b"put there by somebody")
    clean(tmp_path)
    there = contents(tmp_path)
    assert there.pop("notes.txt") == b"mine" and there.pop(name) == b"put there by somebody"
    assert len(there) == count - 1
