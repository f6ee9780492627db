"""Files under published names, made of the stored cases: converted, loaded by timm, they give the stored scores."""

from __future__ import annotations

import json

import pytest
import timm
import torch

from visionrnn import cli
from visionrnn.integrations.timm_conversion import convert_classifier


def model_arguments(golden) -> dict:
    """Arguments of our entries for a stored model."""
    kwargs = golden.config["kwargs"]
    if "Sequencer" in golden.config["cls"]:
        return {**kwargs, "img_size": tuple(golden["x"].shape[2:])}
    pairs = 2 if "v2" in golden.config["cls"] else 1
    size, classes = tuple(kwargs["input_shape"][1:]), kwargs["output_shape"][0]
    return dict(dim=kwargs["dim"], depth=pairs * kwargs["depth"], img_size=size, patch_size=kwargs["patch_size"], num_classes=classes)


def check(golden, name: str, file, close) -> None:
    model = timm.create_model(name, checkpoint_path=str(file), **model_arguments(golden)).eval()
    with torch.no_grad():
        close(model(golden["x"]), golden["out"], 1e-4, "scores")


@pytest.mark.goldens("vil", "v?_cls_legacynorm.npz")
def test_vision_lstm(golden, goldens_folder, close, tmp_path):
    released = json.loads((goldens_folder / "vil" / "raw_tiny_key_maps.json").read_text())
    names = released["v2_cls_legacynorm" if "v2" in golden.config["cls"] else "v1_cls_legacynorm"]
    package = golden.group("sd/")
    name = "vil2_tiny_patch16_224" if "v2" in golden.config["cls"] else "vil_tiny_patch16_224"
    for case, state in (("released", {raw: package[key] for raw, key in names.items()}), ("package", package)):
        torch.save({"state_dict": state}, tmp_path / f"{case}.th")
        convert_classifier(tmp_path / f"{case}.th", tmp_path / f"{case}.pth", name, "vil", model_kwargs=model_arguments(golden))
        check(golden, name, tmp_path / f"{case}.pth", close)
    options = ["--model", name, "--model-kwargs", *(f"{key}={value!r}" for key, value in model_arguments(golden).items())]
    back = ["convert-checkpoint", "vil_package", str(tmp_path / "package.pth"), str(tmp_path / "back.pth"), *options, "--to", "official"]
    assert cli.main(back) == 0
    again = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert again.keys() == package.keys() and all(torch.equal(again[key], value) for key, value in package.items())


@pytest.mark.goldens("sequencer", "tiny_cat.npz")
def test_sequencer(golden, close, tmp_path):
    state = {golden.config["original_keys"][key]: value for key, value in golden.group("sd/").items()}
    torch.save({"state_dict": state}, tmp_path / "original.pth")
    arguments = model_arguments(golden)
    convert_classifier(tmp_path / "original.pth", tmp_path / "ours.pth", "lstm_sequencer2d_s", "sequencer", model_kwargs=arguments)
    check(golden, "lstm_sequencer2d_s", tmp_path / "ours.pth", close)


@pytest.mark.parametrize("model", ["vil-tiny", "vil-tinyplus", "vil2-tiny", "sequencer2d_s"])
def test_every_tensor_of_a_released_model_has_a_place(model, goldens_folder, tmp_path):
    """All sizes' names are compared without memory elsewhere; here files as large as the smallest released ones are converted."""
    family = "sequencer" if "sequencer" in model else "vil"
    stored = goldens_folder / family / f"keys_{model}.json"
    if not stored.is_file():
        pytest.skip(f"no stored key lists in {goldens_folder}")
    content = json.loads(stored.read_text())
    shapes = content["original_repo" if family == "sequencer" else "raw_checkpoint"]
    torch.save({"state_dict": {key: torch.zeros(shape) for key, shape in shapes.items()}}, tmp_path / "released.pth")
    name = f"lstm_{model}" if family == "sequencer" else f"{model.replace('-', '_')}_patch16_224"
    done = convert_classifier(tmp_path / "released.pth", tmp_path / "ours.safetensors", name, family)
    counted = json.loads((goldens_folder / family / "models.json").read_text())
    assert f"{done.parameters}" in json.dumps(counted) and not done.left_out
