"""How long a fit is to train, and when it has converged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyro_unmix.ops.checks import in_range, positive_int

#: Without a number of steps: the most epochs before training stops all the same.
MAX_EPOCHS = 30
_WINDOW = 50


class Plan:
    """How many steps, of how many pixels, at which rate of decay; convergence by windows, or by whole epochs."""

    def __init__(
        self,
        num_pixels: int,
        num_steps: int | None,
        num_epochs: float | None,
        batch_size: int,
        decay: float,
        whole_epochs: bool = False,
    ) -> None:
        if num_steps is not None and num_epochs is not None:
            raise ValueError("pass num_steps or num_epochs, got both: remove one of them")
        self.num_pixels = num_pixels
        self.batch_size = min(positive_int(batch_size, "batch_size"), self.num_pixels)
        per_epoch = self.num_pixels / self.batch_size
        self.whole_epochs = whole_epochs
        self.window = max(_WINDOW, math.ceil(per_epoch)) if whole_epochs else _WINDOW
        self.until_converged = num_steps is None and num_epochs is None
        if num_steps is not None:
            self.num_steps = positive_int(num_steps, "num_steps", minimum=0)
        else:
            epochs = MAX_EPOCHS if num_epochs is None else num_epochs
            epochs = in_range(epochs, "num_epochs", 0.0, open_low=True)
            self.num_steps = max(1, math.ceil(epochs * per_epoch))
            if self.until_converged:
                self.num_steps = max(self.num_steps, 2 * self.window)
        decay = in_range(decay, "learning_rate_decay", 0.0, 1.0, open_low=True)
        self.decay_per_step = decay ** (1 / max(self.num_steps, 1))
        self.decay = decay

    def settings(self, seed: int) -> dict[str, Any]:
        """What the steps depend on; on their number only where the learning rate does."""
        return {
            "batch_size": self.batch_size,
            "learning_rate_decay": self.decay,
            **({} if self.decay == 1 else {"num_steps": self.num_steps}),
            "seed": seed,
            "num_pixels": self.num_pixels,
        }

    def cut_short(self, losses: list[float]) -> bool:
        """Whether a fit stopped before it was done."""
        return len(losses) < self.num_steps and not self.finished(losses)

    def finished(self, losses: list[float]) -> bool:
        """Whether the ELBO has converged (only asked for where no number of steps was given)."""
        window = self.window
        if not self.until_converged or len(losses) < 2 * window or len(losses) % window:
            return False
        before, after = np.array(losses[-2 * window :]).reshape(2, window)
        error = math.sqrt((before.var(ddof=1) + after.var(ddof=1)) / window)
        return bool(before.mean() - after.mean() <= 2 * error)
