"""A file as Vision-LSTM's authors released them, made of stored weights and names, gives the stored logits through timm."""

from __future__ import annotations

import json

import pytest
import timm
import torch

import visionrnn  # noqa: F401  (its models become timm's)


@pytest.mark.goldens("vil", "v[12]_cls_legacynorm.npz")
@pytest.mark.parametrize("source", ["url", "file", "checkpoint_path"])
def test_released_file(golden, goldens_folder, close, tmp_path, monkeypatch, source):
    maps = json.loads((goldens_folder / "vil" / "raw_tiny_key_maps.json").read_text())
    kwargs, name = golden.config["kwargs"], "vil_tiny_patch16_224" if "v1" in golden.config["cls"] else "vil2_tiny_patch16_224"
    weights, names = golden.group("sd/"), maps["v1_cls_legacynorm" if "v1" in golden.config["cls"] else "v2_cls_legacynorm"]
    path = tmp_path / "released.th"
    torch.save({"state_dict": {theirs: weights[official] for theirs, official in names.items()}, "ctor_kwargs": kwargs}, path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    overlay = dict(num_classes=7, **{source: path.as_uri() if source == "url" else str(path)})
    loading = dict(checkpoint_path=str(path)) if source == "checkpoint_path" else dict(pretrained=True, pretrained_cfg_overlay=overlay)
    depth = kwargs["depth"] * (1 if name.startswith("vil_") else 2)  # the second version's authors count pairs
    model = timm.create_model(name, dim=kwargs["dim"], depth=depth, patch_size=8, img_size=(48, 32), num_classes=7, **loading).eval()
    close(model(golden["x"]), golden["out"], 1e-5, "logits")
