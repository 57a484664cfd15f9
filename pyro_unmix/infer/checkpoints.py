"""Checkpoints of a fit: files that a killed process leaves whole, and that only the same fit goes on from."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_unmix.infer.batches import FromDisk, InMemory
from pyro_unmix.infer.fingerprint import attributes, describe, describe_program, differences, same
from pyro_unmix.infer.step import CheckedSVI
from pyro_unmix.infer.workers import Workers
from pyro_unmix.io.write.locks import free, take
from pyro_unmix.io.write.whole_files import is_full
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.posterior.dates import copies
from pyro_unmix.posterior.programs import loose_params, prepare

logger = logging.getLogger(__name__)

_FORMAT = 2
_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.pt")
_NUM_KEPT = 2


@dataclass
class Run:
    """A fit in progress: everything that its next step depends on.

    Parameters
    ----------
    model, guide : the pair that is trained
    svi : CheckedSVI
    loss : pyro.infer.ELBO
        The objective of `svi`.
    data : InMemory or FromDisk
        Shuffled.
    settings : dict
        What else a step depends on; numbers and text.
    losses : list of float
        Of the steps so far.
    """

    model: Any
    guide: Any
    svi: CheckedSVI
    loss: Any
    data: InMemory | FromDisk
    settings: dict[str, Any]
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        #: False while a step is under way: nothing may be saved then.
        self.between_steps = True
        self._loss_before = attributes(self.loss)

    def prepare(self) -> None:
        """Let the guide's features be those of the parameters of the moment, which are kept for `state`."""
        self._start = {name: _clones(part) for name, part in self._modules()}
        guide = self.guide
        if isinstance(self.data, FromDisk) and hasattr(guide, "prepare"):
            guide = copies(self.model, guide)[1]  # pools are prepared later, and alike
        self.data.prepare(partial(self._features, guide))

    def _features(
        self, guide: Any, pixels: Tensor, valid: Tensor, index: Tensor
    ) -> dict[str, Tensor]:
        """The guide's features of some pixels, of which every worker computes a part."""
        total, workers = len(pixels), self.svi.workers
        rows = workers.rows(total)
        count = rows.stop - rows.start
        if not count:  # more workers than pixels
            rows = slice(0, 1)
        mine = prepare(guide, pixels[rows], valid[rows], index[rows])
        return workers.gathered({k: v[:count] for k, v in mine.items()}, total)

    def begin(self) -> None:
        """Prepare the first step: all workers with the parameters of the first one."""
        workers = self.svi.workers
        if workers.size == 1:
            self.prepare()
            return
        workers.copy_first(tensor for _, part in self._modules() for tensor in _tensors(part))
        self.prepare()
        random_state = _random_state(self.data.device)
        self.meet_parameters()
        _set_random_state(random_state, self.data.device)
        store = pyro.get_param_store().get_state()["params"]
        workers.copy_first(store[name] for name in sorted(store))

    def check_workers(self) -> None:
        """Raise a ValueError where workers were given different things."""
        if self.svi.workers.size > 1:
            alike = {"data": self.data.description(), "settings": self.settings}
            self.svi.workers.check_alike(alike)

    def meet_parameters(self) -> None:
        """Make the parameters that a program makes at its first call, of a whole batch."""
        args, kwargs = self._batch(self.data.example())
        self.svi.meet_parameters(*args, **kwargs)

    def step(self) -> float:
        """One step on the next batch; its loss."""
        self.between_steps = False
        share = self.svi.workers.share(self.data.draw())
        args, kwargs = self._batch(share.index)
        with self.svi.workers.noise(share, args[0]):
            self.losses.append(self.svi.step(*args, weight=share.weight, **kwargs))
        self.between_steps = True
        return self.losses[-1]

    def _batch(self, index: Tensor) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        pixels, valid, features = self.data.rows(index)
        return (pixels, valid), {
            "index": index,
            "size": self.data.num_pixels,
            "features": features,
        }

    def _modules(self) -> list[tuple[str, nn.Module]]:
        pairs = (("model", self.model), ("guide", self.guide))
        return [(name, part) for name, part in pairs if isinstance(part, nn.Module)]

    # ------------------------------------------------------------------ out and in

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and text from which `restore` goes on with the same bits."""
        self.svi.check_parameters()  # what is not finite is never kept
        loss, now = self.loss, attributes(self.loss)
        counted = {k: v for k, v in now.items() if not same(v, self._loss_before.get(k))}
        optimiser = self.svi.optim.state()
        return {
            "format": _FORMAT,
            "fingerprint": self._fingerprint(optimiser["names"], counted),
            "start": self._start,
            **{name: dict(part.state_dict()) for name, part in self._modules()},
            "loose": loose_params(self.model, self.guide)["params"],
            "optimiser": optimiser,
            "batches": self.data.state(),
            "random": _random_state(self.data.device),
            "counted": counted,
            "loss": loss.state_dict() if hasattr(loss, "state_dict") else {},
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }

    def check(self, state: dict[str, Any]) -> list[str]:
        """How this fit differs from the one whose state it is; nothing if it may go on from there."""
        saved = state["fingerprint"]
        now = self._fingerprint(state["optimiser"]["names"], state["counted"])
        for name, _ in self._modules():
            # Parameters that are made at the first call may not be there yet.
            known = now[name].get("parameters")
            if known is None:  # a function
                continue
            later = saved.get(name, {}).get("parameters", {})
            now[name]["parameters"] = {
                **{k: v for k, v in later.items() if k not in known},
                **known,
            }
        return list(differences(saved, now))

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, after `check`."""
        for name, part in self._modules():
            part.load_state_dict(state["start"][name], strict=False)
        self.prepare()  # with the parameters of the start: the features of the first run
        self._start = state["start"]
        self.data.restore(state["batches"])
        self.meet_parameters()
        for name, part in self._modules():
            part.load_state_dict(state[name])
        self._restore_loose(state["loose"])
        self.svi.optim.restore(state["optimiser"])
        for name, value in state["counted"].items():
            setattr(self.loss, name, value)
        if state["loss"]:
            self.loss.load_state_dict(state["loss"])
        self.losses[:] = state["losses"].tolist()
        _set_random_state(state["random"], self.data.device)

    def _restore_loose(self, saved: dict[str, Tensor]) -> None:
        loose = pyro.get_param_store().get_state()["params"]
        for name, value in saved.items():
            if name not in loose or loose[name].shape != value.shape:
                raise ValueError(
                    f"the checkpoint has a parameter {name!r} of shape {tuple(value.shape)}, which "
                    "the guide does not have: pass the same guide, or another folder"
                )
            loose[name].data.copy_(value)

    def _fingerprint(self, names: list[str], counted: dict[str, Any]) -> dict[str, Any]:
        """What must not differ; `names` of trained parameters, `counted` what the loss changes itself."""
        loss = describe(self.loss)
        rates = {name.replace("$$$", "."): self.svi.optim.rate(name) for name in names}
        return {
            "model": describe_program(self.model, self.model),
            "guide": describe_program(self.guide, self.model),
            "settings": {
                **self.settings,
                "learning_rate": rates,
                "loss": {k: v for k, v in loss.items() if k not in counted},
                "device": self.data.device.type,
            },
            "data": self.data.description(),
        }


