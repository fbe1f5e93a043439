"""Vector arithmetic for ``kernel``, written as LLVM code that its auto-vectoriser does not find.

A pixel is four neighbouring values (three colours and one that is never read), so that one vector
instruction handles a whole pixel. Each function here writes a few vector instructions for the
inside of a scalar loop; offsets count elements of the flattened arrays, which must be contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_FAST = ["contract", "reassoc", "nsz"]


class _Code:
    """Writes the vector code of one call: ``arguments`` are its values, of numba's ``kinds``."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.builder, self.kinds = builder, signature.args
        self.arguments = [
            context.make_array(kind)(context, builder, value).data
            if isinstance(kind, types.Array)
            else value
            for kind, value in zip(signature.args, arguments, strict=True)
        ]

    def _at(self, data: Any, offset: Any, element: Any) -> Any:
        return self.builder.gep(data, [offset], source_etype=element)

    def _pointer(self, data: Any, offset: Any, element: Any, lanes: int) -> Any:
        kind = ir.VectorType(element, lanes)
        return self.builder.bitcast(self._at(data, offset, element), kind.as_pointer())

    def load_bytes(self, data: Any, offset: Any, lanes: int) -> Any:
        pointer = self._pointer(data, offset, _I8, lanes)
        return self.builder.load(pointer, align=1, typ=ir.VectorType(_I8, lanes))

    def store_bytes(self, value: Any, data: Any, offset: Any) -> None:
        self.builder.store(value, self._pointer(data, offset, _I8, value.type.count), align=1)

    def levels(self, data: Any, offset: Any, lanes: int) -> Any:
        """Neighbouring uint8 values as floats."""
        values = self.load_bytes(data, offset, lanes)
        return self.builder.uitofp(values, ir.VectorType(_F32, lanes))

    def load(self, data: Any, offset: Any, lanes: int) -> Any:
        """Neighbouring floats."""
        pointer = self._pointer(data, offset, _F32, lanes)
        return self.builder.load(pointer, align=4, typ=ir.VectorType(_F32, lanes))

    def store(self, value: Any, data: Any, offset: Any) -> None:
        self.builder.store(value, self._pointer(data, offset, _F32, value.type.count), align=4)

    def stream(self, value: Any, data: Any, offset: Any) -> None:
        """Floats past the caches; their address must be a multiple of their size."""
        lanes = value.type.count
        pointer = self._pointer(data, offset, _F32, lanes)
        store = self.builder.store(value, pointer, align=4 * lanes)
        store.set_metadata("nontemporal", self.builder.module.add_metadata([_I32(1)]))

    def store_levels(self, value: Any, data: Any, offset: Any) -> None:
        """Floats as the nearest uint8 values."""
        lanes = value.type.count
        rounded = self.builder.fadd(value, self.constant(0.5, lanes))
        whole = self.builder.fptoui(rounded, ir.VectorType(_I8, lanes))
        self.store_bytes(whole, data, offset)

    def clamp(self, value: Any, low: float, high: float) -> Any:
        """Interpolation may leave the range by a rounding error."""
        b, lanes = self.builder, value.type.count
        low, high = self.constant(low, lanes), self.constant(high, lanes)
        value = b.select(b.fcmp_ordered(">", value, low), value, low)
        return b.select(b.fcmp_ordered("<", value, high), value, high)

    def constant(self, value: float, lanes: int) -> Any:
        return ir.Constant(ir.VectorType(_F32, lanes), [value] * lanes)

    def scalar(self, data: Any, offset: Any) -> Any:
        return self.builder.load(self._at(data, offset, _F32), typ=_F32)

    def splat(self, value: Any, lanes: int) -> Any:
        """One number in every lane."""
        empty = ir.Constant(ir.VectorType(_F32, lanes), ir.Undefined)
        return self.pick(self.builder.insert_element(empty, value, _I32(0)), [0] * lanes)

    def pick(self, value: Any, lanes: list[int]) -> Any:
        return self.shuffle(value, ir.Constant(value.type, ir.Undefined), lanes)

    def shuffle(self, first: Any, second: Any, lanes: list[int]) -> Any:
        """Lanes of two vectors, numbered through both."""
        mask = ir.Constant(ir.VectorType(_I32, len(lanes)), lanes)
        return self.builder.shuffle_vector(first, second, mask)

    def lerp(self, start: Any, end: Any, part: Any) -> Any:
        way = self.builder.fsub(end, start, flags=_FAST)
        step = self.builder.fmul(part, way, flags=_FAST)
        return self.builder.fadd(start, step, flags=_FAST)

    def multiply_add(self, value: Any, factor: Any, term: Any) -> Any:
        product = self.builder.fmul(value, factor, flags=_FAST)
        return self.builder.fadd(product, term, flags=_FAST)

    def offset(self, base: Any, more: int) -> Any:
        return self.builder.add(base, _I64(more))


