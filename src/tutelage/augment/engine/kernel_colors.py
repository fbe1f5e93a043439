"""The colour half of the CPU kernel: tables, statistics, and the canvas read through them.

It does what ``colors`` and ``ops`` do, for one image, compiled by numba. Loops are written out here
and in ``kernel``, since an array expression takes seconds to compile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tutelage.augment import plan
from tutelage.augment.engine.simd import BLOCK, join_pixels, mix_pixels, split_pixels, spread_pixels
from tutelage.augment.ops import LUMA, TINY

Array = NDArray[Any]
Box = tuple[int, int, int, int]  # pixels of a canvas: from x0 to x1 and from y0 to y1

_TINY = np.float32(TINY)
_ZERO, _TOP = np.float32(0.0), np.float32(255.0)

# No fastmath: numba would apply it to every function that is called, and the last bit of a table's
# value decides on which side of a step a grey level falls. ``simd`` fuses where that is harmless.
_compiled = njit(nogil=True, cache=True)


@_compiled
def compile_tables(
    image: Array, ops: Array, amounts: Array, color: Array, stencil: Array, window: Array,
    packed: Array, tables: Array,
) -> tuple[int, bool, bool]:  # fmt: skip
    """Fill the tables (3, 3, 256) of one image; see ``colors.compile``.

    Gives the last stage that is used, whether channels mix, and whether the last table is used.
    """
    height, width = image.shape[:2]
    for number in range(3):
        for c in range(3):
            for level in range(256):
                tables[number, c, level] = level
    x0, x1 = _between(window[0], window[2], width)
    y0, y1 = _between(window[1], window[3], height)
    box = x0, x1, y0, y1
    stage, late, mixed = 0, False, False
    for code in ops:
        mixed = mixed or code == plan.SATURATION
    for code, amount in zip(ops, amounts):  # noqa: B905 - numba knows no strict
        if code == 0:
            continue
        if code == plan.SATURATION:
            stage = max(stage, 1)
            continue
        if code in (plan.SHARPNESS, plan.BLUR):
            stage = 2
            continue
        late = stage == 2
        if code in (plan.CONTRAST, plan.AUTOCONTRAST, plan.EQUALIZE):
            counts = np.zeros((3, 256), np.int64)
            if stage == 0:
                _count(image, box, counts)
            elif stage == 1:
                _count_mixed(image, box, tables, color, counts)
            else:
                around = max(0, x0 - 1), min(width, x1 + 1), max(0, y0 - 1), min(height, y1 + 1)
                pack(image, around, mixed, tables, color, packed)
                _count_sharpened(packed, box, stencil, counts)
            if code == plan.CONTRAST:
                _contrast(tables[stage], amount, counts)
            elif code == plan.AUTOCONTRAST:
                _autocontrast(tables[stage], counts)
            else:
                _equalize(tables[stage], counts)
        else:
            _pointwise(tables[stage], code, amount)
    return stage, mixed, late


@_compiled
def _between(start: float, end: float, length: int) -> tuple[int, int]:
    """The pixels whose centres lie in [start, end), fractions of a line of ``length``."""
    low, high = length, 0
    for pixel in range(length):
        center = np.float32(np.float32(pixel + 0.5) / np.float32(length))
        if start <= center < end:
            low, high = min(low, pixel), pixel + 1
    return min(low, high), high


@_compiled
def _pointwise(table: Array, code: int, amount: float) -> None:
    step = np.float32(2.0 ** (8.0 - min(max(np.rint(amount), 0.0), 8.0)))
    for c in range(3):
        for level in range(256):
            value = table[c, level]
            if code == plan.BRIGHTNESS:
                value = min(max(value * amount, _ZERO), _TOP)
            elif code == plan.GAMMA:
                value = min(max(_TOP * np.float32(value / _TOP) ** amount, _ZERO), _TOP)
            elif code == plan.INVERT:
                value = _TOP - value
            elif code == plan.POSTERIZE:
                if step > 1:
                    value = np.floor((value + _TINY) / step) * step
            elif code == plan.SOLARIZE and np.floor(value + _TINY) >= amount:
                value = _TOP - value
            table[c, level] = value


@_compiled
def _contrast(table: Array, factor: float, counts: Array) -> None:
    mean = 0.0
    for c in range(3):
        total, pixels = 0.0, 0
        for level in range(256):
            total += float(table[c, level]) * counts[c, level]
            pixels += counts[c, level]
        weight = LUMA[0] if c == 0 else (LUMA[1] if c == 1 else LUMA[2])
        mean += weight * (total / max(pixels, 1))
    for c in range(3):
        for level in range(256):
            value = mean + float(factor) * (float(table[c, level]) - mean)
            table[c, level] = min(max(value, 0.0), 255.0)


@_compiled
def _autocontrast(table: Array, counts: Array) -> None:
    for c in range(3):
        low, high = np.inf, -np.inf
        for level in range(256):
            if counts[c, level]:
                low, high = min(low, table[c, level]), max(high, table[c, level])
        if high > low:
            factor = 255.0 / (high - low)
            for level in range(256):
                table[c, level] = min(max((table[c, level] - low) * factor, 0.0), 255.0)


@_compiled
def _equalize(table: Array, counts: Array) -> None:
    histogram, flat = np.empty(256, np.int64), np.empty(256, np.int64)
    for c in range(3):
        for level in range(256):
            histogram[level] = 0
        pixels = lightest = 0
        for level in range(256):
            histogram[int(table[c, level] + _TINY)] += counts[c, level]
            pixels += counts[c, level]
        for level in range(256):
            if histogram[level]:
                lightest = level
        step = (pixels - histogram[lightest]) // 255
        if step == 0:
            continue
        darker = 0
        for level in range(256):
            flat[level] = min((darker + step // 2) // step, 255)
            darker += histogram[level]
        for level in range(256):
            table[c, level] = flat[int(table[c, level] + _TINY)]


@_compiled
def _count(image: Array, box: Box, counts: Array) -> None:
    x0, x1, y0, y1 = box
    # Two sets in turn: neighbours are often equal, and adding to one place twice in a row waits.
    both = np.zeros((2, 3, 256), np.uint32)
    one = np.uint32(1)
    for y in range(y0, y1):
        row = image[y]
        for x in range(x0, x1):
            here = both[x & 1]
            here[0, row[x, 0]] += one
            here[1, row[x, 1]] += one
            here[2, row[x, 2]] += one
    for c in range(3):
        for level in range(256):
            counts[c, level] = both[0, c, level] + both[1, c, level]


@_compiled
def _count_mixed(image: Array, box: Box, tables: Array, color: Array, counts: Array) -> None:
    before = levels(tables[0])
    x0, x1, y0, y1 = box
    for y in range(y0, y1):
        for x in range(x0, x1):
            red, green, blue = mix(before[0, image[y, x, 0]], before[1, image[y, x, 1]],
                                    before[2, image[y, x, 2]], color)  # fmt: skip
            counts[0, red] += 1
            counts[1, green] += 1
            counts[2, blue] += 1


@_compiled
def _count_sharpened(packed: Array, box: Box, stencil: Array, counts: Array) -> None:
    height, width = packed.shape[0], packed.shape[1] // 4
    x0, x1, y0, y1 = box
    for y in range(y0, y1):
        for x in range(x0, x1):
            border = y == 0 or x == 0 or y == height - 1 or x == width - 1
            for c in range(3):
                value = np.float32(packed[y, 4 * x + c])
                if not border:
                    total = _ZERO
                    for dy in range(3):
                        for dx in range(3):
                            pixel = np.float32(packed[y + dy - 1, 4 * (x + dx - 1) + c])
                            total += stencil[dy, dx] * pixel
                    value = min(max(total, _ZERO), _TOP)
                counts[c, int(np.rint(value))] += 1


@_compiled
def levels(table: Array) -> Array:
    """A table (3, 256) rounded to grey levels."""
    rounded = np.empty((3, 256), np.uint8)
    for c in range(3):
        for level in range(256):
            rounded[c, level] = np.uint8(np.rint(table[c, level]))
    return rounded


@njit(nogil=True, cache=True, inline="always")
def mix(red: int, green: int, blue: int, color: Array) -> tuple[np.uint8, np.uint8, np.uint8]:
    """One pixel's grey levels after its channels are mixed."""
    r, g, b = np.float32(red), np.float32(green), np.float32(blue)
    one = np.rint(min(max(color[0, 0] * r + color[0, 1] * g + color[0, 2] * b, _ZERO), _TOP))
    two = np.rint(min(max(color[1, 0] * r + color[1, 1] * g + color[1, 2] * b, _ZERO), _TOP))
    three = np.rint(min(max(color[2, 0] * r + color[2, 1] * g + color[2, 2] * b, _ZERO), _TOP))
    return np.uint8(one), np.uint8(two), np.uint8(three)


