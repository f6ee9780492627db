"""Scoring folders: the table, the JSON, and each error's text."""

import json

import pytest

from visionrnn.evaluation.kitti_command import main

CAR = "Car 0.00 0 0.00 100.00 100.00 200.00 160.00 1.50 1.60 4.00 0.00 1.60 20.00 0.00"


@pytest.fixture
def folders(tmp_path):
    labels, detections = tmp_path / "label_2", tmp_path / "det"
    labels.mkdir()
    detections.mkdir()
    for number in range(50):
        (labels / f"{number:06d}.txt").write_text(CAR + "\n")
        (detections / f"{number:06d}.txt").write_text(f"{CAR} {1 - number / 100:.2f}\n")
    return labels, detections


def run(folders, *options):
    return main([*map(str, folders), *map(str, options)])


def test_table_and_json(folders, tmp_path, capsys):
    assert run(folders, "--json", tmp_path / "scores.json") == 0
    output = capsys.readouterr().out
    assert output.startswith("50 frames")
    assert ["3d", "AP", *["100.00"] * 6] in [line.split() for line in output.splitlines()]
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores) == ["car", "pedestrian", "cyclist"]
    assert scores["car"]["3d_AP"] == pytest.approx([100] * 3)
    assert {"image_AP", "image_AOS", "bev_AP", "3d_AP", "3d_AP_R11", "distance"} <= scores["cyclist"].keys()
    assert run(folders, "--json", "-", "--classes", "car") == 0
    assert list(json.loads(capsys.readouterr().out)) == ["car"]


def test_frames_are_those_of_the_detections_unless_listed(folders, tmp_path, capsys):
    labels, detections = folders
    for number in range(40, 50):
        (detections / f"{number:06d}.txt").unlink()
    assert run(folders) == 0
    printed = capsys.readouterr()
    assert "40 frames" in printed.out
    assert "10 labelled frames have no detection file and are not scored" in printed.err
    split = tmp_path / "val.txt"
    split.write_text("\n".join(path.stem for path in labels.glob("*.txt")))
    assert run(folders, "--frames", split, "--json", "-") == 0
    printed = capsys.readouterr()
    assert "10 of the frames have no detection file" in printed.err
    assert json.loads(printed.out)["car"]["objects"] == [50] * 3


def test_official_result_layout_and_empty_files(folders, capsys):
    _, detections = folders
    (detections / "data").mkdir()
    for path in list(detections.glob("*.txt")):
        path.rename(detections / "data" / path.name)
    (detections / "data" / "000003.txt").write_text("")
    assert run(folders) == 0
    assert "50 frames" in capsys.readouterr().out


def test_detections_in_the_image_only(folders, capsys):
    for number, path in enumerate(sorted(folders[1].glob("*.txt"))):
        path.write_text(f"Car -1 -1 -10 100 100 200 160 -1 -1 -1 -1000 -1000 -1000 -10 {1 - number / 100:.2f}\n")
    assert run(folders, "--json", "-") == 0
    scores = json.loads(capsys.readouterr().out)["car"]
    assert scores["image_AP"] == pytest.approx([100] * 3)
    assert scores["3d_AP"] == [0] * 3
    assert "image_AOS" not in scores
    (folders[0] / "000000.txt").write_text(CAR.replace("1.50 1.60 4.00", "-1 -1 -1") + "\n")  # an object to be found has a size
    assert run(folders) == 2
    assert "000000.txt, line 1: size h w l -1 -1 -1 is negative" in capsys.readouterr().err


def test_errors(folders, tmp_path, capsys):
    labels, detections = folders

    def message(*arguments):
        assert main(list(map(str, arguments))) == 2
        return capsys.readouterr().err

    assert f"error: {tmp_path / 'nowhere'}: no such folder" in message(tmp_path / "nowhere", detections)
    (tmp_path / "empty").mkdir()
    assert "no frame in common" in message(labels, tmp_path / "empty")
    assert "no such file" in message(labels, detections, "--frames", tmp_path / "val.txt")
    assert "cannot be written" in message(labels, detections, "--json", tmp_path / "absent" / "scores.json")
    (detections / "000099.txt").write_text("")
    assert "no label file for 1 frames with detections, e.g. 000099.txt" in message(labels, detections)
    (detections / "000099.txt").unlink()
    (detections / "000002.txt").write_text(CAR + "\n")
    assert "000002.txt, line 1: 15 columns, expected 16" in message(labels, detections)
    (labels / "000001.txt").write_text(f"{CAR}\nCar 0 0\n")
    assert "000001.txt, line 2: 3 columns, expected 15" in message(labels, detections)
