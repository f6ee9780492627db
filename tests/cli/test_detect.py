"""The commands detect and visualize, from files to files."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("mmengine")
pytest.importorskip("matplotlib")
from detector_config import cloud, write_detector
from PIL import Image

from visionrnn.cli import main
from visionrnn.cli.frames import SUMMARY, result_names
from visionrnn.datasets.kitti import read_labels

CALIBRATION = """P2: 200 0 160 0 0 200 60 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return [str(path) for path in write_detector(tmp_path_factory.mktemp("detector"))]


@pytest.fixture
def kitti(tmp_path):
    """A folder in the KITTI layout with two frames."""
    base = tmp_path / "kitti" / "training"
    for name in ("velodyne", "calib", "image_2", "label_2"):
        (base / name).mkdir(parents=True)
    for number in range(2):
        name = f"{number:06d}"
        cloud(seed=number).tofile(base / "velodyne" / f"{name}.bin")
        (base / "calib" / f"{name}.txt").write_text(CALIBRATION)
        Image.fromarray(np.full((120, 320, 3), 90, np.uint8)).save(base / "image_2" / f"{name}.png")
        (base / "label_2" / f"{name}.txt").write_text(
            "Car 0 0 0 100 50 180 100 1.5 1.7 4 0 1.7 12 0\nDontCare -1 -1 -10 1 1 5 5 -1 -1 -1 -1000 -1000 -1000 -10\n"
        )
    return base


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def size(path):
    return Image.open(path).size


def test_detect_a_folder_of_the_kitti_layout(files, kitti, tmp_path, capsys):
    out = tmp_path / "found"
    before = {folder.name: content(folder) for folder in kitti.iterdir()}
    assert main(["detect", *files, str(kitti / "velodyne"), "--out-dir", str(out)]) == 0
    names = {f"{n:06d}{end}" for n in range(2) for end in (".json", ".txt", ".png", "_camera.png")}
    assert {path.name for path in out.iterdir()} == names | {SUMMARY}
    result = json.loads((out / "000001.json").read_text())
    assert result["file"].endswith("000001.bin") and result["latency_seconds"] > 0 and "LiDAR frame" in result["conventions"]
    assert result["boxes"] and set(result["boxes"][0]) == {"class", "score", "x", "y", "z", "l", "w", "h", "yaw"}
    labels = read_labels(out / "000001.txt")
    assert 0 < len(labels) <= len(result["boxes"]) and labels.score is not None
    assert size(out / "000001_camera.png")[0] == 320
    text = capsys.readouterr().out
    total = sum(len(json.loads((out / f"{n:06d}.json").read_text())["boxes"]) for n in range(2))
    summary = json.loads((out / SUMMARY).read_text())
    assert "2 of 2 clouds done" in text and "mean latency" in text and str(out) in text and "visionrnn.evaluation.kitti" in text
    assert sum(summary["boxes"].values()) == total and summary["failed"] == {}
    assert {folder.name: content(folder) for folder in kitti.iterdir()} == before


def test_detect_in_the_cameras_view_only(files, kitti, tmp_path):
    """The calibration beside the cloud is used as training uses it; --whole-cloud turns that off."""
    from visionrnn import Detector
    from visionrnn.datasets.kitti import read_calibration

    source = kitti / "velodyne" / "000000.bin"
    for name, options in (("view", []), ("whole", ["--whole-cloud"])):
        assert main(["detect", *files, str(source), "--out-dir", str(tmp_path / name), "--no-pictures", *options]) == 0
    detector = Detector(*files)
    view = detector(source, calibration=read_calibration(kitti / "calib" / "000000.txt"), image_shape=(120, 320))
    for name, expected in (("view", view), ("whole", detector(source))):
        boxes = json.loads((tmp_path / name / "000000.json").read_text())["boxes"]
        np.testing.assert_allclose([box["x"] for box in boxes], expected.boxes[:, 0], atol=1e-3)
    assert not (tmp_path / "view" / "000000.png").exists()


