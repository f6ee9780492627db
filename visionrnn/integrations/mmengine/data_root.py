"""Moves a config to data in another folder.

A config file's variable ``data_root`` is copied into every data set, pipeline and evaluator when the file is read; setting it afterwards
changes none of them. Configs write all paths below it: ``data_root=data_root, ann_file="kitti_infos_train.pkl"``.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, MutableSequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from visionrnn.errors import DataError


def set_data_root(cfg: Config | MutableMapping[str, Any], directory: str | Path, old: str | None = None) -> None:
    """Replaces the folder ``old`` by ``directory`` everywhere in ``cfg``, in place: data sets, pipelines, evaluators, ``cfg.data_root``.

    A value is changed when it is ``old`` or a path below it. ``old`` is by default the folder of the first data loader with a data set in
    the order train, val, test. Raises DataError when the config has none.
    """
    content = cfg._cfg_dict if isinstance(cfg, Config) else cfg
    new = str(directory).rstrip("/") or "/"
    if old is None:
        old = next(_dataset_roots(content), None)
        if old is None:
            raise DataError("config: no data loader has a data set with data_root; expected one in train_dataloader.dataset.data_root")
    content["data_root"] = new
    _replace(content, old.rstrip("/"), new)


def _dataset_roots(cfg: MutableMapping[str, Any]) -> Iterator[str]:
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        dataset = (cfg.get(loader) or {}).get("dataset")
        while isinstance(dataset, MutableMapping):
            if isinstance(dataset.get("data_root"), str):
                yield dataset["data_root"]
                break
            inner = dataset.get("dataset") or dataset.get("datasets")
            dataset = inner[0] if isinstance(inner, MutableSequence) and inner else inner


def _replace(node: Any, old: str, new: str) -> None:
    if isinstance(node, MutableMapping):
        items: Iterator[tuple[Any, Any]] = iter(list(node.items()))
    elif isinstance(node, (MutableSequence, tuple)):
        items = iter(list(enumerate(node)))
    else:
        return
    for key, value in items:
        if isinstance(value, str) and not isinstance(node, tuple):
            if value.rstrip("/") == old:
                node[key] = new
            elif value.startswith(old + "/"):
                node[key] = f"{new.rstrip('/')}/{value[len(old) + 1 :].lstrip('/')}"
        else:
            _replace(value, old, new)
