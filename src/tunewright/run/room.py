"""What will not fit into memory, told before the first update, and passes made small enough."""

from __future__ import annotations

from tunewright.devices.memory import free_bytes, total_bytes
from tunewright.run.groundwork import Groundwork
from tunewright.training.fitting import fit_into_memory
from tunewright.training.footprint import footprint
from tunewright.training.loop import Loop

GB = 1e9


def make_room(ground: Groundwork, loop: Loop) -> None:
    """Tells what training needs beyond what there is, and on a CPU cuts its forward passes.

    A GPU, and processes that pass in step, find out on the way.
    """
    settings, kind = ground.config.training, ground.device.kind
    size = footprint(
        loop, "validation" in ground.prepared.splits and settings.load_best_model_at_end
    )
    free, total = free_bytes(kind), total_bytes(kind)
    if free is not None and size.added_bytes > free:
        ground.note(
            f"Gradients and the state of the optimizer need {size.added_bytes / GB:.1f} GB "
            f"beside the model, and {free / GB:.1f} GB are free, so this run will not fit. A "
            "smaller model, or freeze_layers, needs less."
        )
    if kind != "cpu" or total is None or loop.sharding is not None:
        return
    state = size.weight_bytes + size.added_bytes
    cut = fit_into_memory(loop, state, total // ground.processes.local_size)
    if cut is not None:
        ground.note(
            f"Forward passes have at most {cut.max_tokens:,} tokens instead of {cut.asked:,}. "
            f"Larger ones would take about {cut.pass_bytes / GB:.1f} GB, and of this machine's "
            f"{total / GB:.1f} GB {cut.room_bytes / GB:.1f} can be theirs. An update still has "
            f"{settings.batch_size:,} rows."
        )
