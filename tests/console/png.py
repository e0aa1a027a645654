"""Makes a screenshot small: 256 colours at most, which text on plain ground hardly needs."""

import struct
import zlib
from collections import Counter


def chunks(data):
    at = 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        yield kind, data[at + 8:at + 8 + length]
        at += 12 + length


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pixels(data):
    """Width, height and the rows of an 8-bit RGB or RGBA picture, unfiltered."""
    packed, size = b"", 0
    for kind, body in chunks(data):
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            assert depth == 8 and colour in (2, 6) and not interlaced, "not a screenshot of Chromium's"
            size = 3 if colour == 2 else 4
        elif kind == b"IDAT":
            packed += body
    raw, stride = zlib.decompress(packed), width * size
    above, rows = bytearray(stride), []
    for y in range(height):
        kind, row = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
        for x in range(stride):
            left, up, corner = (row[x - size] if x >= size else 0), above[x], (above[x - size] if x >= size else 0)
            if kind == 1:
                row[x] = (row[x] + left) & 255
            elif kind == 2:
                row[x] = (row[x] + up) & 255
            elif kind == 3:
                row[x] = (row[x] + (left + up) // 2) & 255
            elif kind == 4:
                guess = left + up - corner
                row[x] = (row[x] + min((left, up, corner), key=lambda near: abs(guess - near))) & 255
        rows.append([bytes(row[x:x + 3]) for x in range(0, stride, size)])
        above = row
    return width, height, rows


def smaller(data):
    width, height, rows = pixels(data)
    count = Counter(pixel for row in rows for pixel in row)
    palette = [colour for colour, _ in count.most_common(256)]
    place = {colour: number for number, colour in enumerate(palette)}
    for colour in count:
        if colour not in place:
            near = min(palette, key=lambda known: sum((a - b) ** 2 for a, b in zip(known, colour)))
            place[colour] = place[near]
    raw = b"".join(b"\0" + bytes(place[pixel] for pixel in row) for row in rows)
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"PLTE", b"".join(palette)) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b""))