def test_bad_files_are_reported_and_the_rest_goes_on(files, tmp_path, capsys):
    clouds = tmp_path / "clouds"
    clouds.mkdir()
    np.save(clouds / "b.npy", cloud())
    (clouds / "a.bin").write_bytes(cloud().tobytes()[:-3])
    (clouds / "c.npy").write_text("no array")
    out = tmp_path / "found"
    assert main(["detect", *files, str(clouds), str(tmp_path / "absent.bin"), "--out-dir", str(out), "--no-pictures"]) == 1
    assert {path.name for path in out.iterdir()} == {"b.json", SUMMARY}
    captured = capsys.readouterr()
    assert "1 of 4 clouds done, 3 failed" in captured.out
    for text in ("a.bin: 47997 bytes is not a multiple of 16", "c.npy: not a readable .npy", "absent.bin: point cloud file not found"):
        assert text in captured.out and text in captured.err
    assert len(json.loads((out / SUMMARY).read_text())["failed"]) == 3


def test_a_failed_cloud_keeps_no_result_of_an_earlier_run(files, tmp_path):
    source, out = tmp_path / "a.bin", tmp_path / "found"
    cloud().tofile(source)
    assert main(["detect", *files, str(source), "--out-dir", str(out)]) == 0
    source.write_bytes(b"123")
    assert main(["detect", *files, str(source), "--out-dir", str(out)]) == 1
    assert {path.name for path in out.iterdir()} == {SUMMARY}


def test_files_of_the_user_are_not_overwritten(files, kitti, tmp_path, capsys):
    before = content(kitti / "calib")
    assert main(["detect", *files, str(kitti / "velodyne"), "--out-dir", str(kitti / "calib")]) == 2
    assert content(kitti / "calib") == before
    assert "000000.txt and 1 more: exists and was not written by this command" in capsys.readouterr().err
    out = tmp_path / "found"
    for _ in range(2):  # its own results may be replaced
        assert main(["detect", *files, str(kitti / "velodyne"), "--out-dir", str(out), "--no-pictures"]) == 0
    (out / "000000.png").write_bytes(b"mine")
    assert main(["detect", *files, str(kitti / "velodyne"), "--out-dir", str(out)]) == 2
    assert (out / "000000.png").read_bytes() == b"mine"


def test_detect_options(files, tmp_path, capsys):
    """Threshold, height and intensity of another sensor, columns, calibration and image given by hand; warnings are shown once."""
    clouds = tmp_path / "clouds"
    clouds.mkdir()
    other = (cloud() + np.float32([0, 0, 1.5, 0])) * np.float32([1, 1, 1, 255])
    for name in ("a", "b", "c"):
        np.column_stack([other, other[:, 0]]).astype(np.float32).tofile(clouds / f"{name}.bin")
    (tmp_path / "calib.txt").write_text(CALIBRATION)
    common = ["detect", *files, str(clouds), "--columns", "5", "--no-pictures", "--out-dir"]
    assert main([*common, str(tmp_path / "raw")]) == 0
    captured = capsys.readouterr().err
    assert captured.count("--z-offset -1.") == 1 and captured.count("--intensity-scale 0.0039") == 1
    mend = ["--z-offset", "-1.5", "--intensity-scale", str(1 / 255), "--calib", str(tmp_path / "calib.txt"), "--score-thr", "0.2"]
    assert main([*common, str(tmp_path / "mended"), *mend]) == 0
    assert "warning" not in capsys.readouterr().err
    assert (tmp_path / "mended" / "a.txt").exists()
    assert main([*common, str(tmp_path / "none"), "--score-thr", "0.99"]) == 0
    assert json.loads((tmp_path / "none" / "a.json").read_text())["boxes"] == []


