"""The floor of the speed benchmark.

``python benchmarks/_floor.py T L P K STEPS`` times it in a process that does nothing else.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor, nn

BATCH_SIZE = 128
_WARM_UP = 5


class Floor:
    """What no implementation can leave out: the bi-LSTM, and products of pixels with M0 and F.

    Parameters
    ----------
    num_bands, num_endmembers, num_components : int
        L, P, K.
    """

    def __init__(self, num_bands: int, num_endmembers: int, num_components: int) -> None:
        hidden = num_endmembers * (num_components + 1)
        self.lstm = nn.LSTM(num_bands, hidden, batch_first=True, bidirectional=True)
        sizes = (num_endmembers, num_endmembers * num_components)
        self.matrices = [torch.randn(num_bands, size, requires_grad=True) for size in sizes]

    def step(self, pixels: Tensor) -> None:
        """Forward and backward of pixels (B, T, L)."""
        total = self.lstm(pixels)[0].sum()
        for matrix in self.matrices:
            total = total + (pixels @ matrix).sum()
        total.backward()
        for tensor in [*self.lstm.parameters(), *self.matrices]:
            tensor.grad = None


def alone(*sizes: int, num_steps: int) -> float:
    """Median CPU ms of a floor step of these T, L, P, K, in a fresh process."""
    command = [sys.executable, __file__, *map(str, sizes), str(num_steps)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def _time(num_dates: int, num_bands: int, num_endmembers: int, rank: int, num_steps: int) -> float:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    floor = Floor(num_bands, num_endmembers, rank)
    pixels = torch.rand(BATCH_SIZE, num_dates, num_bands)
    seconds = []
    for _ in range(_WARM_UP + num_steps):
        started = time.process_time()
        floor.step(pixels)
        seconds.append(time.process_time() - started)
    return 1e3 * statistics.median(seconds[_WARM_UP:])


if __name__ == "__main__":
    print(json.dumps(_time(*map(int, sys.argv[1:]))))
