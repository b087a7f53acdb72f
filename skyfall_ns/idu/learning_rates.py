"""Learning rates of an episode: those of the configuration, independent of the checkpoint.

Skyfall-GS loads the optimizers of stage 1 over the learning rates of stage 2, which then have no effect (its defect
12).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nerfstudio.engine.optimizers import Optimizers


def reset_learning_rates(
    optimizers: Optimizers, table: Mapping[str, Any], done: int, steps: int, factor: float
) -> None:
    """Set every learning rate and schedule to its state after `done` of the `steps` of an episode.

    Rates are `factor` times those of `table`, the trainer's configuration of optimizers. Schedules have the length of
    the episode, whatever length is configured."""
    for name, optimizer in optimizers.optimizers.items():
        rate, schedule = factor * table[name]["optimizer"].lr, table[name]["scheduler"]
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = rate
        if schedule is None:
            continue
        final = None if schedule.lr_final is None else factor * schedule.lr_final
        schedule = replace(schedule, max_steps=steps, lr_final=final)
        scheduler = schedule.setup().get_scheduler(optimizer=optimizer, lr_init=rate)
        scheduler.last_epoch, scheduler._step_count = done, done + 1  # checkpoints contain both
        for group, decay in zip(optimizer.param_groups, scheduler.lr_lambdas, strict=True):
            group["lr"] = rate * decay(done)
        optimizers.schedulers[name] = scheduler
