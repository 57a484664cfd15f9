"""`unmix` and `unmix_by_chains` with checkpoints: short chains of the starts, chains, and which engine goes on."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from chain_cases import SPECTRA, Rounds, assert_same_chains, crash_at, rounds_of

import pyro_unmix as pu
from pyro_unmix.infer import Checkpoints, Sampled
from pyro_unmix.methods.unmix_by_chains import unmix_by_chains
from pyro_unmix.posterior import Unmixing

chains_module = importlib.import_module("pyro_unmix.methods.unmix_by_chains")
unmix_module = importlib.import_module("pyro_unmix.methods.unmix")
FEW: dict[str, Any] = {
    "seed": 1, "num_rounds": 8, "num_spectra": 40, "num_held_out": 10, "num_kept": 4, "num_samples": 8, "num_warmup": 2,
    "progress": False,
}  # fmt: skip
SHORT = 4


def scene(seed: int = 0) -> xr.DataArray:
    rng = np.random.default_rng(seed)
    abundances = rng.dirichlet([0.5] * 3, size=(1, 24, 24))
    return pu.as_cube_sequence(
        (abundances @ SPECTRA.T + 0.004 * rng.standard_normal((1, 24, 24, 4))).clip(0.001)
    )


CUBES = scene()


@pytest.fixture(autouse=True)
def two_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two short chains of four rounds, and two programs of either kind."""
    several = chains_module.several_starts
    monkeypatch.setattr(chains_module, "_SHORT", SHORT)
    monkeypatch.setattr(chains_module, "several_starts", lambda *a, **k: several(*a, **k)[:2])


@pytest.fixture
def start() -> Any:
    return pu.choose_start(CUBES, 3, seed=0, progress=False)


def by_chains(start: Any, folder: Path | None = None, **settings: Any) -> Callable[[], Sampled]:
    kept = {} if folder is None else {"checkpoint": Checkpoints(folder, every=3)}
    return lambda: unmix_by_chains(CUBES, 3, start=start, **{**FEW, **kept, **settings})


def test_chains_of_several_starts_go_on_where_they_were(start: Any, tmp_path: Path) -> None:
    """Short chains: eight rounds; then two of eight, and two that keep endmembers.

    Checkpoints after 3, 6, 8 rounds, and then after every third.
    """
    expected, made = rounds_of(by_chains(start))
    assert made == 2 * SHORT + 32
    for number, done in ((2, 0), (5, 3), (8, 6), (9, 8), (12, 11), (20, 17), (24, 23), (30, 29)):
        folder = tmp_path / str(number)
        crash_at(number, by_chains(start, folder))
        got, made = rounds_of(by_chains(start, folder))
        assert made == 40 - done, number
        assert_same_chains(got, expected)
    assert rounds_of(by_chains(start, folder))[1] == 0


def test_both_folders_begin_anew_or_none(start: Any, tmp_path: Path) -> None:
    by_chains(start, tmp_path)()
    anew = Checkpoints(tmp_path, every=3, resume=False)
    crash_at(5, by_chains(start, checkpoint=anew, seed=2))
    # what is there now is of the second call alone
    got, made = rounds_of(by_chains(start, tmp_path, seed=2))
    assert made == 37
    assert_same_chains(got, by_chains(start, seed=2)())


def test_one_object_begins_anew_at_every_call(start: Any, tmp_path: Path) -> None:
    anew = Checkpoints(tmp_path, every=3, resume=False)
    by_chains(start, checkpoint=anew)()
    crash_at(5, by_chains(start, checkpoint=anew, seed=2))
    assert not list(tmp_path.glob("step-*.pt"))  # which would be of the first call


@pytest.mark.parametrize("at", [5, 2 * SHORT])
def test_an_interrupt_of_the_short_chains_leaves_no_result(
    at: int, start: Any, tmp_path: Path
) -> None:
    """The round is ended, the last one too, and kept."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            rounds = Rounds(patch, at, lambda: signal.raise_signal(signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                by_chains(start, tmp_path)()
    finally:
        signal.signal(signal.SIGINT, before)
    assert rounds.made == at
    got, made = rounds_of(by_chains(start, tmp_path))
    assert made == 2 * SHORT + 32 - at
    assert_same_chains(got, by_chains(start)())


@pytest.mark.parametrize(("factor", "kind"), [(1.2, Unmixing), (3.0, Sampled)])
def test_checkpoints_do_not_choose_the_engine(
    factor: float, kind: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {"endmembers": SPECTRA, "progress": False, "device": "cpu"}
    monkeypatch.setattr(unmix_module, "misfit_factor", lambda *_: factor)
    monkeypatch.setattr(unmix_module, "NUM_STEPS", 2)
    monkeypatch.setattr(chains_module, "_CHAINS_OF_GIVEN", 1)
    plain = pu.unmix(CUBES, endmembers=SPECTRA, progress=False)
    kept = pu.unmix(CUBES, **settings, checkpoint=tmp_path)
    assert type(plain) is type(kept) is kind
    xr.testing.assert_identical(kept.abundances, plain.abundances)
    assert len(list(tmp_path.glob("step-*.pt"))) > 0
    again, made = rounds_of(lambda: pu.unmix(CUBES, **settings, checkpoint=tmp_path))
    assert made == 0
    xr.testing.assert_identical(again.abundances, plain.abundances)


def test_unmix_goes_on_with_chains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chains_module, "_CHAINS_OF_GIVEN", 1)

    def unmixed(**settings: Any) -> Any:
        return pu.unmix(CUBES, endmembers=SPECTRA, trained=False, progress=False, **settings)

    crash_at(70, lambda: unmixed(checkpoint=tmp_path))
    got, made = rounds_of(lambda: unmixed(checkpoint=tmp_path))
    assert made == 150  # of two hundred, with a checkpoint at every fiftieth
    assert_same_chains(got, unmixed())
    with pytest.raises(ValueError, match="is a checkpoint of sample, not of fit"):
        pu.unmix(CUBES, endmembers=SPECTRA, trained=True, progress=False, checkpoint=tmp_path)
