"""Decoding pictures of data sets, which may come from anybody: JPEG and PNG alone, and of the announced size."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

_FORMATS = ("JPEG", "PNG")  # Pillow starts Ghostscript for some others


def decode_picture(file: Location, data: bytes, size: tuple[int, int], *, said_by: str, origin: str) -> Image.Image:
    """An RGB picture of a known size.

    Args:
        file: its address, for errors.
        data: its content.
        size: width and height (pixels).
        said_by: where the size is from, for errors.
        origin: of the data set, for errors.

    Raises:
        UserError: the picture is broken, cut short, no JPEG or PNG, or of another size.
    """
    width, height = size
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        # Sizes are in the header: a "bomb" of a few kilobytes unpacks to gigabytes only when decoded.
        if image.size == size:  # a picture of any other size is not decoded
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise UserError(f"picture {file} is broken (neither JPEG nor PNG); copy it from {origin} again") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's errors for broken files
        raise UserError(f"picture {file} is broken ({cause(error)}); copy it from {origin} again") from None
    raise UserError(
        f"picture {file} has {image.width}x{image.height} pixels, but {said_by} say "
        f"{width}x{height}; copy it from {origin} again"
    )


def cause(error: BaseException) -> str:
    """An error's text on one line: a message of several lines would break the line it is put in."""
    return " ".join(str(error).split()) or type(error).__name__
