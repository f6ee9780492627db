"""Published weights of image classifiers ↔ ours, as files: what is written, what is refused, that timm loads the result."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict

import pytest
import timm
import torch

from visionrnn import cli
from visionrnn.checkpoints import as_official
from visionrnn.cli.convert_checkpoint import model_kwargs
from visionrnn.errors import CheckpointError, DataError
from visionrnn.integrations.timm_conversion import build_without_memory, convert_classifier

SMALL = dict(img_size=32, num_classes=5, dim=32, depth=4)
SEQUENCER = dict(
    img_size=28, num_classes=5, layers=(1, 2), patch_sizes=(7, 2), embed_dims=(16, 24), hidden_sizes=(4, 6), mlp_ratios=(3.0, 3.0)
)
MODELS = {
    "vil": ("vil_tiny_patch16_224", SMALL),
    "vil2": ("vil2_tiny_patch16_224", SMALL),
    "sequencer": ("lstm_sequencer2d_s", SEQUENCER),
}


def family_of(case: str) -> str:
    return case.removesuffix("2")


def drawn(case: str) -> OrderedDict[str, torch.Tensor]:
    """Random weights with published names."""
    name, kwargs = MODELS[case]
    shapes = as_official(build_without_memory(name, kwargs).state_dict(), family_of(case))
    generator = torch.Generator().manual_seed(0)
    return OrderedDict((key, torch.randn(value.shape, generator=generator) * 0.1) for key, value in shapes.items())


def texts(kwargs: dict) -> list[str]:
    return [f"{name}={value!r}" for name, value in kwargs.items()]


@pytest.mark.parametrize("case", MODELS)
def test_there_and_back(case, tmp_path, capsys):
    name, kwargs = MODELS[case]
    before = drawn(case)
    published, ours, back = tmp_path / "published.th", tmp_path / "ours.safetensors", tmp_path / "back.pth"
    torch.save({"state_dict": before, "epoch": 3}, published)
    options = ["--model", name, "--model-kwargs", *texts(kwargs)]
    assert cli.main(["convert-checkpoint", family_of(case), str(published), str(ours), *options]) == 0
    said = capsys.readouterr().out
    assert "all with a place" in said and f'timm.create_model("{name}", checkpoint_path=' in said
    model = timm.create_model(name, checkpoint_path=str(ours), **kwargs).eval()
    generator = torch.Generator().manual_seed(1)
    scores = model(torch.randn(2, 3, kwargs["img_size"], kwargs["img_size"], generator=generator))
    assert scores.shape == (2, 5) and scores.isfinite().all() and scores.std() > 0
    training = tmp_path / "epoch_3.pth"
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in model.state_dict().items()}, "meta": {"epoch": 3}}, training)
    for file in (ours, training):
        back_again = ["convert-checkpoint", family_of(case), str(file), str(back), *options, "--to", "official", "--force"]
        assert cli.main(back_again) == 0
        after = torch.load(back, weights_only=True)["state_dict"]
        assert after.keys() == before.keys() and all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("case", MODELS)
def test_what_lacks_exceeds_or_differs_is_refused(case, tmp_path):
    name, kwargs = MODELS[case]
    whole = drawn(case)
    source, target = tmp_path / "published.pth", tmp_path / "ours.pth"
    first = next(key for key, value in whole.items() if value.ndim > 1)
    for state, message in (
        ({key: value for key, value in whole.items() if key != first}, "missing from the file"),
        ({**whole, "teacher.weight": torch.zeros(2)}, "1 not in the model: teacher.weight"),
        ({**whole, first: torch.zeros(3, 3)}, "of another shape"),
    ):
        torch.save({"state_dict": state}, source)
        with pytest.raises(CheckpointError, match=message):
            convert_classifier(source, target, name, family_of(case), model_kwargs=kwargs)
    torch.save({"state_dict": whole}, source)
    with pytest.raises(DataError, match="is the file to convert"):
        convert_classifier(source, source, name, family_of(case), model_kwargs=kwargs, overwrite=True)
    with pytest.raises(CheckpointError, match="has published names; leave out --to official"):
        convert_classifier(source, target, name, family_of(case), to_official=True, model_kwargs=kwargs)
    assert [path.name for path in tmp_path.iterdir()] == ["published.pth"]
    convert_classifier(source, target, name, family_of(case), model_kwargs=kwargs)
    with pytest.raises(DataError, match="exists already"):
        convert_classifier(source, target, name, family_of(case), model_kwargs=kwargs)
    with pytest.raises(CheckpointError, match=f"has the names of {name}; --to official is the way back"):
        convert_classifier(target, tmp_path / "again.pth", name, family_of(case), model_kwargs=kwargs)


def test_the_wrong_model_names_the_right_one(tmp_path):
    shapes = as_official(build_without_memory("lstm_sequencer2d_m").state_dict(), "sequencer")
    torch.save({name: torch.zeros(value.shape) for name, value in shapes.items()}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"keys fit; .*\. The file fits --model lstm_sequencer2d_m$"):
        convert_classifier(tmp_path / "m.pth", tmp_path / "ours.pth", "lstm_sequencer2d_s", "sequencer")


def test_masks_of_older_training_code_are_left_out(tmp_path, capsys):
    name, kwargs = MODELS["vil"]
    torch.save(
        {"state_dict": {**drawn("vil"), "blocks.0.layer.mlstm_cell.causal_mask": torch.ones(4, 4).tril().bool()}}, tmp_path / "old.th"
    )
    options = ["--model", name, "--model-kwargs", *texts(kwargs)]
    assert cli.main(["convert-checkpoint", "vil", str(tmp_path / "old.th"), str(tmp_path / "ours.pth"), *options]) == 0
    assert "left out: blocks.0.layer.mlstm_cell.causal_mask" in capsys.readouterr().out


def test_nothing_stored_in_a_file_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    name, kwargs = MODELS["sequencer"]
    torch.save({"state_dict": drawn("sequencer"), "args": Trap()}, tmp_path / "trap.pth")
    convert_classifier(tmp_path / "trap.pth", tmp_path / "ours.pth", name, "sequencer", model_kwargs=kwargs)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["vil", "a", "b.pth"], "expected --model"),
        (["lion", "a", "b.pth"], "expected --config"),
        (["lion", "a", "b.pth", "--config", "x", "--model", "y"], "--model: not for lion"),
        (["sequencer", "a", "b.pth", "--model", "y", "--step", "3"], "--step: not for sequencer"),
        (["vil", "a", "b.pth", "--model", "resnet9000"], "timm knows no such model"),
        (["vil", "a", "b.pth", "--model", "vil_tiny_patch16_224", "--model-kwargs", "dim"], "expected key=value"),
        (["vil", "a", "b.pth", "--model", "vil_tiny_patch16_224", "--model-kwargs", "dims=3"], "cannot be built with"),
    ],
)
def test_wrong_calls(options, message, capsys):
    assert cli.main(["convert-checkpoint", *options]) == 2
    assert message in capsys.readouterr().err


def test_arguments_of_a_model():
    assert model_kwargs(["depth=4", "img_size=(64, 32)", "traversal=hilbert"]) == {"depth": 4, "img_size": (64, 32), "traversal": "hilbert"}


def test_classifiers_need_no_mmdet3d():
    code = "import sys, visionrnn.integrations.timm_conversion; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"mmdet3d", "mmengine", "mmcv"} & set(loaded)
