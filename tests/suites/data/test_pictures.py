"""What a picture file may be, and the one clear line for what it may not be."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from suites.data import DataError, load_picture
from suites.data.pictures import as_gray, list_pictures, pixel_hash

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 7, 3), dtype=np.uint8)
GRAY = np.ascontiguousarray(COLOUR[..., 0])


def write_png16(path, channels):
    """A PNG of 16 bits per channel, chunk by chunk: Pillow does not write colour ones."""
    pixels = RNG.integers(0, 65536, (5, 4, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", 4, 5, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".ppm"])
def test_lossless_formats_give_the_same_pixels(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(COLOUR).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    assert np.array_equal(load_picture(path), COLOUR)
    assert pixel_hash(load_picture(path)) == pixel_hash(COLOUR)


def test_gray_palette_and_bilevel_keep_their_pixels(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "gray.png")
    assert np.array_equal(load_picture(tmp_path / "gray.png"), GRAY)
    few = np.array([[[255, 0, 3], [0, 9, 255]], [[0, 9, 255], [7, 7, 7]]], np.uint8)
    Image.fromarray(few).quantize(4, dither=Image.Dither.NONE).save(tmp_path / "palette.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    assert np.array_equal(load_picture(tmp_path / "palette.png"), few)
    bits = np.array([[True, False, True]])
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert np.array_equal(load_picture(tmp_path / "bits.png"), bits.astype(np.uint8) * 255)


def test_opaque_alpha_is_dropped_and_kept_when_asked_for(tmp_path):
    opaque = np.dstack([COLOUR, np.full((6, 7), 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "a.png")
    assert np.array_equal(load_picture(tmp_path / "a.png"), COLOUR)
    assert np.array_equal(load_picture(tmp_path / "a.png", alpha=True), opaque)
    gray_alpha = np.dstack([GRAY, GRAY])
    Image.fromarray(gray_alpha).save(tmp_path / "la.png")
    assert np.array_equal(load_picture(tmp_path / "la.png", alpha=True), gray_alpha)


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(COLOUR).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(load_picture(tmp_path / "turned.png"), np.rot90(COLOUR, -1))


def test_one_pixel(tmp_path):
    Image.fromarray(COLOUR[:1, :1]).save(tmp_path / "one.png")
    assert np.array_equal(load_picture(tmp_path / "one.png"), COLOUR[:1, :1])


def missing(path):
    pass


def truncated(path):
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])


def header_only(path):
    Image.fromarray(COLOUR).save(path)
    path.write_bytes(path.read_bytes()[:40])


def cmyk(path):
    Image.fromarray(COLOUR).convert("CMYK").save(path, format="JPEG")


def transparent(path):
    Image.fromarray(np.dstack([COLOUR, GRAY])).save(path)


def transparent_gray(path):
    Image.fromarray(np.dstack([GRAY, GRAY])).save(path)


def transparent_colour(path):
    Image.fromarray(COLOUR).save(path, transparency=tuple(int(c) for c in COLOUR[0, 0]))


def transparent_palette(path):
    Image.fromarray(GRAY // 64).convert("P").save(path, transparency=0)


def animated(path):
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


def floating(path):
    Image.fromarray(GRAY.astype(np.float32)).save(path, format="TIFF")


BAD = [
    (missing, "does not exist"),
    (lambda path: path.write_text("not a picture"), "not a picture"),
    (lambda path: path.write_bytes(b""), "not a picture"),
    (truncated, "damaged"),
    (header_only, "damaged"),
    (lambda path: path.mkdir(), "cannot be read"),
    (lambda path: write_png16(path, 1), "more than 8 bits"),
    (lambda path: write_png16(path, 2), "more than 8 bits"),
    (lambda path: write_png16(path, 3), "more than 8 bits"),
    (lambda path: write_png16(path, 4), "more than 8 bits"),
    (floating, "more than 8 bits"),
    (cmyk, "colour space CMYK"),
    (transparent, "transparent pixels"),
    (transparent_gray, "transparent pixels"),
    (transparent_colour, "transparent pixels"),
    (transparent_palette, "transparent pixels"),
    (animated, "2 frames"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_files_are_refused_in_one_line_that_names_them(tmp_path, make, message):
    path = tmp_path / "bad.png"
    make(path)
    with pytest.raises(DataError, match=message) as refusal:
        load_picture(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_two_files_of_one_stem_are_refused(tmp_path):
    for name in ("b.png", "a.png", "a.bmp"):
        Image.fromarray(COLOUR).save(tmp_path / name)
    with pytest.raises(DataError, match=r"both a.bmp and a.png"):
        list_pictures(tmp_path)


def test_listing_takes_pictures_only(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "B.PNG")
    Image.fromarray(COLOUR).save(tmp_path / "a.jpeg")
    (tmp_path / "._a.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder.png").mkdir()
    assert list(list_pictures(tmp_path)) == ["B", "a"]


def test_three_equal_channels_are_gray_and_two_are_not():
    rgb = np.dstack([GRAY] * 3)
    assert np.array_equal(as_gray(rgb), GRAY) and as_gray(GRAY) is GRAY
    rgb[-1, -1, 2] ^= 1
    assert as_gray(rgb) is rgb