_INT, _FLOAT, _ARRAY = types.int64, types.float32, None


def _intrinsic(*kinds: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function that writes vector code callable from compiled code.

    ``kinds`` are those of its arguments after ``code``; ``_ARRAY`` takes an array of any kind.
    """

    def decorate(write: Callable[..., None]) -> Callable[..., None]:
        def typed(typing: Any, *given: Any) -> Any:
            own = [
                array if kind is None else kind for kind, array in zip(kinds, given, strict=True)
            ]

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                code = _Code(context, builder, signature, arguments)
                write(code, *code.arguments)
                return context.get_dummy_value()

            return types.void(*own), generate

        made: Callable[..., None] = intrinsic(update_wrapper(typed, write))
        return made

    return decorate


@_intrinsic(_ARRAY, _INT, _INT, _FLOAT, _FLOAT, _ARRAY, _INT)
def bilinear(
    code: _Code, pixels: Any, upper: Any, lower: Any, across: Any, down: Any, out: Any, at: Any
) -> None:
    """``out[at:at + 4]`` = the pixel between four neighbours.

    ``pixels`` holds uint8; the left two are at ``upper`` and ``lower``, the right two follow them.
    """
    pair = code.lerp(
        code.levels(pixels, upper, 8), code.levels(pixels, lower, 8), code.splat(down, 8)
    )
    left, right = code.pick(pair, [0, 1, 2, 3]), code.pick(pair, [4, 5, 6, 7])
    code.store(code.lerp(left, right, code.splat(across, 4)), out, at)


def _taps(count: int) -> Callable[..., None]:
    @_intrinsic(_ARRAY, _INT, _ARRAY, _INT, _ARRAY, _INT)
    def weighted(
        code: _Code, line: Any, first: Any, weights: Any, start: Any, out: Any, at: Any
    ) -> None:
        """``out[at:at + 4]`` = the weighted sum of neighbouring pixels of a float line."""
        total = code.constant(0.0, 4)
        for tap in range(count):
            pixel = code.load(line, code.offset(first, 4 * tap), 4)
            weight = code.splat(code.scalar(weights, code.offset(start, tap)), 4)
            total = code.multiply_add(pixel, weight, total)
        code.store(total, out, at)

    return weighted


two_taps, three_taps, four_taps = _taps(2), _taps(3), _taps(4)


@_intrinsic(_ARRAY, _INT, _FLOAT, _ARRAY, _INT)
def add_tap(code: _Code, line: Any, first: Any, weight: Any, out: Any, at: Any) -> None:
    """``out[at:at + 4]`` += weight times the pixel of a float line."""
    pixel, total = code.load(line, first, 4), code.load(out, at, 4)
    code.store(code.multiply_add(pixel, code.splat(weight, 4), total), out, at)


BLOCK = 16  # pixels that the functions below move at once


def _taking(streamed: bool) -> Callable[..., None]:
    @_intrinsic(_ARRAY, _INT, _FLOAT, _FLOAT, _ARRAY, _INT)
    def take(code: _Code, line: Any, first: Any, factor: Any, term: Any, out: Any, at: Any) -> None:
        """``out[at:at + 16]`` = factor * every fourth value of a float line + term.

        The values are clamped to 0..255 first.
        """
        pixels = code.load(line, first, 4 * BLOCK)
        values = code.clamp(code.pick(pixels, list(range(0, 4 * BLOCK, 4))), 0.0, 255.0)
        values = code.multiply_add(values, code.splat(factor, BLOCK), code.splat(term, BLOCK))
        if code.kinds[4].dtype == types.uint8:
            code.store_levels(values, out, at)
        elif streamed:
            code.stream(values, out, at)
        else:
            code.store(values, out, at)

    return take


take_channel, stream_channel = _taking(streamed=False), _taking(streamed=True)


@intrinsic
def count_up(typing: Any, counters: Any, place: Any) -> Any:
    """What an int64 array holds at a place before this call adds one, whichever thread calls.

    A thread that sees the new number sees all that was written before the call, past the caches
    too: a locked instruction waits for it.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data, at = _Code(context, builder, signature, arguments).arguments
        return builder.atomic_rmw("add", builder.gep(data, [at]), _I64(1), "acq_rel")

    return types.int64(counters, types.int64), generate


@_intrinsic(_ARRAY, _INT, _ARRAY, _INT)
def spread_pixels(code: _Code, pixels: Any, first: Any, out: Any, at: Any) -> None:
    """``out[at:at + 64]`` = 16 neighbouring uint8 pixels of three, each followed by a zero."""
    values = code.load_bytes(pixels, first, 3 * BLOCK)
    zeros = ir.Constant(values.type, [0] * (3 * BLOCK))
    lanes = [3 * BLOCK if k % 4 == 3 else k // 4 * 3 + k % 4 for k in range(4 * BLOCK)]
    code.store_bytes(code.shuffle(values, zeros, lanes), out, at)


@_intrinsic(_ARRAY, _ARRAY, _ARRAY, _INT, _ARRAY, _INT)
def join_pixels(
    code: _Code, reds: Any, greens: Any, blues: Any, first: Any, out: Any, at: Any
) -> None:
    """``out[at:at + 64]`` = 16 uint8 pixels from three lines of whole floats, each with a zero."""
    kind = ir.VectorType(_I8, BLOCK)
    red, green, blue = (
        code.builder.fptoui(code.load(line, first, BLOCK), kind) for line in (reds, greens, blues)
    )
    pairs = list(range(2 * BLOCK))
    left = code.shuffle(red, green, pairs)
    right = code.shuffle(blue, ir.Constant(kind, [0] * BLOCK), pairs)
    lanes = [k % 4 * BLOCK + k // 4 for k in range(4 * BLOCK)]
    code.store_bytes(code.shuffle(left, right, lanes), out, at)


@_intrinsic(_ARRAY, _INT, _ARRAY, _ARRAY, _ARRAY, _INT)
def split_pixels(
    code: _Code, pixels: Any, first: Any, reds: Any, greens: Any, blues: Any, at: Any
) -> None:
    """16 neighbouring uint8 pixels of three into three lines of floats, each from ``at`` on."""
    values = code.load_bytes(pixels, first, 3 * BLOCK)
    for channel, line in enumerate((reds, greens, blues)):
        own = code.pick(values, list(range(channel, 3 * BLOCK, 3)))
        code.store(code.builder.uitofp(own, ir.VectorType(_F32, BLOCK)), line, at)


@_intrinsic(_ARRAY, _ARRAY, _ARRAY, _INT, _ARRAY)
def mix_pixels(code: _Code, reds: Any, greens: Any, blues: Any, at: Any, color: Any) -> None:
    """16 pixels of three float lines through a 3x3 matrix, in place: clamped and rounded."""
    kind = ir.VectorType(_F32, BLOCK)
    rint = cgutils.get_or_insert_function(
        code.builder.module, ir.FunctionType(kind, [kind]), f"llvm.rint.v{BLOCK}f32"
    )
    lines = (reds, greens, blues)
    pixels = [code.load(line, at, BLOCK) for line in lines]
    for number, line in enumerate(lines):
        total = code.constant(0.0, BLOCK)
        for channel, values in enumerate(pixels):
            weight = code.scalar(color, _I64(3 * number + channel))
            total = code.multiply_add(values, code.splat(weight, BLOCK), total)
        code.store(code.builder.call(rint, [code.clamp(total, 0.0, 255.0)]), line, at)


@_intrinsic(_ARRAY, _ARRAY, _ARRAY, _ARRAY, _INT, _ARRAY)
def convolve(code: _Code, up: Any, here: Any, down: Any, stencil: Any, at: Any, out: Any) -> None:
    """``out[at:at + 16]`` = four float pixels through a 3x3 stencil, clamped to 0..255.

    ``at`` is the same place in the row above, this row and the row below.
    """
    total = code.constant(0.0, BLOCK)
    for number, line in enumerate((up, here, down)):
        for tap in range(3):
            weight = code.scalar(stencil, _I64(3 * number + tap))
            pixels = code.load(line, code.offset(at, 4 * tap - 4), BLOCK)
            total = code.multiply_add(pixels, code.splat(weight, BLOCK), total)
    code.store(code.clamp(total, 0.0, 255.0), out, at)
