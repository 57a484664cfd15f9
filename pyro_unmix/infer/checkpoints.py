"""A folder of checkpoints: files that a killed process leaves whole, and that only the same call goes on from."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from pyro_unmix.infer.workers import Workers
from pyro_unmix.io.integrity.kinds import check_kind
from pyro_unmix.io.write.locks import free, take
from pyro_unmix.io.write.whole_files import is_full
from pyro_unmix.ops.checks import positive_int

logger = logging.getLogger(__name__)

_FORMAT = 2
_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.pt")
_NUM_KEPT = 2


class Resumable(Protocol):
    """A computation in progress that `Checkpoints` keeps, and that a later call brings back to where it was.

    Attributes
    ----------
    engine, noun, unit, planned : str
        What runs it, what it is called, what it counts, and what says how many there are to be.
    num_done : int
        Of what it counts, so far.
    workers : Workers
    """

    engine: str
    noun: str
    unit: str
    planned: str

    @property
    def num_done(self) -> int: ...

    @property
    def workers(self) -> Workers: ...

    def check_numbers(self) -> None:
        """Raise where what would be kept is not finite."""

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and text from which `restore` goes on with the same bits."""

    def fault(self, state: dict[str, Any], number: int) -> str:
        """What is wrong with a state that its name says is of so many; empty if nothing."""

    def check(self, state: dict[str, Any]) -> list[str]:
        """How this one differs from that whose state it is; nothing if it may go on from there."""

    def hint(self, different: list[str]) -> str:
        """What to know besides about such differences."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, after `check`."""

    def not_finite(self) -> str:
        """The name of something that is not finite after `restore`; empty if nothing."""


