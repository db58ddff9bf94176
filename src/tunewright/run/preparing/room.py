"""What will not fit into memory, told before the first update, and passes made small enough."""

from __future__ import annotations

from tunewright.devices.memory import free_bytes, main_memory
from tunewright.run.preparing.groundwork import Groundwork
from tunewright.training.fitting import measure_pass
from tunewright.training.footprint import footprint
from tunewright.training.loop import Loop

GB = 1e9
# Of the memory that there is, the part that runs may plan with: others live there, too.
SHARE = 0.75


def make_room(ground: Groundwork, loop: Loop) -> None:
    """Tells what training needs beyond what there is, and on a CPU cuts its forward passes.

    A GPU, and processes that pass in step, find out on the way. How far passes are cut depends on
    how much memory there is, not on how much is free: a run that is repeated has the same ones.
    """
    settings, kind = ground.config.training, ground.device.kind
    keeps_best = "validation" in ground.prepared.splits and settings.load_best_model_at_end
    size, free = footprint(loop, keeps_best), free_bytes(kind)
    if free is not None and size.added_bytes > free:
        ground.note(
            f"Gradients and the state of the optimizer need {size.added_bytes / GB:.1f} GB "
            f"beside the model, and {free / GB:.1f} GB are free, so this run will not fit. A "
            "smaller model, or freeze_layers, needs less."
        )
    memory = main_memory() if kind == "cpu" else None
    if memory is None or settings.gradient_checkpointing or settings.parallel == "fsdp":
        return
    share = int(SHARE * memory / ground.processes.local_size)
    _cut_passes(ground, loop, max(share - size.weight_bytes - size.added_bytes, 0))


def _cut_passes(ground: Groundwork, loop: Loop, room: int) -> None:
    """Makes the loop's passes, and those of its other processes, fit into so many bytes."""
    found, asked = measure_pass(loop), loop.max_tokens
    budget = asked if found is None else found.budget(asked, room)
    if not ground.processes.is_alone:
        budget = int(ground.processes.gather_numbers([budget]).min())
    loop.max_tokens = budget
    if found is None:
        return
    there = f"there are {room / GB:.1f} GB for it"
    if budget < asked:
        changed = " Its bits are no longer those of the run that was stopped." if loop.step else ""
        ground.note(
            f"Forward passes have at most {budget:,} tokens instead of {asked:,}: one of {asked:,} "
            f"takes about {found.at_peak(asked) / GB:.1f} GB, and {there}. An update still has "
            f"{loop.batch_size:,} rows.{changed}"
        )
    if found.at_peak(found.longest) > room:
        ground.note(
            f"A text of {found.longest:,} tokens alone takes about "
            f"{found.at_peak(found.longest) / GB:.1f} GB in training, and {there}: the system may "
            "end this run. gradient_checkpointing=true needs less, or a smaller max_length."
        )
