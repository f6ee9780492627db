"""What losses are divided by."""

from __future__ import annotations

import torch
from mmengine.dist import get_world_size

from visionrnn.integrations.mmengine.distributed import mean_over_ranks


def share_of_count(count: int, device: torch.device | str = "cpu") -> float:
    """The divisor for a sum over this process's ``count`` objects: all processes' objects, at least 1, over the number of processes.

    With gradients averaged over the processes, the loss is that of one process with the whole batch, also where no process has an object.
    """
    return max(mean_over_ranks(count, device), 1 / get_world_size())
