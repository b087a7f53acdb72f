"""Images for training: full bit depth, tone curve, band order, masks; damaged files are named."""

import cv2
import numpy as np
import pytest

from skyfall_ns.dataparsers.skyfall_datamanager import read_mask, read_tone_mapped
from skyfall_ns.errors import SceneError
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.scene.scene import SceneImage, Tone

CAMERA = AffineCamera(np.eye(2, 4), None, (5, 4))
TONE = Tone((100.0,), (4100.0,), 2.0)


def scene_image(tone: Tone = TONE, mask: str | None = None, size=(5, 4)) -> SceneImage:
    return SceneImage("a", "a.tif", *size, CAMERA, tone, mask=mask)


def test_images_keep_sixteen_bits(tmp_path):
    dn = np.linspace(0, 5000, 20).reshape(4, 5).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.tif"), dn)
    values = read_tone_mapped(tmp_path, scene_image())
    expected = np.sqrt(np.clip((dn.astype(float) - 100) / 4000, 0, 1))
    assert values.shape == (4, 5, 3) and values.dtype == np.float32
    for band in range(3):
        np.testing.assert_allclose(values[..., band], expected, atol=1e-6)
    cv2.imwrite(
        str(tmp_path / "a.tif"), dn + np.uint16(1)
    )  # one digital number, a 256th of an 8-bit step, changes values
    assert (read_tone_mapped(tmp_path, scene_image())[1:3] > values[1:3]).all()


def test_bands_are_red_green_blue(tmp_path):
    dn = np.zeros((4, 5, 3), np.uint16)
    dn[..., 0] = 1000  # OpenCV writes blue first: this is blue in the file
    cv2.imwrite(str(tmp_path / "a.tif"), dn)
    values = read_tone_mapped(tmp_path, scene_image(Tone((0.0,) * 3, (1000.0,) * 3, 1.0)))
    np.testing.assert_array_equal(values[0, 0], [0, 0, 1])


def test_masks_are_read_and_validated(tmp_path):
    assert read_mask(tmp_path, scene_image()).min() == 1
    mask = np.zeros((4, 5), np.uint8)
    mask[1, 2] = 255
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    read = read_mask(tmp_path, scene_image(mask="m.png"))
    assert read.shape == (4, 5, 1) and read.dtype == np.float32 and read[1, 2] == 1 and read.sum() == 1
    cv2.imwrite(str(tmp_path / "m.png"), 0 * mask)
    with pytest.raises(SceneError, match=r"m\.png masks the whole image\. Leave a out with .*dataparser\.images"):
        read_mask(tmp_path, scene_image(mask="m.png"))
    cv2.imwrite(str(tmp_path / "m.png"), mask[:2])
    with pytest.raises(SceneError, match=r"m\.png is damaged or has another size"):
        read_mask(tmp_path, scene_image(mask="m.png"))


def test_damaged_images_are_named(tmp_path):
    with pytest.raises(SceneError, match=r"a\.tif is damaged or has another size than in scene\.json\. Run"):
        read_tone_mapped(tmp_path, scene_image())
    cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((4, 6), np.uint16))
    with pytest.raises(SceneError, match="another size"):
        read_tone_mapped(tmp_path, scene_image())
    cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((4, 5, 3), np.uint16))
    with pytest.raises(SceneError, match=r"a\.tif has 3 bands, scene\.json has 1\."):
        read_tone_mapped(tmp_path, scene_image())
    cv2.imwrite(str(tmp_path / "a.tif"), np.full((4, 5), np.nan, np.float32))
    with pytest.raises(SceneError, match=r"a\.tif contains NaN or infinity\."):
        read_tone_mapped(tmp_path, scene_image())
