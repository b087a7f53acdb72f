"""RPCs: GDAL is the reference for projection and for every source; crops, scales and offsets are exact."""

import shutil

import numpy as np
import pytest
import rasterio
from rasterio.transform import RPCTransformer

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.raster import write_raster
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.rpc_readers import read_rpc


def make_rpc(lon=36.9, seed=0) -> RPC:
    """A plausible RPC with all 78 coefficients in use."""
    rng = np.random.default_rng(seed)

    def small_coefficients():
        return rng.normal(0, 1e-4, 20)

    line, samp, one, two = small_coefficients(), small_coefficients(), small_coefficients(), small_coefficients()
    line[[1, 2, 3]], samp[[1, 2, 3]] = (0.1, -1.0, 0.02), (1.0, 0.08, -0.03)
    one[0] = two[0] = 1.0
    return RPC(
        5000.0, 6000.0, 37.5, lon, 700.0, 5000.0, 6000.0, 0.1, 0.12, 500.0,
        tuple(line), tuple(one), tuple(samp), tuple(two),
    )  # fmt: skip


def sample_points(rpc: RPC, n=500, seed=1):
    u = np.random.default_rng(seed).uniform(-0.9, 0.9, (n, 3))
    offsets = np.array([rpc.long_off, rpc.lat_off, rpc.height_off])
    return offsets + u * [rpc.long_scale, rpc.lat_scale, rpc.height_scale]


def project_with_gdal(rpc: RPC, lonlath):
    with RPCTransformer(rpc.to_rasterio()) as transformer:
        rows, cols = transformer.rowcol(*lonlath.T[:2], zs=lonlath[:, 2], op=lambda v: v)
    return np.stack([cols, rows], -1) - 0.5  # GDAL's pixels start at the corner of the first one


def test_projection_equals_that_of_gdal():
    rpc = make_rpc()
    assert np.abs(rpc.project(sample_points(rpc)) - project_with_gdal(rpc, sample_points(rpc))).max() < 1e-6


def test_projection_equals_that_of_gdal_on_real_files(kahramanmaras):
    for path in kahramanmaras:
        rpc = read_rpc(path)
        lonlath = sample_points(rpc)
        assert np.abs(rpc.project(lonlath) - project_with_gdal(rpc, lonlath)).max() < 1e-6


@pytest.mark.parametrize("lon", [36.9, 179.98, -179.99])
def test_localization_inverts_projection(lon):
    rpc = make_rpc(lon)
    colrow = np.random.default_rng(2).uniform(500, 10000, (300, 2))
    height = np.random.default_rng(3).uniform(300, 1100, 300)
    lonlath = rpc.localize(colrow, height)
    assert np.abs(rpc.project(lonlath) - colrow).max() < 1e-6
    assert (np.abs(lonlath[:, 0]) <= 180).all()
    np.testing.assert_array_equal(lonlath[:, 2], height)


def test_localization_broadcasts_one_height_and_keeps_shapes():
    rpc = make_rpc()
    assert rpc.localize(np.full((4, 5, 2), 5000.0), 700.0).shape == (4, 5, 3)


def test_localization_without_a_solution_is_an_error():
    with pytest.raises(RasterError, match=r"no point on the ground.*\. Check"):
        make_rpc().localize(np.array([[1e9, -1e9]]), 700.0)


def test_crop_offset_and_scale_are_exact():
    rpc, lonlath = make_rpc(), sample_points(make_rpc())
    base = rpc.project(lonlath)
    assert np.abs(rpc.for_crop(123.0, 45.0).project(lonlath) - (base - np.array([123, 45]))).max() < 1e-9
    assert np.abs(rpc.with_offset(1.5, -2.25).project(lonlath) - (base + np.array([1.5, -2.25]))).max() < 1e-9
    half = rpc.for_scale(0.5).project(lonlath)
    assert np.abs(half - ((base + 0.5) * 0.5 - 0.5)).max() < 1e-9


def test_every_source_gives_the_same_rpc(tmp_path):
    rpc = make_rpc()
    pixels = np.arange(64, dtype=np.uint16).reshape(1, 8, 8)
    write_raster(tmp_path / "tag.tif", pixels, rpc=rpc)
    write_raster(tmp_path / "beside.tif", pixels)
    rpc.write_rpb(tmp_path / "beside.RPB")
    for name in ("tag", "beside"):
        read_back = read_rpc(tmp_path / f"{name}.tif")
        assert np.abs(read_back.project(sample_points(rpc)) - rpc.project(sample_points(rpc))).max() < 1e-9, name
    assert [p.name for p in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("file", ["RPC_PHR1B_P_201709281038045_SEN_PRG_FC_178608-001.XML", "wv3_20.NTF"])
def test_vendor_metadata_beside_or_in_the_image(real_data, tmp_path, file):
    source = real_data / "rpc_only" / file
    if file.endswith("NTF"):
        image = source
    else:  # GDAL looks for RPC_<rest>.XML beside IMG_<rest>.TIF
        image = tmp_path / file.replace("RPC_", "IMG_").replace(".XML", "_R1C1.TIF")
        write_raster(image, np.zeros((1, 8, 8), np.uint16))
        shutil.copy(source, tmp_path / file)
    rpc = read_rpc(image)
    with rasterio.open(image) as opened:
        assert rpc.line_off == opened.rpcs.line_off
    assert np.abs(rpc.project(sample_points(rpc)) - project_with_gdal(rpc, sample_points(rpc))).max() < 1e-5


def test_unusable_files_are_named_in_the_error(tmp_path):
    text = tmp_path / "no_image.tif"
    text.write_text("hello")
    plain, ortho = tmp_path / "plain.tif", tmp_path / "ortho.tif"
    write_raster(plain, np.zeros((1, 8, 8), np.uint8))
    write_raster(
        ortho, np.zeros((1, 8, 8), np.uint8), crs="EPSG:32637", transform=rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 4e6)
    )
    for path, message in (
        (text, "is not an image"),
        (plain, "has no RPC"),
        (ortho, "is an orthoimage"),
        (tmp_path / "absent.tif", "does not exist"),
    ):
        with pytest.raises(RasterError, match=rf"{path.name} {message}.*\. [A-Z]"):
            read_rpc(path)


def test_damaged_dictionaries_are_rejected():
    data = make_rpc().to_dict()
    assert RPC.from_dict(data) == make_rpc()
    for damaged in (data | {"line_scale": 0.0}, data | {"samp_den_coeff": [1.0]}, data | {"lat_off": float("nan")}):
        with pytest.raises(ValueError, match="RPC"):
            RPC.from_dict(damaged)
