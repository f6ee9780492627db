"""mmengine's CheckpointHook, changed so that at no moment a killed run is left without its last and its best checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from visionrnn.integrations.mmengine.files import remove_leftovers, write_last


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """Takes CheckpointHook's options. The new checkpoint is written whole, then ``last_checkpoint`` names it, then old files go.

    Writing itself is ``SafeRunner.save_checkpoint``'s: plain values, temporary file, sync, rename.
    """

    def before_train(self, runner: Any) -> None:
        with runner.quiet(logging.ERROR):  # mmengine warns of its own file client's deprecation
            super().before_train(runner)
        if is_main_process():
            remove_leftovers(self.out_dir)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            if not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step:
                if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                    outdated.append(self.keep_ckpt_ids.popleft())
                self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = str(Path(self.out_dir) / name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
        )
        if is_main_process():
            write_last(runner.work_dir, self.last_ckpt)
            for old in outdated:
                (Path(self.out_dir) / self.filename_tmpl.format(old)).unlink(missing_ok=True)

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        if not self.save_best:
            return
        before = self._best_paths()
        self._set_best_paths(dict.fromkeys(before))  # mmengine deletes the former best before it writes the new one
        super()._save_best_checkpoint(runner, metrics)
        after = {key: path or before.get(key) for key, path in self._best_paths().items()}
        self._set_best_paths(after)
        for key, path in before.items():
            if path and path != after.get(key) and is_main_process():
                Path(path).unlink(missing_ok=True)

    def _best_paths(self) -> dict[str, str | None]:
        if hasattr(self, "best_ckpt_path_dict"):
            return dict(self.best_ckpt_path_dict)
        return {"": self.best_ckpt_path}

    def _set_best_paths(self, paths: dict[str, str | None]) -> None:
        if hasattr(self, "best_ckpt_path_dict"):
            self.best_ckpt_path_dict = paths
        else:
            self.best_ckpt_path = paths[""]