class Checkpoints:
    """The folder that a fit keeps its checkpoints in: the newest two, each written whole or not at all.

    A file is written beside its place, forced to disk, and renamed; its name has the number of steps and a hash of
    its content, by which a damaged one is recognised. It holds tensors, numbers and text, and is read without
    running code from it. The folder is locked while a fit uses it (not on Windows).

    Parameters
    ----------
    folder : path
        Made where it does not exist.
    every : int
        Steps between two checkpoints; one more is made at the end and at an interrupt.
    resume : bool
        Go on from the newest checkpoint in the folder; False: start anew, and remove those that are there.

    Examples
    --------
    >>> from pyro_unmix.infer import Checkpoints
    >>> kept = Checkpoints("kept", every=20)  # for fit(..., checkpoint=kept)
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
        """Inside the block, no other fit has the folder; of several workers, the first one locks it.

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

    def begin(self, run: Run, num_steps: int) -> bool:
        """Bring a run of `num_steps` to where the newest checkpoint was made; whether there was one.

        Raises
        ------
        ValueError
            If it belongs to another model, other settings or other data, or has more steps, or none can be read.
        """
        workers = run.svi.workers
        found = workers.of_first(self._look)
        if found is None:
            return False
        path, content = found
        state = _unpacked(content, path)
        _check_state(state, path)
        with _damaged(path):
            different = run.check(state)
        if different:
            raise ValueError(
                f"{path} is of another fit: {'; '.join(different[:4])}. Pass the same model, "
                "settings and data, another folder, or Checkpoints(folder, resume=False) to start anew and remove it"
                + _hint(different)
            )
        if len(state["losses"]) > num_steps:
            raise ValueError(
                f"{path} has made {len(state['losses'])} steps, and num_steps is {num_steps}: ask for "
                "as many or more, or pass another folder, or Checkpoints(folder, resume=False) to start anew and "
                "remove it"
            )
        with _damaged(path):
            run.restore(state)
            _check_finite(run, path)
        self._kept = [path]
        if workers.is_first:
            logger.info("going on from %s, after %d steps", path, len(run.losses))
        return True

    def after_step(self, run: Run) -> None:
        """Save a run if it is time to."""
        if len(run.losses) % self.every == 0:
            self.save(run)

    def save(self, run: Run) -> None:
        """Write a checkpoint of a run; nothing if the newest is of this very step. Of several workers, one writes."""
        if not run.svi.workers.is_first:
            run.svi.check_parameters()  # raises on all workers or on none
            return
        steps = len(run.losses)
        if self._kept and _number(self._kept[-1]) == steps:
            return
        buffer = io.BytesIO()
        torch.save(run.state(), buffer)
        content = buffer.getvalue()
        path = self.folder / f"step-{steps:09d}-{_digest(content)}.pt"
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
            # Hours of training are worth more than this checkpoint.
            temporary.unlink(missing_ok=True)
            logger.warning(
                "no checkpoint after %d steps: %s. The fit goes on; make room, or a fit that is "
                "killed will go on from %s", steps, error, self._kept[-1] if self._kept else "the start",
            )  # fmt: skip
            return
        _sync_folder(self.folder)
        self._kept = [*self._kept, path][-_NUM_KEPT:]
        self._prune()

    def _prune(self) -> None:
        """Remove what earlier checkpoints, and writes that were broken off, left behind."""
        for path in self.folder.glob("step-*"):
            ours = path.suffix == ".tmp" or _NAME.fullmatch(path.name)
            if ours and path not in self._kept:
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
            content = path.read_bytes()
            if _digest(content) == path.stem.rpartition("-")[2]:
                return path, content
            logger.warning("%s is damaged: the checkpoint before it is taken", path)
        raise ValueError(
            f"no checkpoint in {self.folder} can be read, all are damaged: pass Checkpoints(folder, resume=False) to "
            "start anew and remove them, or another folder"
        )


