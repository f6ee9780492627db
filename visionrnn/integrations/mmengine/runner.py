"""mmengine's Runner with checkpoints of plain values, resume that executes nothing stored, and processes that need no GPU."""

from __future__ import annotations

import contextlib
import difflib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.device import get_device
from mmengine.dist import is_distributed, master_only
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS, RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from visionrnn import __version__
from visionrnn.checkpoints import FOREIGN, check_fit, read_checkpoint
from visionrnn.errors import CheckpointError, DataError
from visionrnn.integrations.mmengine import budget, checkpoint_hook, hooks, optimizers, pictures_hook, seeding, statistics_hook  # noqa: F401  (register)
from visionrnn.integrations.mmengine.distributed import init_cpu_group
from visionrnn.integrations.mmengine.files import resume_candidates, save_checkpoint
from visionrnn.integrations.mmengine.plain import hub_from_plain, hub_to_plain, to_plain

RUN_KEYS = ("work_dir", "resume", "load_from", "launcher")
"""Config keys that may differ between a run and its resumption."""


@RUNNERS.register_module()
class SafeRunner(Runner):
    """A Runner for training and testing; build it with ``SafeRunner.from_cfg(config)``.

    Checkpoints hold tensors and plain values, are written to a temporary file, synced and renamed, and are read with ``weights_only=True``
    only. ``resume`` takes nothing but values from a checkpoint: the config text stored in it is compared with the current one, never
    executed. Loading for ``test`` or ``val`` needs every key; ``load_from`` for training takes the keys that fit and warns of the others.

    Randomness, data statistics, finite losses and the summary are hooks that every run gets: SeedingHook, StatisticsHook,
    FiniteLossHook, SummaryHook.
    """

    optim_wrapper: Any
    param_schedulers: Any

    def __init__(self, *args: Any, **kwargs: Any):
        self._need_all_keys = False
        super().__init__(*args, **kwargs)
        self._console_level(None)

    # ---- processes and devices

    def setup_env(self, env_cfg: dict) -> None:
        """As mmengine's; without CUDA the process group is gloo's, whatever backend the config names."""
        if self.distributed and not is_distributed() and not torch.cuda.is_available():
            init_cpu_group(self._launcher, dict(env_cfg.get("dist_cfg", {})))
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """As mmengine's; on the CPU DistributedDataParallel gets no device numbers."""
        if not self.distributed or is_model_wrapper(model) or torch.cuda.is_available():
            return super().wrap_model(model_wrapper_cfg, model)
        model = model.to(get_device())
        if model_wrapper_cfg is not None:
            return MODEL_WRAPPERS.build({"type": "MMDistributedDataParallel", **model_wrapper_cfg}, default_args={"module": model})
        unused = self.cfg.get("find_unused_parameters", False)
        return MMDistributedDataParallel(module=model, broadcast_buffers=False, find_unused_parameters=unused)

    # ---- data

    @staticmethod
    def build_dataloader(dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """As mmengine's; without workers none persist, and without a GPU no memory is pinned, whatever the config says."""
        if isinstance(dataloader, dict):
            workers, pinned = dataloader.get("num_workers", 0), dataloader.get("pin_memory", False)
            keep = workers > 0 and dataloader.get("persistent_workers", False)
            dataloader = {**dataloader, "persistent_workers": keep, "pin_memory": pinned and torch.cuda.is_available()}
        return Runner.build_dataloader(dataloader, *args, **kwargs)

    def build_train_loop(self, loop: Any) -> Any:
        """As mmengine's. Raises DataError when an epoch has no step: too few samples for one batch."""
        built = super().build_train_loop(loop)
        loader = built.dataloader
        if isinstance(loader, DataLoader) and not len(loader):
            samples: Any = loader.dataset
            each = f" in each of {self.world_size} processes" if self.world_size > 1 else ""
            raise DataError(
                f"train_dataloader: {len(samples)} samples make no whole batch of {loader.batch_size}{each}; use a smaller batch:"
                " --cfg-options train_dataloader.batch_size=NUMBER"
            )
        return built

    # ---- hooks and log

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: list | None = None) -> None:
        """Registers the config's hooks and those that every run has; CheckpointHook is replaced by ours with the same options."""
        chosen = {"checkpoint": {"type": "AtomicCheckpointHook", "interval": 1}, **(default_hooks or {})}
        checkpoint = chosen["checkpoint"]
        if isinstance(checkpoint, dict) and checkpoint.get("type") == "CheckpointHook":
            chosen["checkpoint"] = {**checkpoint, "type": "AtomicCheckpointHook"}
        super().register_hooks(chosen, custom_hooks)
        present = {type(hook).__name__ for hook in self.hooks}
        for name in ("SeedingHook", "FiniteLossHook", "StatisticsHook", "SummaryHook"):
            if name not in present:
                self.register_hook({"type": name})

    def build_log_processor(self, log_processor: Any) -> Any:
        """As mmengine's; its LogProcessor is replaced by the one that shows few metrics."""
        if isinstance(log_processor, dict) and log_processor.get("type", "LogProcessor") == "LogProcessor":
            log_processor = {**log_processor, "type": "ConciseLogProcessor"}
        return super().build_log_processor(log_processor)

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        """As mmengine's; while the runner is built, environment, config and hook list go to the log file only."""
        logger = super().build_logger(*args, **kwargs)
        self.logger = logger
        self._console_levels = {handler: handler.level for handler in logger.handlers if not isinstance(handler, logging.FileHandler)}
        for handler in self._console_levels:
            handler.addFilter(_is_news)
        self._console_level(logging.WARNING)
        return logger

    def _console_level(self, level: int | None) -> None:
        """Raises the console's level to ``level`` at least; None restores the config's."""
        for handler, usual in self._console_levels.items():
            handler.setLevel(max(usual, level or usual))

    @contextlib.contextmanager
    def quiet(self, level: int = logging.WARNING) -> Iterator[None]:
        """Inside it the console shows messages of ``level`` and above; the log file gets all."""
        self._console_level(level)
        try:
            yield
        finally:
            self._console_level(None)

    def _init_model_weights(self) -> None:
        with self.quiet():  # one line per parameter belongs to the log file
            super()._init_model_weights()

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """As mmengine's, its line per parameter in the log file only."""
        with self.quiet():
            return super().build_optim_wrapper(optim_wrapper)

    # ---- loading

    @property
    def bare_model(self) -> nn.Module:
        """The model without the wrapper of distributed training."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    def test(self) -> dict:
        """Metrics on the test set. Raises CheckpointError when the checkpoint is not this model's."""
        self._need_all_keys = True
        return super().test()

    def val(self) -> dict:
        """Metrics on the validation set. Raises CheckpointError when the checkpoint is not this model's."""
        self._need_all_keys = True
        return super().val()

    def load_or_resume(self) -> None:
        """As mmengine's; automatic resume takes the newest checkpoint that reads, and starts anew, saying so, when there is none."""
        if self._has_loaded or not self._resume or self._load_from is not None:
            super().load_or_resume()
            return
        candidates = resume_candidates(self.work_dir)
        for path in candidates:
            try:
                read_checkpoint(path)
            except CheckpointError as error:
                self.logger.warning(f"passing over {error}")
                continue
            self.resume(str(path))
            return
        if candidates:
            raise CheckpointError(f"{self.work_dir}: none of its {len(candidates)} checkpoints can be read; move them away to start anew")
        self.logger.warning(f"{self.work_dir}: no checkpoint to resume from; training starts at epoch 1")

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = False, revise_keys: list | None = None
    ) -> dict[str, Any]:
        """Loads weights and returns the whole checkpoint. ``revise_keys`` may not be given: our names need no revision.

        The file is read to the CPU, whatever ``map_location``. With ``strict``, or
        for testing, every key must fit; otherwise those that fit are loaded and the rest is told in the log.
        Raises CheckpointError (``checkpoints.read_checkpoint``, ``checkpoints.check_fit``).
        """
        if revise_keys:
            raise TypeError("revise_keys is not supported; rename the keys of the state dict and save it anew")
        checkpoint = read_checkpoint(filename)
        state = checkpoint["state_dict"]
        if state and all(key.startswith("module.") for key in state):
            state = {key.removeprefix("module."): value for key, value in state.items()}
            checkpoint["state_dict"] = state
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        state = checkpoint["state_dict"]
        model = self.bare_model
        misfits = check_fit(model, state, filename, need_all=strict or self._need_all_keys)
        for line in misfits:
            self.logger.warning(f"{filename}: {line}")
        wanted = model.state_dict()
        if misfits:
            state = {key: value for key, value in state.items() if key in wanted and wanted[key].shape == value.shape}
        model.load_state_dict(state, strict=False)
        self._has_loaded = True
        kept = f"; only weights were taken, the file holds objects of {', '.join(checkpoint[FOREIGN][:3])}" if FOREIGN in checkpoint else ""
        self.logger.info(f"loaded {filename}{kept}")
        return checkpoint

    def resume(
        self, filename: str, resume_optimizer: bool = True, resume_param_scheduler: bool = True, map_location: Any = "default"
    ) -> None:
        """Continues from a checkpoint: weights, epoch, iteration, seed, log history, optimizer and schedulers.

        Raises CheckpointError for a checkpoint of another model or one that holds weights only. Nothing in the file is executed.
        """
        checkpoint = self.load_checkpoint(filename, strict=True)
        meta = checkpoint.get("meta")
        absent = [key for key in ("optimizer", "message_hub") if key not in checkpoint]
        if not isinstance(meta, dict) or "epoch" not in meta or "iter" not in meta or (resume_optimizer and absent):
            raise CheckpointError(
                f"{filename}: holds weights but no training state ({', '.join(absent) or 'epoch, iter'} missing), so training cannot resume"
                " from it; to start a new training from its weights use: --cfg-options load_from=FILE"
            )
        self.train_loop._epoch, self.train_loop._iter = int(meta["epoch"]), int(meta["iter"])
        self._compare_run(meta)
        self._resume_seed(meta.get("seed"))
        self.message_hub.load_state_dict(hub_from_plain(checkpoint["message_hub"]))
        if resume_optimizer:
            self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
            self.optim_wrapper.load_state_dict(checkpoint["optimizer"])
        if resume_param_scheduler and self.param_schedulers is not None:
            self._resume_schedulers(checkpoint.get("param_schedulers"), filename)
        self.logger.info(f"resumed after epoch {self.epoch}, iteration {self.iter}")

    def _resume_schedulers(self, states: Any, filename: str) -> None:
        self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        named = self.param_schedulers if isinstance(self.param_schedulers, dict) else {"": self.param_schedulers}
        stored = states if isinstance(states, dict) else {"": states or []}
        for name, schedulers in named.items():
            if len(stored.get(name, ())) != len(schedulers):
                raise CheckpointError(
                    f"{filename}: holds {len(stored.get(name, ()))} parameter schedulers, the config {len(schedulers)}; resume with the"
                    " config of the interrupted training"
                )
            for scheduler, state in zip(schedulers, stored[name], strict=True):
                scheduler.load_state_dict(state)

    def _resume_seed(self, seed: int | None) -> None:
        """Takes over the checkpoint's seed, in the sampler too, which was built before the checkpoint was read."""
        if seed is None or seed == self.seed:
            return
        if self._randomness_cfg.get("seed") is not None:
            self.logger.warning(f"the checkpoint's seed {seed} replaces the config's {self._randomness_cfg['seed']}")
        self._randomness_cfg["seed"] = seed
        self.set_randomness(**self._randomness_cfg)
        loader = self.train_dataloader
        samplers: list[Any] = [loader.sampler, getattr(loader.batch_sampler, "sampler", None)]
        for sampler in samplers:
            if hasattr(sampler, "seed"):
                sampler.seed = seed

    def _compare_run(self, meta: dict) -> None:
        """Logs how the stored config text (compared as text) and the number of processes differ from the current ones."""
        if meta.get("world_size", self.world_size) != self.world_size:
            self.logger.warning(f"the checkpoint was written by {meta['world_size']} processes, now there are {self.world_size}")
        stored, current = (_without_run_keys(text) for text in (str(meta.get("config", "")), self.cfg.pretty_text))
        changes = [line for line in difflib.unified_diff(stored, current, lineterm="", n=0) if not line.startswith(("---", "+++", "@@"))]
        if stored and changes:
            self.logger.warning("the config differs from the checkpoint's in these lines:\n  " + "\n  ".join(changes[:20]))

    # ---- saving

    @master_only
    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Writes ``out_dir/filename`` whole or not at all; tensors and plain values only.

        ``meta`` gets visionrnn_version, config (text), classes, dataset_meta, seed, world_size, epoch, iter, time and what hooks add
        (data_statistics). The arguments are mmengine's; remote folders (``file_client_args``, ``backend_args``) raise ValueError.
        """
        if file_client_args or backend_args or "://" in out_dir:
            raise ValueError(f"{out_dir}: checkpoints are written to local folders only")
        ahead = (1, 0) if by_epoch else (0, 1)
        meta = {"epoch": self.epoch + ahead[0], "iter": self.iter + ahead[1], **(meta or {})}
        dataset_meta = getattr(self.train_dataloader.dataset, "metainfo", None) or {}
        meta.update(
            visionrnn_version=__version__,
            config=self.cfg.pretty_text,
            classes=[str(name) for name in dataset_meta.get("classes", ())],
            dataset_meta=dict(dataset_meta),
            seed=self.seed,
            world_size=self.world_size,
            experiment_name=self.experiment_name,
            time=time.strftime("%Y%m%d_%H%M%S", time.localtime()),
            mmengine_version=mmengine.__version__,
        )
        checkpoint: dict[str, Any] = {"meta": meta, "state_dict": self.bare_model.state_dict()}
        checkpoint["message_hub"] = hub_to_plain(self.message_hub.state_dict(), self._left_out)
        if save_optimizer:
            if not isinstance(self.optim_wrapper, OptimWrapper):
                raise TypeError(f"optim_wrapper is {type(self.optim_wrapper).__name__}; expected an OptimWrapper")
            checkpoint["optimizer"] = self.optim_wrapper.state_dict()
        if save_param_scheduler and self.param_schedulers is not None:
            schedulers: Any = self.param_schedulers
            checkpoint["param_schedulers"] = (
                {name: [scheduler.state_dict() for scheduler in group] for name, group in schedulers.items()}
                if isinstance(schedulers, dict)
                else [scheduler.state_dict() for scheduler in schedulers]
            )
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        save_checkpoint(to_plain(checkpoint), Path(out_dir) / filename)

    def _left_out(self, place: str, value: Any) -> None:
        self.logger.debug(f"{place} ({type(value).__name__}) is no plain value; left out of the checkpoint")


def _is_news(record: logging.LogRecord) -> bool:
    """False for what mmengine says again after every epoch: the name of the run."""
    return not str(record.msg).startswith("Exp name: ")


def _without_run_keys(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.split("=")[0].strip() not in RUN_KEYS]
