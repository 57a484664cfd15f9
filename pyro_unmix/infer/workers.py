"""Training by several processes: each computes its share of every batch, and all make the same step."""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as group
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_unmix.posterior.programs import is_latent, value_from_noise

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Share:
    """What one worker computes of a batch of pixels.

    Parameters
    ----------
    index : Tensor of int
        Its pixels. One that would have none computes the first pixel, with weight zero.
    first, total : int
        Where they begin in the batch, and the size of that.
    weight : float
        Of its loss and gradient: its part of the batch.
    """

    index: Tensor
    first: int
    total: int
    weight: float


class Workers:
    """The processes that train together, as seen by one of them; a process of its own is one of one.

    Loss and gradient of a step are the averages of the workers', weighted by the sizes of their shares, and so those of
    the whole batch in one process. The noise of the guide's Gaussian sites is that of the whole batch too: every worker
    draws all of it from the same generator and takes the rows of its share. What else is random (sites of other
    distributions, draws of the loss object) comes from a generator of the worker's own.

    Parameters
    ----------
    rank, size : int
        The number of this worker, from 0, and how many there are.
    device : torch.device
        Where the model is: tensors that are sent go through it.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> pu.infer.Workers().is_first
    True
    """

    def __init__(
        self, rank: int = 0, size: int = 1, device: torch.device | str | None = None
    ) -> None:
        self.rank, self.size = rank, size
        self.device = torch.device("cpu" if device is None else device)

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that writes, logs and shows progress."""
        return self.rank == 0

    # ------------------------------------------------------------------ one step

    def share(self, index: Tensor) -> Share:
        """This worker's part of a batch: shares differ by one pixel at most."""
        total = len(index)
        part = self.rows(total)
        if part.stop == part.start:
            return Share(index[:1], 0, total, 0.0)
        return Share(index[part], part.start, total, (part.stop - part.start) / total)

    def rows(self, total: int) -> slice:
        """This worker's rows of `total`."""
        return _rows(total, self.rank, self.size)

    @contextmanager
    def noise(self, share: Share, like: Tensor) -> Iterator[None]:
        """Inside, draws of latent sites are this share's rows of those of the batch; of the type of `like`."""
        if self.size == 1:
            yield
            return
        common = _Generator(self.device)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            # `torch.manual_seed` would seed all devices.
            own = common.seed_after() + self.rank
            torch.default_generator.manual_seed(own)
            if self.device.type == "cuda":
                torch.cuda.manual_seed(own)
            with _SharedNoise(share, common, like):
                yield
        common.hand_back()

    def average(self, loss: float, weight: float) -> float:
        """The loss of the whole batch."""
        if self.size == 1:
            return loss
        total = torch.tensor(weight * loss, dtype=torch.float64, device=self.device)
        group.all_reduce(total)
        return float(total)

    def average_gradients(self, values: Iterable[Tensor], weight: float) -> None:
        """Replace the gradients of the share by those of the batch."""
        if self.size == 1:
            return
        values = list(values)
        gradients = [torch.zeros_like(v) if v.grad is None else v.grad for v in values]
        if not gradients:
            return
        flat = weight * torch.cat([gradient.reshape(-1) for gradient in gradients])
        group.all_reduce(flat)
        parts = flat.split([value.numel() for value in values])
        for value, part in zip(values, parts, strict=True):
            value.grad = part.view_as(value)

    # ------------------------------------------------------------------ what all must know

    def any(self, here: bool) -> bool:
        """Whether something holds on some worker."""
        if self.size == 1:
            return here
        flag = torch.tensor(int(here), device=self.device)
        group.all_reduce(flag, group.ReduceOp.MAX)
        return bool(flag)

    def first_of(self, text: str) -> str:
        """The text of the first worker whose text is not empty."""
        return next((said for said in self._from_all(text) if said), "")

    def of_first(self, function: Callable[[], Result]) -> Result:
        """What a function returns or raises (a ValueError or OSError) on the first worker, which alone calls it."""
        if self.size == 1:
            return function()
        said: list[Any] = [None, None]
        if self.is_first:
            try:
                said[0] = function()
            except (ValueError, OSError) as error:
                said[1] = error
        group.broadcast_object_list(said, src=0, device=self.device)
        if said[1] is not None:
            raise said[1]
        return said[0]

    def check_alike(self, what: Mapping[str, Any]) -> None:
        """Refuse workers that were given different data or settings.

        Raises
        ------
        ValueError
            On all workers, with the names of what differs.
        """
        if self.size == 1:
            return
        everybody = self._from_all({name: _digest(value) for name, value in what.items()})
        different = [name for name in what if len({one[name] for one in everybody}) > 1]
        if different:
            raise ValueError(
                f"the {self.size} workers were given different {' and '.join(different)}: call fit "
                "with the same scene and settings on all of them, it takes each one's share itself"
            )

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors, in place, the values that they have on the first worker."""
        if self.size == 1:
            return
        with torch.no_grad():
            for tensor in tensors:
                sent = tensor.detach().to(self.device).contiguous()
                group.broadcast(sent, src=0)
                tensor.detach().copy_(sent)

    def gathered(self, parts: Mapping[str, Tensor], total: int) -> dict[str, Tensor]:
        """The rows of all workers, `total` of them, from everyone's own (see `rows`)."""
        if self.size == 1:
            return dict(parts)
        whole = {}
        for name, mine in parts.items():
            tensor = mine.new_empty((total, *mine.shape[1:]))
            tensor[self.rows(total)] = mine
            for rank in range(self.size):
                rows = tensor[_rows(total, rank, self.size)].to(self.device)
                group.broadcast(rows, src=rank)
                tensor[_rows(total, rank, self.size)] = rows.to(tensor.device)
            whole[name] = tensor
        return whole

    def _from_all(self, mine: Any) -> list[Any]:
        everybody: list[Any] = [mine]
        if self.size > 1:
            everybody = [None] * self.size
            group.all_gather_object(everybody, mine)
        return everybody


