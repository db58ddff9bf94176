"""The loop, the optimizer, the schedule, the checkpoints."""