@_compiled
def pack(image: Array, box: Box, mixed: bool, tables: Array, color: Array, packed: Array) -> None:
    """Send part of a canvas (H, W, 3) through its colours into packed pixels (H, 4 W)."""
    before, between = levels(tables[0]), levels(tables[1])
    if mixed:
        _pack_mixed(image, box, before, between, color, packed)
        return
    x0, x1, y0, y1 = box
    for c in range(3):
        for level in range(256):
            before[c, level] = between[c, before[c, level]]
    plain = _is_plain(before)
    for y in range(y0, y1):
        row, out = image[y], packed[y]
        if plain:
            # A block writes four values for each pixel; the fourth is never read.
            whole = x0 + (x1 - x0) // BLOCK * BLOCK
            for x in range(x0, whole, BLOCK):
                spread_pixels(row, 3 * x, out, 4 * x)
            for x in range(whole, x1):
                for c in range(3):
                    out[4 * x + c] = row[x, c]
        else:
            for x in range(np.uint64(x0), np.uint64(x1)):
                out[4 * x] = before[0, row[x, 0]]
                out[4 * x + 1] = before[1, row[x, 1]]
                out[4 * x + 2] = before[2, row[x, 2]]


@_compiled
def _is_plain(table: Array) -> bool:
    """Whether a table (3, 256) of grey levels changes nothing."""
    for c in range(3):
        for level in range(256):
            if table[c, level] != level:
                return False
    return True


