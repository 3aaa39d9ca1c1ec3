"""One picture from a file: what is accepted, and what is refused with one clear line."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# A file of a few bytes can ask for any number of pixels. Pillow's own limit, half of this and for the whole process,
# warns where it should refuse.
MAX_PIXELS, LIMIT_VARIABLE = 2**28, "MAMBAIR_BENCH_MAX_PIXELS"
Image.MAX_IMAGE_PIXELS = None
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})


class DataError(ValueError):
    """Images or folders that cannot be used as asked. The message says which, why, and what to do."""


def load_picture(path: Path, *, alpha: bool = False) -> np.ndarray:
    """Decodes a picture of 8 bits per channel: uint8 [H, W] when the file is gray, else uint8 RGB [H, W, 3].

    Bilevel and palette files become gray or RGB, which changes no pixel; an orientation stored in EXIF is applied, a
    colour profile is not. Opaque alpha is dropped. alpha=True keeps alpha, opaque or not: [H, W, 2] or [H, W, 4].

    Raises DataError for a file that is missing, damaged or no picture, for one of several frames, for 16 bits and
    floating point, for CMYK and other colour spaces, (alpha=False) for transparent pixels, and for more than MAX_PIXELS
    pixels, or than LIMIT_VARIABLE says in the environment.
    """
    from results import records  # with pandas, for which nothing that lists suites waits

    path, limit = Path(path), records.limit(LIMIT_VARIABLE, MAX_PIXELS)
    try:
        with Image.open(path) as image:
            if image.width * image.height > limit:
                raise DataError(
                    f"{path} has {image.width} x {image.height} pixels, and the limit is {limit} pixels: "
                    f"{LIMIT_VARIABLE}=N raises it, for a file that you trust"
                )
            deep = _is_deep(image)
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            transparency = "transparency" in image.info
            image = ImageOps.exif_transpose(image)
            image.load()
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except UnidentifiedImageError:
        raise DataError(f"{path} is not a picture, or damaged: give a PNG, JPEG, WebP, BMP or TIFF file") from None
    except Exception as error:  # decoders of damaged files raise anything: struct.error, SyntaxError, IndexError, ...
        raise DataError(f"{path} cannot be read, it may be damaged: {error}") from None
    if frames > 1:
        raise DataError(f"{path} holds {frames} frames: save the one that is meant as a picture of its own")
    if deep:
        raise DataError(f"{path} has more than 8 bits per channel ({image.mode}): convert it to 8 bits first")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if transparency or image.mode == "PA" else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif transparency and image.mode in ("L", "RGB"):  # one colour is declared transparent
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise DataError(f"{path} is in the colour space {image.mode}: convert it to gray or RGB first")
    pixels = np.array(image)
    if alpha or image.mode in ("L", "RGB"):
        return pixels
    if pixels[..., -1].min() < 255:
        raise DataError(f"{path} has transparent pixels: flatten it onto a background first")
    return np.ascontiguousarray(pixels[..., 0] if image.mode == "LA" else pixels[..., :3])


def pixel_hash(pixels: np.ndarray) -> str:
    """SHA-256 (hex) of uint8 pixels, row by row, channels interleaved: equal for every lossless format."""
    return hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """[H, W] or [H, W, 3] -> [H, W, 3], gray repeated."""
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def as_gray(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] of three equal channels -> [H, W]; anything else comes back as it is."""
    for part in (pixels[:1], pixels):  # the first row tells nearly always
        if pixels.ndim == 2 or (part != part[..., :1]).any():
            return pixels
    return np.ascontiguousarray(pixels[..., 0])


def list_pictures(folder: Path) -> dict[str, Path]:
    """The picture files right inside `folder` by their stem, in the order of the stems; hidden files do not count.

    Raises DataError for two files of one stem: which of them would be meant?
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in found:
            raise DataError(f"{folder} holds both {found[path.stem].name} and {path.name}: keep one of them")
        found[path.stem] = path
    return dict(sorted(found.items()))


def _is_deep(image: Image.Image) -> bool:
    """More than 8 bits per channel. Pillow opens such colour files as 8-bit RGB; only the raw mode still tells."""
    raw = any(";16" in str(tile[3]) or ";12" in str(tile[3]) for tile in image.tile)
    return raw or image.mode.startswith(("I", "F"))