class Checkpoints:
    """The folder that `fit` or `sample` keeps its checkpoints in: the newest two, each written whole or not at all.

    A file is written beside its place, forced to disk, and renamed; its name has the number of steps, or of rounds of
    all chains, and a hash of its content, by which a damaged one is recognised. It holds tensors, numbers and text, and
    is read without running code from it. The folder is locked while it is used (not on Windows).

    Parameters
    ----------
    folder : path
        Made where it does not exist.
    every : int
        Steps or rounds between two checkpoints; one more is made at the end and at an interrupt.
    resume : bool
        Go on from the newest checkpoint in the folder; False: start anew, and remove those that are there.

    Examples
    --------
    >>> from pyro_unmix.infer import Checkpoints
    >>> kept = Checkpoints("kept", every=20)  # for fit(..., checkpoint=kept), or sample
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, every: int = 50, resume: bool = True
    ) -> None:
        self.folder = Path(folder)
        self.every = positive_int(every, "every")
        if not isinstance(resume, bool):
            raise TypeError(f"resume must be True or False, got {resume!r}")
        self.resume = resume
        self._kept: list[Path] = []
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"checkpoint must be a folder, got the file {self.folder}")

    @contextmanager
    def held(self, workers: Workers) -> Iterator[None]:
        """Inside the block, no other call has the folder; of several workers, the first one locks it.

        Raises
        ------
        BlockingIOError
            If another process, or another call in this one, has it.
        """
        lock = workers.of_first(self._take)
        try:
            yield
        finally:
            if workers.is_first:
                free(lock)

    def _take(self) -> int | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        return take(self.folder)

    @contextmanager
    def before(self, name: str) -> Iterator[Checkpoints]:
        """A folder inside this one, for what has to be computed before; held meanwhile, and both begin anew or none."""
        with self.held(Workers()):
            if not self.resume:
                self._kept = []
                self._prune()
            yield Checkpoints(self.folder / name, every=self.every, resume=self.resume)

    def begin(self, run: Resumable, total: int) -> bool:
        """Bring a run to where the newest checkpoint was made, of `total` steps or rounds; whether there was one.

        Raises
        ------
        ValueError
            If it belongs to another model, other settings or other data, or has more steps, or none can be read.
        """
        self._kept = []  # of an earlier call
        found = run.workers.of_first(self._look)
        if found is None:
            return False
        path, content = found
        state = _unpacked(content, path, run)
        number = _number(path)
        if fault := run.fault(state, number):
            raise ValueError(f"{path} is damaged: {fault}: remove it, or pass another folder")
        with _damaged(path):
            different = run.check(state)
        if different:
            raise ValueError(
                f"{path} is of another {run.noun}: {'; '.join(different[:4])}. Pass the same model, "
                "settings and data, another folder, or Checkpoints(folder, resume=False) to start anew and remove it"
                + run.hint(different)
            )
        if number > total:
            raise ValueError(
                f"{path} has made {number} {run.unit}, and {run.planned} is {total}: ask for "
                "as many or more, or pass another folder, or Checkpoints(folder, resume=False) to start anew and "
                "remove it"
            )
        with _damaged(path):
            run.restore(state)
            if bad := run.not_finite():
                raise ValueError(
                    f"{path} is damaged: {bad} holds NaN or infinity: remove it, or pass another folder"
                )
        self._kept = [path]
        if run.workers.is_first:
            logger.info("going on from %s, after %d %s", path, number, run.unit)
        return True

    def after_step(self, run: Resumable) -> None:
        """Save a run if it is time to."""
        if run.num_done % self.every == 0:
            self.save(run)

    def save(self, run: Resumable) -> None:
        """Write a checkpoint of a run; nothing if the newest is of this very step. Of several workers, one writes."""
        number = run.num_done
        if run.workers.is_first and self._kept and _number(self._kept[-1]) == number:
            return
        run.check_numbers()  # raises on all workers or on none
        if not run.workers.is_first:
            return
        buffer = io.BytesIO()
        torch.save({"format": _FORMAT, "engine": run.engine, **run.state()}, buffer)
        content = buffer.getvalue()
        path = self.folder / f"step-{number:09d}-{_digest(content)}.pt"
        temporary = path.with_suffix(".tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            if not is_full(error):
                raise
            # Hours of computing are worth more than this checkpoint.
            temporary.unlink(missing_ok=True)
            logger.warning(
                "no checkpoint after %d %s: %s. The %s goes on; make room, or one that is killed will go on from %s",
                number, run.unit, error, run.noun, self._kept[-1] if self._kept else "the start",
            )  # fmt: skip
            return
        _sync_folder(self.folder)
        self._kept = [*self._kept, path][-_NUM_KEPT:]
        self._prune()

    def _prune(self) -> None:
        """Remove what earlier checkpoints, and writes that were broken off, left behind."""
        for path in self.folder.glob("step-*"):
            written = path.with_suffix(".pt") if path.suffix == ".tmp" else path
            if _NAME.fullmatch(written.name) and path not in self._kept:
                path.unlink(missing_ok=True)

    def _look(self) -> tuple[Path, bytes] | None:
        """The checkpoint to go on from, if there is one."""
        if self.resume:
            return self._newest()
        self._prune()
        return None

    def _newest(self) -> tuple[Path, bytes] | None:
        """The newest checkpoint that is not damaged."""
        paths = [path for path in self.folder.glob("step-*.pt") if _NAME.fullmatch(path.name)]
        if not paths:
            return None
        for path in sorted(paths, reverse=True):
            check_kind(path, folder=False)
            content = path.read_bytes()
            if _digest(content) == path.stem.rpartition("-")[2]:
                return path, content
            logger.warning("%s is damaged: the checkpoint before it is taken", path)
        raise ValueError(
            f"no checkpoint in {self.folder} can be read, all are damaged: pass Checkpoints(folder, resume=False) to "
            "start anew and remove them, or another folder"
        )


def as_checkpoints(checkpoint: Checkpoints | str | os.PathLike[str] | None) -> Checkpoints | None:
    """What engines are given as ``checkpoint=``: a path is ``Checkpoints(path)``."""
    if checkpoint is None or isinstance(checkpoint, Checkpoints):
        return checkpoint
    return Checkpoints(checkpoint)


def _unpacked(content: bytes, path: Path, run: Resumable) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # parsers raise what damaged bytes lead them to
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} is not a checkpoint of {run.engine}, which holds nothing but tensors, numbers and text "
            f"({first}): remove it, or pass another folder"
        ) from error
    version = state.get("format") if isinstance(state, dict) else None
    if version != _FORMAT:
        raise ValueError(
            f"{path} has format {version}, this version goes on from {_FORMAT}: pass "
            "resume=False to start anew and remove it, or another folder"
        )
    engine = state.get("engine", "fit")  # older ones do not say it
    if engine != run.engine:
        raise ValueError(
            f"{path} is a checkpoint of {engine}, not of {run.engine}: pass another folder, or "
            "Checkpoints(folder, resume=False) to start anew and remove it"
        )
    return state


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """What a checkpoint of other content than ours leads to is an error that names it."""
    try:
        yield
    except ValueError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}): remove it, so that the "
            "checkpoint before it is taken, or pass another folder"
        ) from error


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])


def _sync_folder(folder: Path) -> None:
    """A rename is on disk when its folder is."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
