"""Shared fixtures: the data folder, and a check that no test leaves global settings changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before pyplot is imported anywhere: pictures are drawn without a display.
os.environ.setdefault("MPLBACKEND", "Agg")
# Before numpy and torch are: workers that share the cores would wait for each other's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What tests share asserts as they do, with the values that differ in the message.
for _shared in Path(__file__).with_name("support").glob("*_cases.py"):
    pytest.register_assert_rewrite(_shared.stem)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--data",
        metavar="DIR",
        default=os.environ.get("PYRO_UNMIX_DATA"),
        help="folder of the real and published scenes (default: $PYRO_UNMIX_DATA)",
    )
    parser.addoption("--slow", action="store_true", help="run tests of a minute or more as well")
    parser.addoption(
        "--mutants", metavar="N", type=int, default=50, help="damaged files of each format to read"
    )
    parser.addoption("--first", metavar="N", type=int, default=0, help="seed of the first of them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes a minute or more: pass --slow"))
        if "data_dir" in getattr(item, "fixturenames", ()):
            item.add_marker("data")


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of the real and published scenes."""
    given = request.config.getoption("--data")
    if not given:
        pytest.skip("needs the data folder: set PYRO_UNMIX_DATA or pass --data DIR")
    folder = Path(given)
    if not folder.is_dir():
        # A wrong path must not pass for "no data here".
        pytest.fail(f"the data folder {folder} does not exist (PYRO_UNMIX_DATA or --data)")
    return folder


@pytest.fixture
def told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is shown from the start, and after every step."""
    monkeypatch.setattr("pyro_unmix.ops.progress._DELAY", 0.0)
    monkeypatch.setattr("pyro_unmix.ops.progress._BETWEEN_LINES", 0.0)


@pytest.fixture
def seeded() -> Iterator[None]:
    """Random numbers of torch begin at the seed 0, and those outside of the test go on as if it had not been."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def own_store() -> Iterator[None]:
    """Parameters of modules that a test calls by hand go to a store that is thrown away."""
    import pyro

    with pyro.get_param_store().scope():
        yield


def _torch_settings() -> tuple[object, ...] | None:
    # A test that does not need torch does not import it.
    torch = sys.modules.get("torch")
    return None if torch is None else (torch.get_num_threads(), torch.get_default_dtype())


def _global_params() -> list[str]:
    pyro = sys.modules.get("pyro")
    return [] if pyro is None else list(pyro.get_param_store().keys())


@pytest.fixture(autouse=True)
def _settings_untouched() -> Iterator[None]:
    """Fail a test that changes torch's settings or leaves parameters in Pyro's store; undo both."""
    before = _torch_settings()
    yield
    if params := _global_params():
        import pyro

        pyro.clear_param_store()
        pytest.fail(f"the test left parameters in Pyro's global store: {params}")
    after = _torch_settings()
    if before is not None and after != before:
        import torch

        torch.set_num_threads(before[0])
        torch.set_default_dtype(before[1])
        pytest.fail(f"torch's (threads, default dtype) went from {before} to {after}")