def _unpacked(content: bytes, path: Path) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # parsers raise what damaged bytes lead them to
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} is not a checkpoint of fit, which holds nothing but tensors, numbers and text "
            f"({first}): remove it, or pass another folder"
        ) from error
    version = state.get("format") if isinstance(state, dict) else None
    if version != _FORMAT:
        raise ValueError(
            f"{path} has format {version}, this version goes on from {_FORMAT}: pass "
            "resume=False to start anew and remove it, or another folder"
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


def _check_state(state: dict[str, Any], path: Path) -> None:
    """What the digest in the name does not tell: a checkpoint may be made by others."""
    losses = state.get("losses")
    steps = losses.numel() if isinstance(losses, Tensor) and losses.dim() == 1 else None
    if not isinstance(losses, Tensor) or steps != _number(path):
        raise ValueError(
            f"{path} is damaged: expected the losses of {_number(path)} steps, as its name says, got "
            f"{'none' if steps is None else steps}: remove it, or pass another folder"
        )
    if not torch.isfinite(losses).all():
        raise ValueError(f"{path} is damaged: losses hold NaN or infinity: remove it")


def _check_finite(run: Run, path: Path) -> None:
    """Trained numbers, once they are where they belong."""
    found = [(f"{n}.{k}", v) for n, part in run._modules() for k, v in part.named_parameters()]
    found += list(loose_params(run.model, run.guide)["params"].items())
    for name, value in found:
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{path} is damaged: {name} holds NaN or infinity: remove it, or pass another folder"
            )


def _hint(different: list[str]) -> str:
    if not any(sentence.startswith("settings.num_steps") for sentence in different):
        return ""
    return ". (The learning rate decays over num_steps: only with learning_rate_decay=1 can a fit go on for longer)"


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


def _tensors(part: nn.Module) -> list[Tensor]:
    return [value for value in part.state_dict().values() if isinstance(value, Tensor)]


def _clones(part: nn.Module) -> dict[str, Any]:
    return {
        k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in part.state_dict().items()
    }


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
