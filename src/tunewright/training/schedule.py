"""Learning-rate schedules: the factor of the peak step size at each update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ScheduleName = Literal["linear", "cosine", "constant", "inverse_sqrt", "plateau"]

# The plateau schedule halves the rate after two evaluations without progress.
PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 2


@dataclass
class Schedule:
    """Linear warmup from 0 to 1 over `warmup_steps`, then the shape that `name` says.

    linear: down to 0 at `total_steps`. cosine: half a cosine to 0 (Loshchilov & Hutter 2017).
    constant: 1. inverse_sqrt: sqrt(warmup / step) (Vaswani et al. 2017). plateau: halved whenever
    two evaluations in a row bring no progress.
    """

    name: ScheduleName
    total_steps: int
    warmup_steps: int
    reductions: int = 0
    stale: int = 0

    def factor(self, step: int) -> float:
        """Returns the factor of update `step`, counted from 0."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        if self.name == "constant":
            return 1.0
        if self.name == "plateau":
            return PLATEAU_FACTOR**self.reductions
        if self.name == "inverse_sqrt":
            # Without a warmup the curve has no knee of its own; 10,000 updates is fairseq's habit.
            knee = max(self.warmup_steps, 1) if self.warmup_steps else 10_000
            return math.sqrt(knee / max(step, knee))
        left = max(0.0, (self.total_steps - step) / max(1, self.total_steps - self.warmup_steps))
        return left if self.name == "linear" else 0.5 * (1 + math.cos(math.pi * (1 - left)))

    def observe(self, progress: bool) -> None:
        """Tells the schedule how an evaluation went; only `plateau` listens."""
        self.stale = 0 if progress else self.stale + 1
        if self.stale >= PLATEAU_PATIENCE:
            self.reductions, self.stale = self.reductions + 1, 0
