"""When a course is saved: by time, by updates, and never more than a small share of the run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tunewright.errors import RunError
from tunewright.training.checkpoint import Checkpoint, Checkpoints
from tunewright.training.events import NotSaved, Saved

# Saves by time wait until they take at most this share of the run, however slow the disk.
LARGEST_SHARE = 0.02
# A disk that fails so often in a row will not heal by itself, and what is not saved grows.
MAX_FAILURES = 3


@dataclass
class Saver:
    """Saves to a store every `seconds` (0 is never) and every `steps` updates (None is never)."""

    store: Checkpoints
    seconds: float = 0.0
    steps: int | None = None
    _since: float = field(init=False, default_factory=lambda: time.monotonic())
    _cost: float = field(init=False, default=0.0)
    _failures: int = field(init=False, default=0)

    def is_due(self, step: int) -> bool:
        """Says whether to save after update `step`."""
        if self.steps is not None and step % self.steps == 0:
            return True
        interval = max(self.seconds, self._cost / LARGEST_SHARE)
        return self.seconds > 0 and time.monotonic() - self._since >= interval

    def save(self, checkpoint: Checkpoint) -> Saved:
        """Saves now; raises RunError when it cannot."""
        started = time.monotonic()
        self._since = started  # a save that fails is tried again after another interval
        self.store.save(checkpoint)
        self._since = time.monotonic()
        self._cost, self._failures = self._since - started, 0
        return Saved(checkpoint.step, checkpoint.num_bytes, self._cost)

    def try_to_save(self, checkpoint: Checkpoint) -> Saved | NotSaved:
        """Saves now, and lets training go on when it cannot, since a disk may be mended.

        Raises RunError at the third failure in a row.
        """
        try:
            return self.save(checkpoint)
        except RunError as error:
            self._failures += 1
            if self._failures == MAX_FAILURES:
                raise
            return NotSaved(checkpoint.step, str(error))
