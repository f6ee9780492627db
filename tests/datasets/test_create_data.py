"""`visionrnn create-data`: both kinds, its closing message, and every problem on a line of its own."""

from kitti_files import write_kitti

from visionrnn.cli import main


def test_kitti(tmp_path, capsys):
    root = write_kitti(tmp_path, train=1, val=1)
    assert main(["create-data", "kitti", "--root", str(root), "--workers", "1", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "frames:   train 1, val 1, trainval 2" in out and f"--cfg-options data_root={root}" in out and not err
    assert (root / "kitti_infos_train.pkl").exists()


def test_problems_are_listed(tmp_path, capsys):
    root = write_kitti(tmp_path, train=1, val=1)
    (root / "training/calib/000000.txt").unlink()
    (root / "training/label_2/000001.txt").write_text("Car\n")
    assert main(["create-data", "kitti", "--root", str(root), "--quiet"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: {root}: 2 problem(s) found, nothing was prepared:" and len(lines) == 3


def test_synthetic(tmp_path):
    root = tmp_path / "made"
    assert main(["create-data", "synthetic", "--out", str(root), "--train", "1", "--val", "1", "--workers", "1", "--quiet"]) == 0
    assert (root / "kitti_infos_val.pkl").exists() and (root / "training/velodyne_reduced/000000.bin").stat().st_size > 0