def test_one_image_for_one_cloud(files, tmp_path, capsys):
    cloud().tofile(tmp_path / "cloud.bin")
    (tmp_path / "calib.txt").write_text(CALIBRATION)
    Image.fromarray(np.full((120, 320, 3), 90, np.uint8)).save(tmp_path / "photo.jpg")
    options = ["--calib", str(tmp_path / "calib.txt"), "--image", str(tmp_path / "photo.jpg"), "--out-dir", str(tmp_path / "found")]
    assert main(["detect", *files, str(tmp_path / "cloud.bin"), *options]) == 0
    assert size(tmp_path / "found" / "cloud_camera.png")[0] == 320
    command = ["detect", *files, str(tmp_path / "cloud.bin"), "--out-dir", str(tmp_path / "x")]
    assert main([*command, "--calib", str(tmp_path / "none.txt")]) == 2
    assert "none.txt: no such calibration" in capsys.readouterr().err
    assert main([*command, "--image", str(tmp_path / "photo.jpg")]) == 2
    assert "no calibration for this image" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_detect_says_what_is_wrong(files, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    cloud().tofile(tmp_path / "a.bin")
    for arguments, message in (
        ([*files, str(tmp_path / "empty")], "no point clouds in this folder"),
        ([files[0], str(tmp_path / "none.pth"), str(tmp_path / "a.bin")], "there is no such checkpoint file"),
        ([*files, str(tmp_path / "a.bin"), "--device", "gpu"], "device 'gpu' is unknown"),
        ([*files, str(tmp_path / "a.bin"), "--cfg-options", "model.typ=1"], "model.typ"),
    ):
        assert main(["detect", *arguments, "--out-dir", str(tmp_path / "found")]) == 2
        assert message in capsys.readouterr().err


def test_names_of_results_are_distinct(tmp_path):
    paths = [tmp_path / part for part in ("one/a.bin", "two/a.bin", "two/b.pcd.bin", "two/a.npy")]
    assert result_names(paths) == ["one_a", "1_two_a", "b", "3_two_a"]


def test_visualize_a_frame_of_the_kitti_layout(kitti, tmp_path, capsys):
    out = tmp_path / "pictures"
    assert main(["visualize", "--root", str(kitti.parent), "--frame", "000001", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"000001.png", "000001_camera.png"}
    assert size(out / "000001_camera.png")[0] == 320
    assert capsys.readouterr().out.split() == [str(out / "000001.png"), str(out / "000001_camera.png")]
    assert main(["visualize", "--root", str(kitti.parent), "--frame", "000009", "--out", str(out)]) == 2
    assert "000009.bin: point cloud not found" in capsys.readouterr().err


def test_visualize_detections_in_both_forms(files, kitti, tmp_path):
    cloud_file, found = str(kitti / "velodyne" / "000000.bin"), tmp_path / "found"
    main(["detect", *files, cloud_file, "--out-dir", str(found), "--no-pictures"])
    pictures = []
    for boxes in (found / "000000.json", found / "000000.txt", None):
        out = tmp_path / f"{boxes.suffix[1:] if boxes else 'none'}.png"
        assert main(["visualize", cloud_file, "--out", str(out), *(["--boxes", str(boxes)] if boxes else [])]) == 0
        assert out.with_name(f"{out.stem}_camera.png").is_file()
        pictures.append(np.asarray(Image.open(out.with_name(f"{out.stem}_camera.png")).convert("RGB")).astype(int))
    inside = [(picture[:120] != 90).any(axis=2) for picture in pictures]
    assert inside[0].sum() > 500 and not inside[2].any()
    assert (inside[0] != inside[1]).mean() < 0.05  # two decimals in the text move a line by a pixel at most


def test_visualize_protects_inputs_and_says_what_is_missing(kitti, tmp_path, capsys):
    lonely = tmp_path / "cloud.bin"
    cloud().tofile(lonely)
    image = kitti / "image_2" / "000000.png"
    before = image.read_bytes()
    source = str(kitti / "velodyne" / "000000.bin")
    for arguments, message in (
        ([source, "--out", str(image)], "is one of the inputs"),
        ([source, "--out", str(image.parent)], "is one of the inputs"),
        ([str(lonely), "--labels", str(kitti / "label_2" / "000000.txt"), "--out", str(tmp_path)], "give --calib FILE"),
        ([str(lonely), "--image", str(image), "--out", str(tmp_path)], "give --calib"),
        ([str(lonely), "--boxes", str(tmp_path / "none.json"), "--out", str(tmp_path)], "detections file not found"),
        (["--out", str(tmp_path)], "expected a point cloud, or --root"),
        (["--root", str(kitti.parent), "--out", str(tmp_path)], "needs --frame"),
        ([str(lonely), "--out", str(tmp_path / "a.jpg")], "expected a .png or a folder"),
    ):
        assert main(["visualize", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert image.read_bytes() == before


def test_visualize_needs_no_mmdet3d(kitti, tmp_path):
    import subprocess

    code = (
        "import sys; from visionrnn.cli import main; "
        f"assert main(['visualize', '--root', {str(kitti.parent)!r}, '--frame', '000000', '--out', {str(tmp_path / 'out')!r}]) == 0; "
        "sys.exit(any(name.partition('.')[0] in ('mmdet3d', 'mmcv', 'mmengine', 'open3d') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
