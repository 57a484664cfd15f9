"""Engines in several threads: one after the other, each with the bits that it has alone."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from checkpoint_cases import automatic, plain
from fit_cases import CUBES, SCENE, ours, paper
from simplex_cases import model_of

from pyro_unmix import Unmixing, fit
from pyro_unmix.infer import sample
from pyro_unmix.methods import fcls, hbun
from pyro_unmix.ops import engine_lock
from pyro_unmix.ops.engine_lock import lent, one_engine, one_tile
from pyro_unmix.ops.seeding import seeded

FIT: dict[str, Any] = {"num_steps": 8, "batch_size": 8, "learning_rate": 0.01, "progress": False}
CHAINS: dict[str, Any] = {
    "num_rounds": 8, "num_spectra": 10, "num_held_out": 4, "num_kept": 2, "num_samples": 4,
    "num_warmup": 4, "progress": False,
}  # fmt: skip


def within(seconds: float, function: Callable[[], Any]) -> Any:
    """What a function returns; a failure where it takes longer, as it does where threads wait for each other."""
    ended: list[Any] = []
    thread = threading.Thread(target=lambda: ended.append(function()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "the threads wait for each other"
    return ended[0]


def fitted(make: Callable[..., Any], **settings: Any) -> Unmixing:
    return fit(*make(), settings.pop("cubes", CUBES), **{**FIT, **settings})


def everything(result: Any) -> dict[str, np.ndarray]:
    if isinstance(result, xr.DataArray):
        return {"values": result.values}
    if isinstance(result, xr.Dataset):
        return {str(name): array.values for name, array in result.data_vars.items()}
    return {"losses": result.losses, **everything(result.dataset)}


def chains() -> Any:
    model = model_of()
    images = model.simulate(20, 1, seed=4)["pixels"].numpy().clip(0.001, 1.5)
    return sample(model, images.reshape(4, 5, 1, -1).transpose(2, 0, 1, 3), seed=1, **CHAINS)


@pytest.fixture(scope="module")
def result() -> Unmixing:
    return fitted(ours)


def engines(result: Unmixing, folder: Path) -> dict[str, Callable[[], Any]]:
    saved = result.save(folder / "saved")
    return {
        "paper": lambda: fitted(paper),
        "ours": lambda: fitted(ours, seed=3),
        "plain": lambda: fitted(plain),
        "automatic": lambda: fitted(automatic),
        "chains": chains,
        "predict": lambda: result.predict(CUBES[:2]),
        "draws": lambda: result.sample(5),
        "interval": lambda: result.interval(0.5, num_samples=20),
        "noise": lambda: result.reflectance_quantile(0.5, num_samples=20),
        "diagnose": lambda: result.diagnose(num_samples=10),
        "endmembers": lambda: result.endmembers(1),
        "method": lambda: hbun(CUBES, 3, num_steps=5, progress=False),
        "load": lambda: Unmixing.load(saved).sample(5),
    }


def test_the_bits_are_those_of_each_alone(result, tmp_path):
    calls = engines(result, tmp_path)
    alone = {name: everything(call()) for name, call in calls.items()}
    gate = threading.Barrier(8)

    def run(name: str) -> dict[str, np.ndarray]:
        gate.wait(20)
        return everything(calls[name]())

    names = list(calls) + [name for name in calls if name != "chains"][: 24 - len(calls)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, names))
    for name, got in zip(names, together, strict=True):
        assert got.keys() == alone[name].keys()
        for key, value in alone[name].items():
            np.testing.assert_array_equal(got[key], value, err_msg=f"{name}, {key}")


def test_models_that_are_made_meanwhile_draw_from_no_generator_of_the_fit():
    alone, made = fitted(paper), []
    ended = threading.Event()

    def make() -> None:
        while not ended.is_set():
            made.append(paper(len(made)))

    thread = threading.Thread(target=make)
    thread.start()
    try:
        together = fitted(paper)
    finally:
        ended.set()
        thread.join()
    np.testing.assert_array_equal(together.losses, alone.losses)


def test_waiting_is_said_once(caplog, monkeypatch):
    monkeypatch.setattr(engine_lock, "_said", threading.Event())
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with one_engine():
            inside.set()
            leave.wait(10)

    def wait() -> None:
        with one_engine():
            pass

    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(4) as pool:
        pool.submit(hold)
        assert inside.wait(60)
        waiting = [pool.submit(wait) for _ in range(3)]
        threading.Event().wait(0.2)
        assert not any(future.done() for future in waiting)
        leave.set()
    said = [r.message for r in caplog.records if "another thread of this process" in r.message]
    assert len(said) == 1


def test_an_error_lets_the_others_go_on(result):
    with pytest.raises(ValueError, match="bands"):
        result.predict(CUBES[..., :4])
    with pytest.raises(ValueError, match="seed"):
        fitted(ours, seed=-1)
    assert within(60, lambda: result.sample(2)).sizes["sample"] == 2


def test_a_forked_process_does_not_wait_for_threads_that_it_does_not_have():
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with one_engine():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(60)
    child = os.fork()
    if child == 0:
        with seeded(0):
            os._exit(7)
    leave.set()
    thread.join()
    found = within(30, lambda: os.waitpid(child, 0))
    assert os.waitstatus_to_exitcode(found[1]) == 7


def test_tiles_enter_what_is_lent_and_nothing_else():
    order: list[str] = []

    def tile() -> None:
        with one_tile(), lent(), one_engine():  # a tile lends nothing, and is an engine by itself
            order.append("tile")

    def engine() -> None:
        with one_engine():
            order.append("engine")

    with ThreadPoolExecutor(2) as pool:
        with one_engine():
            pool.submit(engine)
            waiting = pool.submit(tile)
            threading.Event().wait(0.2)
            assert order == []
            with lent():
                waiting.result(60)
                assert order == ["tile"]
                with one_engine(), lent(), one_engine():  # what a callback may do
                    order.append("callback")
            order.append("end")
    assert order == ["tile", "callback", "end", "engine"]


# Dask's threads, whose tiles an engine waits for


def lazy_images(result: Unmixing) -> xr.DataArray:
    """Images in chunks that are made of the maps of a prediction when they are read."""
    maps = result.predict(CUBES.chunk(y=2, x=3)).abundances
    return CUBES.chunk(y=2, x=3) + 0 * maps.sum("endmember").drop_vars("time")


WAITING: dict[str, Callable[[xr.DataArray], Any]] = {
    "fit": lambda lazy: fit(*ours(), lazy, **FIT),
    "fit in pools that a thread reads": lambda lazy: fit(*ours(), lazy, memory=1e4, **FIT),
    "fit without maps": lambda lazy: fit(*ours(), lazy, maps=False, **FIT).dataset.compute(),
    "fit of a list": lambda lazy: fit(*ours(), list(lazy), **FIT),
    "method": lambda lazy: fcls(lazy, endmembers=SCENE.reference_endmembers),
    "prediction": lambda lazy: fitted(ours).predict(lazy).dataset.compute(),
    "draws": lambda lazy: fitted(ours).predict(lazy).sample(3),
    "callback": lambda lazy: fitted(ours, callback=lambda step, elbo: lazy.mean().compute()),
}


@pytest.mark.parametrize("engine", WAITING)
def test_images_that_are_made_of_tiles_end(engine, result):
    dask = pytest.importorskip("dask")
    expected = everything(WAITING[engine](lazy_images(result).compute().chunk(y=2, x=3)))
    with dask.config.set(scheduler="threads", num_workers=4):
        got = everything(within(120, lambda: WAITING[engine](lazy_images(result))))
    for key, value in expected.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)


def test_lazy_results_in_threads_beside_a_fit(result):
    pytest.importorskip("dask")
    lazy = result.predict(CUBES.chunk(y=2, x=3)).dataset
    maps, alone = everything(lazy.compute(scheduler="synchronous")), fitted(plain)

    def together() -> tuple[Any, list[Any]]:
        with ThreadPoolExecutor(4) as pool:
            fits = pool.submit(fitted, plain)
            found = [pool.submit(lambda: lazy.compute(scheduler="threads")) for _ in range(3)]
            return fits.result(), [future.result() for future in found]

    trained, computed = within(120, together)
    np.testing.assert_array_equal(trained.losses, alone.losses)
    for got in computed:
        for key, value in everything(got).items():
            np.testing.assert_array_equal(value, maps[key], err_msg=key)


def test_threads_of_torch_are_as_many_as_before(result):
    before = torch.get_num_threads()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: result.sample(2), range(6)))
        assert list(pool.map(lambda _: torch.get_num_threads(), range(3))) == [before] * 3
