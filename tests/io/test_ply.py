"""Point clouds: round trip, files of other programs, damaged files."""

import numpy as np
import pytest

from skyfall_ns.errors import SceneError
from skyfall_ns.io.ply import PlyPoints, read_ply, write_ply


def random_points(n=50):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (n, 3), np.uint8)
    return PlyPoints(rng.normal(size=(n, 3)) * 100, rng.normal(size=(n, 3)), rgb, rng.random(n))


@pytest.mark.parametrize("n", [0, 50])
def test_round_trip(tmp_path, n):
    write_ply(tmp_path / "a.ply", random_points(n))
    again = read_ply(tmp_path / "a.ply")
    np.testing.assert_allclose(again.xyz_m, random_points(n).xyz_m, atol=1e-4)
    np.testing.assert_array_equal(again.rgb, random_points(n).rgb)
    np.testing.assert_allclose(again.confidence, random_points(n).confidence, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


def test_another_program_reads_the_same(tmp_path):
    plyfile = pytest.importorskip("plyfile", reason="plyfile is not installed")
    write_ply(tmp_path / "a.ply", random_points())
    vertices = plyfile.PlyData.read(tmp_path / "a.ply")["vertex"]
    names = ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue", "confidence"]
    assert [p.name for p in vertices.properties] == names
    np.testing.assert_array_equal(vertices["green"], random_points().rgb[:, 1])
    np.testing.assert_allclose(vertices["ny"], random_points().normals[:, 1], rtol=1e-6)


def test_files_of_other_programs_need_only_positions_and_colors(tmp_path):
    rows = np.zeros(2, [("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("red", "u1"), ("green", "u1"), ("blue", "u1")])
    rows["x"] = [1, 2]
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 2\nproperty double x\nproperty double y\n"
    header += "property double z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    (tmp_path / "a.ply").write_bytes(header.encode() + rows.tobytes())
    read = read_ply(tmp_path / "a.ply")
    np.testing.assert_array_equal(read.xyz_m[:, 0], [1, 2])
    np.testing.assert_array_equal(read.confidence, [1, 1])


@pytest.mark.parametrize("damage", ["cut", "text", "endless header", "nan", "missing", "a count without end"])
def test_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "a.ply"
    points = random_points()
    if damage == "nan":
        points.xyz_m[0, 0] = np.nan
    write_ply(path, points)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "a count without end":
        path.write_bytes(path.read_bytes().replace(b"vertex 50", b"vertex 5" + b"0" * 18))
    elif damage == "text":
        path.write_text("hello\nend_header\n")
    elif damage == "endless header":
        path.write_bytes(b"ply\n" * 1000)
    elif damage == "missing":
        path.unlink()
    with pytest.raises(SceneError, match=r"a.ply cannot be read as a point cloud \(.+\)\. Run"):
        read_ply(path)