@_compiled
def _pack_mixed(
    image: Array, box: Box, before: Array, between: Array, color: Array, packed: Array
) -> None:
    """``pack`` where channels mix: through rows of floats, so that the mixing is vector code."""
    x0, x1, y0, y1 = box
    plain, straight_out = _is_plain(before), _is_plain(between)
    reds, greens, blues = np.zeros((3, image.shape[1] + BLOCK), np.float32)
    for y in range(y0, y1):
        row, out = image[y], packed[y]
        whole = x0 + (x1 - x0) // BLOCK * BLOCK if plain else x0
        for x in range(x0, whole, BLOCK):
            split_pixels(row, 3 * x, reds, greens, blues, x)
        for x in range(np.uint64(whole), np.uint64(x1)):
            reds[x] = np.float32(before[0, row[x, 0]])
            greens[x] = np.float32(before[1, row[x, 1]])
            blues[x] = np.float32(before[2, row[x, 2]])
        for x in range(x0, x1, BLOCK):  # the last block may go beyond the part
            mix_pixels(reds, greens, blues, x, color)
        whole = x0 + (x1 - x0) // BLOCK * BLOCK if straight_out else x0
        for x in range(x0, whole, BLOCK):
            join_pixels(reds, greens, blues, x, out, 4 * x)
        for x in range(np.uint64(whole), np.uint64(x1)):
            out[4 * x] = between[0, np.uint8(reds[x])]
            out[4 * x + 1] = between[1, np.uint8(greens[x])]
            out[4 * x + 2] = between[2, np.uint8(blues[x])]
