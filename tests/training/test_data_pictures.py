"""Decoding and framing of pictures and masks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from divrl_core.training.pictures import decode_mask, decode_picture, frame


def encoded(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def colour_at(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = picture.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_truncated_picture_is_refused_wherever_it_ends(format: str) -> None:
    content = encoded(noise(40, 30), format)
    for share in (0.05, 0.3, 0.6, 0.97):
        with pytest.raises(ValueError, match=r"truncated|not a picture"):
            decode_picture(content[: int(len(content) * share)])


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a picture"):
        decode_picture(b"<html>404</html>")
    with pytest.raises(ValueError, match="the file is empty"):
        decode_picture(b"")
    with pytest.raises(ValueError, match="no such file"):
        decode_picture(tmp_path / "gone.png")


def test_exif_orientation_turns_picture_and_mask_alike() -> None:
    upright = Image.new("RGB", (30, 20), (10, 20, 30))
    upright.paste((255, 255, 255), (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left of what is meant
    content = encoded(upright, exif=exif)
    picture = decode_picture(content)
    assert picture.rgb.size == (20, 30)
    assert colour_at(picture.rgb, 10, 2) == (255, 255, 255)
    assert colour_at(picture.rgb, 10, 28) == (10, 20, 30)
    mask = decode_mask(content)
    assert mask.shape == (30, 20) and mask[:10].all() and not mask[10:].any()


def test_transparency_is_laid_on_white_and_kept_as_alpha() -> None:
    picture = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    picture.paste((200, 0, 0, 255), (0, 0, 2, 4))
    decoded = decode_picture(encoded(picture))
    assert colour_at(decoded.rgb, 0, 0) == (200, 0, 0)
    assert colour_at(decoded.rgb, 3, 0) == (255, 255, 255)
    assert decoded.alpha is not None and decoded.alpha[0].tolist() == [255, 255, 0, 0]


def test_a_palette_with_one_transparent_entry_has_an_alpha_channel() -> None:
    picture = Image.new("P", (4, 2), 0)
    picture.putpalette([0, 128, 0, 255, 0, 0])
    picture.paste(1, (2, 0, 4, 2))
    decoded = decode_picture(encoded(picture, transparency=1))
    assert colour_at(decoded.rgb, 0, 0) == (0, 128, 0)
    assert decoded.alpha is not None and decoded.alpha[0].tolist() == [255, 255, 0, 0]


def test_cmyk_grey_and_sixteen_bit_pictures_become_rgb() -> None:
    cmyk = decode_picture(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")).rgb
    assert colour_at(cmyk, 0, 0) == (255, 0, 0)
    assert colour_at(decode_picture(encoded(Image.new("L", (8, 8), 77))).rgb, 3, 3) == (77, 77, 77)
    deep = Image.fromarray(np.full((4, 4), 100 * 257, dtype=np.uint16))
    assert colour_at(decode_picture(encoded(deep)).rgb, 0, 0) == (100, 100, 100)


def test_a_sixteen_bit_mask_is_cut_at_half_its_range() -> None:
    values = np.array([[0, 127 * 257, 128 * 257, 65535]], dtype=np.uint16)
    assert decode_mask(encoded(Image.fromarray(values))).tolist() == [[False, False, True, True]]


def test_a_mask_is_what_lies_above_127() -> None:
    values = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    assert decode_mask(encoded(Image.fromarray(values))).tolist() == [[False, False, True, True]]


def test_a_mask_of_zeros_and_ones_is_told_apart_from_a_good_one() -> None:
    with pytest.raises(ValueError, match="brightest value is 1, the object needs more than 127"):
        decode_mask(encoded(Image.fromarray(np.eye(4, dtype=np.uint8))))


def test_a_square_picture_of_the_right_size_comes_through_unchanged() -> None:
    picture = noise(16, 16)
    mask = np.zeros((16, 16), dtype=bool)
    mask[3:9, 2:5] = True
    reference = frame(picture, mask, 16)
    assert torch.equal(reference.image, torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255)
    assert torch.equal(reference.mask, torch.from_numpy(mask))
    assert reference.image.dtype == torch.float32 and reference.mask.dtype == torch.bool


def test_a_wide_picture_is_cropped_when_that_keeps_95_percent_of_the_object() -> None:
    picture = Image.new("RGB", (200, 100), (255, 0, 0))  # the middle square is columns 50 to 150
    picture.paste((0, 0, 255), (50, 0, 150, 100))
    mask = np.zeros((100, 200), dtype=bool)
    mask[40:60, 45:145] = True  # 95 of its 100 columns are inside
    reference = frame(picture, mask, 50)
    assert torch.equal(
        reference.image[2, :, 1:-1], torch.ones(50, 48)
    )  # the edge is mixed with red beyond it
    assert (
        int(reference.mask.sum()) == 10 * 47
    )  # of columns 51, 53, ... 149 those up to 143, of rows 41, ... 59


def test_a_wide_picture_is_fitted_when_a_crop_would_lose_more_of_the_object() -> None:
    picture = Image.new("RGB", (200, 100), (0, 255, 0))
    picture.paste((0, 0, 255), (0, 0, 200, 50))  # upper half blue, lower half green
    mask = np.zeros((100, 200), dtype=bool)
    mask[40:60, 44:144] = True  # 94 of its 100 columns would be inside
    reference = frame(picture, mask, 40)
    bars = torch.cat([reference.image[:, :10], reference.image[:, 30:]], dim=1)
    assert torch.equal(bars[0], torch.zeros(20, 40))
    torch.testing.assert_close(
        bars[1:], torch.full((2, 20, 40), 128 / 255)
    )  # mean of a blue and a green edge
    assert not reference.mask[:10].any() and not reference.mask[30:].any()
    assert torch.equal(reference.image[2, 10:19], torch.ones(9, 40))
    rows, columns = torch.where(reference.mask)
    assert (rows.min(), rows.max()) == (18, 21) and (columns.min(), columns.max()) == (9, 28)


def test_picture_and_mask_go_through_the_same_transform() -> None:
    for size, box in (((90, 60), (35, 20, 55, 40)), ((60, 90), (20, 2, 40, 88))):  # one cropped, one fitted
        picture = Image.new("RGB", size, (0, 0, 0))
        picture.paste((255, 255, 255), box)
        mask = np.array(picture.convert("L")) > 127
        reference = frame(picture, mask, 64)
        agrees = (reference.image[0] > 0.5) == reference.mask
        assert agrees.float().mean() > 0.98


def test_an_object_that_vanishes_at_the_training_size_is_refused() -> None:
    mask = np.zeros((512, 512), dtype=bool)
    mask[1, 1] = True
    with pytest.raises(ValueError, match="vanishes at 32 px: its mask has 1 pixels"):
        frame(noise(512, 512), mask, 32)