def join(device: torch.device) -> Workers:
    """This process among those of its process group; the group of `torchrun` is made at the first call.

    Parameters
    ----------
    device : torch.device
        Where the model is: a group that is made here uses NCCL for CUDA, else gloo.

    Raises
    ------
    ValueError
        If the group that there is cannot send tensors of the device.
    """
    if not group.is_available():
        return Workers(device=device)
    if not group.is_initialized():
        if not group.is_torchelastic_launched():
            return Workers(device=device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        group.init_process_group(backend, **_meeting_place())
        # Kept for further fits: a group cannot safely be made twice from the same store.
        atexit.register(_leave)
    if group.get_backend() == "nccl" and device.type != "cuda":
        raise ValueError(
            f"the process group uses NCCL and the model is on {device}: pass device='cuda', or "
            "init_process_group('gloo')"
        )
    return Workers(group.get_rank(), group.get_world_size(), device)


def device_of_worker(device: str | torch.device) -> torch.device:
    """``cuda`` without a number is the device of this worker's number on its machine under `torchrun`."""
    device = torch.device(device)
    local = os.environ.get("LOCAL_RANK")
    if device.type == "cuda" and device.index is None and local is not None:
        return torch.device("cuda", int(local))
    return device


def _meeting_place() -> dict[str, Any]:
    """Where the workers of one start find each other, if not where `torchrun` says.

    On one machine it lets the workers of a restart meet in the store of the killed ones, whose addresses are still
    there. Its count of restarts tells them apart, on one machine alone: other machines may have another count.
    """
    given = os.environ
    one_machine = given.get("GROUP_WORLD_SIZE") == "1"
    if not one_machine or given.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    rank, size = int(given["RANK"]), int(given["WORLD_SIZE"])
    store = group.TCPStore(given["MASTER_ADDR"], int(given["MASTER_PORT"]), size, is_master=False)
    start = f"pyro_unmix/start_{given.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    return {"store": group.PrefixStore(start, store), "rank": rank, "world_size": size}


def _leave() -> None:
    if group.is_initialized():
        group.destroy_process_group()


def _rows(total: int, rank: int, size: int) -> slice:
    return slice(total * rank // size, total * (rank + 1) // size)


def _digest(value: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(value, Tensor):
        digest.update(np.ascontiguousarray(value.cpu().numpy()).data)
    else:
        digest.update(json.dumps(value, sort_keys=True, default=str).encode())
    return digest.hexdigest()


class _Generator:
    """The generators of the process, CPU and CUDA, gone on with apart from them."""

    def __init__(self, device: torch.device) -> None:
        self._of = {"cpu": torch.Generator()}
        self._of["cpu"].set_state(torch.get_rng_state())
        self._device = device
        if device.type == "cuda":
            self._of["cuda"] = torch.Generator(device)
            self._of["cuda"].set_state(torch.cuda.get_rng_state(device))

    def normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        generator = self._of[like.device.type]
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)

    def seed_after(self) -> int:
        """A seed that follows from the state, which stays as it is."""
        ahead = torch.Generator()
        ahead.set_state(self._of["cpu"].get_state())
        return int(torch.randint(2**62, (), generator=ahead))

    def hand_back(self) -> None:
        """Let the process go on where this has come to."""
        torch.set_rng_state(self._of["cpu"].get_state())
        if "cuda" in self._of:
            torch.cuda.set_rng_state(self._of["cuda"].get_state(), self._device)


class _SharedNoise(Messenger):
    """Gaussian latent sites take their rows of the noise of the whole batch."""

    def __init__(self, share: Share, common: _Generator, like: Tensor) -> None:
        super().__init__()
        self.share, self.common, self.like = share, common, like

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        fn = msg["fn"]
        if not is_latent(msg) or not getattr(fn, "has_rsample", False):
            return
        in_plate = any(f.name == "pixels" and f.dim == -1 for f in msg["cond_indep_stack"])
        rows = len(self.share.index)

        def noise() -> Tensor:
            shape = tuple(fn.batch_shape)
            if not in_plate or not shape or shape[-1] != rows:
                return self.common.normal((*shape, *fn.event_shape), self.like)
            whole = (*shape[:-1], self.share.total, *fn.event_shape)
            drawn = self.common.normal(whole, self.like)
            return drawn.narrow(len(shape) - 1, self.share.first, rows)

        value = value_from_noise(fn, noise)
        if value is not None:
            msg["value"] = value
