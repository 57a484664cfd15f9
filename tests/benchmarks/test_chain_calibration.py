"""The benchmark of chains: its bands hold uniform ranks, and it sees a kernel that is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import chain_calibration as calibration

from pyro_unmix.kernels import LIBRARY_ROUND, NoiseDraws


def test_a_band_holds_uniform_curves_as_often_as_it_says() -> None:
    bounds, rng = calibration.band(200), np.random.default_rng(7)
    ranks = rng.integers(0, calibration.NUM_DRAWS + 1, size=(2000, 200))
    curves = (ranks[:, None] <= np.arange(calibration.NUM_DRAWS)[:, None]).mean(-1)
    inside = np.mean([calibration.outside(curve, bounds) <= 0 for curve in curves])
    # 2000 curves: a standard error of .005; the band's own simulation has one of .0035
    assert inside == pytest.approx(calibration.LEVEL, abs=0.02)


class TooSure:
    """Noise that is drawn and then halved."""

    def __call__(self, state: Any, spectra: Any) -> Any:
        state = NoiseDraws()(state, spectra)
        return state.having(noise_variance=state.noise_variance / 2)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_wrong_kernel_is_seen(wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "THIN", 2)
    kernels = [TooSure() if wrong and isinstance(k, NoiseDraws) else k for k in LIBRARY_ROUND]
    model = calibration.library_program()
    ranks = [calibration.rank(model, seed, kernels, warmup=20) for seed in range(25)]
    curve = calibration.curves(ranks)["noise_variance"]
    assert (calibration.outside(curve, calibration.band(25)) > 0) == wrong


def test_it_prints_a_row_per_quantity(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(calibration, "THIN", 1)
    monkeypatch.setattr(calibration, "WARMUP", 1)
    found = calibration.main(["--simulations", "2", "--out", str(tmp_path)])
    assert set(found) == set(calibration.PROGRAMS)
    assert "endmember" in found["SimplexMixing"] and "endmember" not in found["LibraryMixing"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + sum(map(len, found.values()))
    assert (tmp_path / "chain_calibration.png").stat().st_size > 10_000
