"""The model zoo page names every published pair of data set and operator, links files that exist, and promises no other weights."""

import re
from pathlib import Path

import timm
import torch

from visionrnn.integrations.timm import default_cfgs

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "model_zoo.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| \[.*?\]\(\.\./configs/lion/(\S+)\.py\) \|(.*)\|$", PAGE, re.MULTILINE)
PUBLISHED = {
    "lion-mamba_8xb2-36e_nuscenes-3d-10class",
    "lion-retnet_8xb2-36e_nuscenes-3d-10class",
    "lion-mamba_8xb2-12e_argoverse2-3d-26class",
    "lion-rwkv_8xb2-12e_argoverse2-3d-26class",
    "lion-retnet_8xb2-12e_argoverse2-3d-26class",
}


def test_every_config_of_the_authors_has_a_row():
    configs = {path.stem for path in (ROOT / "configs" / "lion").glob("lion-*_8xb*.py")}
    assert sorted(name for name, _ in ROWS) == sorted(configs) and len(ROWS) == 19


def test_weights_are_promised_where_they_exist_only():
    assert {name for name, cells in ROWS if cells.split("|")[-1].strip() == "published"} == PUBLISHED
    for name, _ in ROWS:
        text = (ROOT / "configs" / "lion" / f"{name}.py").read_text(encoding="utf-8")
        if "Weights are" in text:
            assert ("Weights are published" in text) == (name in PUBLISHED), name


def test_scores_are_those_of_the_configs():
    for name, cells in ROWS:
        text = (ROOT / "configs" / "lion" / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
        for number in re.findall(r"\d\d\.\d(?= |/|$)", cells.partition("M |")[2]):
            assert number in text, f"{name}: {number}"


def test_links_exist():
    for link in re.findall(r"\]\((\.\./[^)#]+)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


def test_image_classifiers():
    """Every released tag has a row with the right number of parameters; models without weights have none that promises any."""
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if re.match(r"\| `(vil|\w+_sequencer2d)", line)
    ]
    for name, *cells in rows:
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
        assert f"{parameters / 1e6:.1f} M" in cells, name
    listed = {f"{name}.{tag}" for name, tag, *_ in rows if tag.endswith("in1k")} | {
        f"{row[0]}.in1k" for row in rows if row[0].startswith("lstm")
    }
    released = {f"{name}.{tag}" for name, default in default_cfgs.items() for tag, cfg in default.cfgs.items() if cfg.url or cfg.hf_hub_id}
    assert listed == {name.rstrip(".") for name in released}
    assert all(row[4] == "–" for row in rows if row[0].startswith(("gru", "rnn")))
