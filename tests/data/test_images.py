"""One rule per odd image file."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.makers import noise, png
from xeval.data.images import FORMATS, decode, decoders, fitted, is_image_name, suffixes
from xeval.errors import DataError

PIXELS = noise(1, 24, seed=3)[0]


def saved(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def array(data: bytes) -> np.ndarray:
    image = decode(data, "file")
    assert image.mode == "RGB"
    return np.asarray(image)


def test_colour_is_exact() -> None:
    assert np.array_equal(array(png(PIXELS)).transpose(2, 0, 1), PIXELS)


@pytest.mark.fault("D8")
def test_grey_becomes_three_equal_channels() -> None:
    result = array(png(PIXELS[0]))
    assert all(np.array_equal(result[..., channel], PIXELS[0]) for channel in range(3))


@pytest.mark.fault("D8")
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 128, 129, 257 * 7, 65535, 30000]], dtype=np.uint16).repeat(6, axis=0)
    result = array(saved(Image.fromarray(values), format=kind))
    assert result[0, :, 0].tolist() == [0, 0, 1, 7, 255, round(30000 / 257)]


@pytest.mark.fault("D8")
def test_transparency_is_dropped_as_torchvision_does() -> None:
    alpha = np.concatenate([PIXELS, PIXELS[:1]])
    assert np.array_equal(array(png(alpha)).transpose(2, 0, 1), PIXELS)


@pytest.mark.fault("D8")
def test_palette_and_cmyk() -> None:
    image = Image.fromarray(PIXELS.transpose(1, 2, 0))
    palette = image.quantize(16)
    assert np.array_equal(array(saved(palette, format="PNG")), np.asarray(palette.convert("RGB")))
    cmyk = saved(image.convert("CMYK"), format="JPEG", quality=95)
    with Image.open(io.BytesIO(cmyk)) as again:
        assert again.mode == "CMYK"
        assert np.array_equal(array(cmyk), np.asarray(again.convert("RGB")))


@pytest.mark.fault("D8")
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (8, 1), (3, 2), (6, 3)])
def test_exif_orientation_is_applied(orientation: int, turns: int) -> None:
    image = Image.fromarray(PIXELS.transpose(1, 2, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(array(saved(image, format="PNG", exif=exif)), np.rot90(np.asarray(image), turns))


@pytest.mark.fault("D8")
def test_first_picture_of_a_stereo_jpeg() -> None:
    first, second = (Image.fromarray(item.transpose(1, 2, 0)) for item in noise(2, 24, seed=5))
    data = saved(first, format="MPO", save_all=True, append_images=[second], quality=95)
    assert (
        abs(array(data).astype(int) - np.asarray(first)).mean()
        < abs(array(data).astype(int) - np.asarray(second)).mean()
    )


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(item.transpose(1, 2, 0)) for item in noise(2, 24, seed=5)]
    return saved(frames[0], format=kind, save_all=True, append_images=frames[1:])


def header_only(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\x00\x00\x00\x10IDAT"


JPEG = saved(Image.fromarray(PIXELS.transpose(1, 2, 0)), format="JPEG")


@pytest.mark.fault("D8", "D9")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0-byte"),
        (b"not a picture at all", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (JPEG[:300], "is damaged .*Truncated"),
        (JPEG[:-90], "is damaged .*truncated"),
        (png(PIXELS)[:-100], "is damaged"),
        (animated("GIF"), "several frames"),
        (animated("TIFF"), "several frames"),
        (animated("WEBP"), "several frames"),
        (saved(Image.fromarray(np.zeros((9, 9), np.float32)), format="TIFF"), "floating-point"),
        (header_only(8000, 8000), "DecompressionBomb"),
        (header_only(10000, 10000), "DecompressionBomb"),
        (header_only(30000, 30000), "DecompressionBomb"),
    ],
)
def test_unfit_files_are_named(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"a/b.JPEG .*{message}"):
        decode(data, "a/b.JPEG")


@given(st.integers(0, len(JPEG) - 1), st.integers(0, 255), st.integers(0, len(JPEG)))
@settings(max_examples=300, deadline=None)
def test_damage_gives_a_picture_or_the_error(position: int, value: int, length: int) -> None:
    data = bytearray(JPEG)
    data[position] = value
    for candidate in (bytes(data), bytes(data[:length])):
        with suppress(DataError):
            assert decode(candidate, "file").mode == "RGB"


def avif_of(width: int, height: int) -> bytes:
    """An AVIF file whose header claims another size than it has."""
    data = saved(Image.fromarray(PIXELS.transpose(1, 2, 0)), format="AVIF")
    assert data.count(b"ispe") == 1
    place = data.index(b"ispe") + 8
    return data[:place] + struct.pack(">II", width, height) + data[place + 8 :]


@pytest.mark.fault("D9")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_in_avif_is_refused_before_a_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("PIL.AvifImagePlugin.AvifImageFile.load", never)
    with pytest.raises(DataError, match="DecompressionBomb"):
        decode(avif_of(12000, 12000), "file")


@pytest.mark.fault("D8")
def test_other_rules_hold_for_avif() -> None:
    image = Image.fromarray(PIXELS.transpose(1, 2, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright, turned = (saved(image, format="AVIF", quality=100, **more) for more in ({}, {"exif": exif}))
    assert np.array_equal(array(turned), np.rot90(array(upright), 3))
    clear = image.copy()
    clear.putalpha(90)
    assert array(saved(clear, format="AVIF", quality=100)).shape == (24, 24, 3)
    with pytest.raises(DataError, match="several frames"):
        decode(animated("AVIF"), "file")
    for data in (upright[:200], upright[:-300], b"\0\0\0\x18ftypheic" + bytes(40)):
        with pytest.raises(DataError):
            decode(data, "file")


def test_suffixes_are_those_that_pillow_registers_for_the_decoders() -> None:
    Image.init()
    assert set(decoders()) == set(FORMATS) - {"MPO"}
    assert {Image.EXTENSION[suffix] for suffix in suffixes()} == set(FORMATS)
    assert {suffix for suffix, name in Image.EXTENSION.items() if name in FORMATS} == set(suffixes())


def test_a_pillow_without_a_decoder_reads_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF")
    decoders.cache_clear()
    try:
        assert np.array_equal(array(png(PIXELS)).transpose(2, 0, 1), PIXELS)
        with pytest.raises(DataError, match="is not an image that can be read"):
            decode(saved(Image.fromarray(PIXELS.transpose(1, 2, 0)), format="AVIF"), "file")
    finally:
        decoders.cache_clear()


def test_square_cuts_the_centre() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert (np.asarray(fitted(Image.fromarray(wide), 10)) == 200).all()


def test_shrinking_is_antialiased() -> None:
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    image = Image.fromarray(np.repeat(checks[..., None], 3, axis=2).astype(np.uint8))
    assert abs(np.asarray(fitted(image, 16)).astype(int)[2:-2, 2:-2] - 127).max() < 8


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.JPEG", True),
        ("a/b.png", True),
        ("a.jfif", True),
        ("a.AVIF", True),
        ("a.jp2", True),
        ("a.heic", False),
        ("a.eps", False),
        ("a.ps", False),
        ("a.pdf", False),
        ("a.wmf", False),
        ("a.h5", False),
        ("a.mpg", False),
        ("png", False),
        ("a/.b.png", False),
        (".DS_Store", False),
        ("Thumbs.db", False),
        ("a.txt", False),
    ],
)
def test_image_names(name: str, expected: bool) -> None:
    assert is_image_name(name) == expected
    assert is_image_name(f"{Path('x') / name}") == expected
