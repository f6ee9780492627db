"""Several processes with or without GPUs: mmengine's launchers need CUDA devices, these set up the same process group without them."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from visionrnn.errors import DataError

LAUNCHERS = ("none", "pytorch", "slurm")


def init_cpu_group(launcher: str, dist_cfg: dict[str, Any]) -> None:
    """Starts a gloo process group for ``launcher`` ('pytorch' for torchrun, 'slurm') from the environment those set.

    ``dist_cfg`` is ``env_cfg['dist_cfg']`` of the config; its timeout (seconds) is used, its backend is not. Raises DataError when the
    launcher's environment variables are absent.
    """
    if launcher == "slurm":
        _environment_from_slurm(dist_cfg)
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    absent = [name for name in needed if name not in os.environ]
    if absent:
        raise DataError(
            f"--launcher {launcher}: {', '.join(absent)} not in the environment; start with: torchrun --nproc_per_node N"
            " --no-python visionrnn train CONFIG --launcher pytorch"
        )
    os.environ.setdefault("LOCAL_RANK", os.environ["RANK"])
    timeout = dist_cfg.get("timeout")
    dist.init_process_group(backend="gloo", timeout=timedelta(seconds=timeout) if timeout else None)


def _environment_from_slurm(dist_cfg: dict[str, Any]) -> None:
    """Sets torch's variables from Slurm's; the first host of the job is the master."""
    try:
        rank, tasks, nodes = (os.environ[name] for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"))
    except KeyError as error:
        raise DataError(f"--launcher slurm: {error.args[0]} not in the environment; start with: srun --ntasks N …") from None
    if "MASTER_ADDR" not in os.environ:
        hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], check=True, capture_output=True, text=True).stdout.split()
        os.environ["MASTER_ADDR"] = hosts[0]
    if dist_cfg.get("port") is not None:
        os.environ["MASTER_PORT"] = str(dist_cfg["port"])
    os.environ.setdefault("MASTER_PORT", "29500")
    os.environ.update(RANK=rank, WORLD_SIZE=tasks, LOCAL_RANK=os.environ.get("SLURM_LOCALID", rank))


def mean_over_ranks(value: float, device: torch.device | str = "cpu") -> float:
    """Mean of a number over all processes; the number itself where there is one process.

    A loss divided by the mean count of its ranks, its gradients averaged by DistributedDataParallel, equals the loss of one process with
    the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    total = torch.tensor(float(value), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()
