"""What an image file holds beside its pixels, and the file without it."""

from __future__ import annotations

import zlib

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"


def pixels_alone(content: bytes) -> bytes:
    """A PNG or JPEG file without texts, comments, profiles and the like, which Pillow refuses where they are damaged.

    What pixels depend on stays: of PNG files the critical chunks and transparency, of JPEG files all but application
    segments and comments, of these JFIF's and Adobe's, which say what the colours are. EXIF stays too, since it says
    which side is up, but not in a PNG chunk whose checksum is wrong.

    Args:
        content: The file.

    Raises:
        ValueError: it is neither of the two.
    """
    if content.startswith(_PNG):
        return _PNG + b"".join(_png_chunks(content))
    if content.startswith(_JPEG):
        return _JPEG + b"".join(_jpeg_segments(content))
    raise ValueError("neither a PNG nor a JPEG file")


def _png_chunks(content: bytes) -> list[bytes]:
    """Each is its length, its type, its data and a checksum of both."""
    chunks, at = [], len(_PNG)
    while at < len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        is_sound = zlib.crc32(content[at + 4 : end - 4]) == int.from_bytes(content[end - 4 : end], "big")
        if kind[:1].isupper() or kind == b"tRNS" or (kind == b"eXIf" and is_sound):
            chunks.append(content[at:end])
        at = end
    return chunks


def _jpeg_segments(content: bytes) -> list[bytes]:
    """Each is a marker of two bytes, its length without them, and its data; behind the last one pixels begin."""
    segments, at = [], len(_JPEG)
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, end = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xDA:  # start of scan
            break
        is_exif = marker == 0xE1 and content[at + 4 : at + 10] == b"Exif\0\0"
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker in (0xE0, 0xEE) or is_exif:
            segments.append(content[at:end])
        at = end
    return [*segments, content[at:]]
