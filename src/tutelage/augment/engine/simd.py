"""Four-lane arithmetic for ``kernel``: LLVM vector code that its auto-vectoriser does not find.

A pixel is four neighbouring values (three colours and one that is not read), so that one vector
instruction serves a whole pixel. Each function here is a few vector instructions inside a scalar
loop; offsets are in elements of the flattened arrays, which must be contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_FAST = ["contract", "reassoc", "nsz"]


class _Code:
    """Shorthand for the vector code of one intrinsic."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.builder, self.context = builder, context
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

    def store_levels(self, value: Any, data: Any, offset: Any) -> None:
        """Floats as the nearest uint8 values."""
        lanes = value.type.count
        rounded = self.builder.fadd(value, self.constant(0.5, lanes))
        whole = self.builder.fptoui(rounded, ir.VectorType(_I8, lanes))
        self.store_bytes(whole, data, offset)

    def clamp(self, value: Any, low: float, high: float) -> Any:
        """Values between two numbers: interpolation may leave them by a rounding error."""
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
        first = self.builder.insert_element(empty, value, _I32(0))
        return self.builder.shuffle_vector(first, empty, self._mask([0] * lanes))

    def pick(self, value: Any, lanes: list[int]) -> Any:
        empty = ir.Constant(value.type, ir.Undefined)
        return self.builder.shuffle_vector(value, empty, self._mask(lanes))

    def lerp(self, start: Any, end: Any, part: Any) -> Any:
        b = self.builder
        return b.fadd(
            start, b.fmul(part, b.fsub(end, start, flags=_FAST), flags=_FAST), flags=_FAST
        )

    def multiply_add(self, value: Any, factor: Any, term: Any) -> Any:
        b = self.builder
        return b.fadd(b.fmul(value, factor, flags=_FAST), term, flags=_FAST)

    def offset(self, base: Any, more: int) -> Any:
        return self.builder.add(base, _I64(more))

    @staticmethod
    def _mask(lanes: list[int]) -> Any:
        return ir.Constant(ir.VectorType(_I32, len(lanes)), lanes)


@intrinsic
def bilinear(
    typing: Any, pixels: Any, upper: Any, lower: Any, across: Any, down: Any, out: Any, at: Any
) -> Any:
    """``out[at:at + 4]`` = the pixel between four neighbours.

    ``pixels`` holds uint8; the left two are at ``upper`` and ``lower``, the right two follow them.
    """
    signature = types.void(
        pixels, types.int64, types.int64, types.float32, types.float32, out, types.int64
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, signature, arguments)
        pixels, upper, lower, across, down, out, at = code.arguments
        pair = code.lerp(
            code.levels(pixels, upper, 8), code.levels(pixels, lower, 8), code.splat(down, 8)
        )
        left, right = code.pick(pair, [0, 1, 2, 3]), code.pick(pair, [4, 5, 6, 7])
        code.store(code.lerp(left, right, code.splat(across, 4)), out, at)
        return context.get_dummy_value()

    return signature, generate


def _taps(count: int) -> Callable[..., None]:
    @intrinsic
    def weighted(
        typing: Any, line: Any, first: Any, weights: Any, start: Any, out: Any, at: Any
    ) -> Any:
        """``out[at:at + 4]`` = the weighted sum of neighbouring pixels of a float line."""
        signature = types.void(line, types.int64, weights, types.int64, out, types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            code = _Code(context, builder, signature, arguments)
            line, first, weights, start, out, at = code.arguments
            total = code.constant(0.0, 4)
            for tap in range(count):
                pixel = code.load(line, code.offset(first, 4 * tap), 4)
                weight = code.splat(code.scalar(weights, code.offset(start, tap)), 4)
                total = code.multiply_add(pixel, weight, total)
            code.store(total, out, at)
            return context.get_dummy_value()

        return signature, generate

    result: Callable[..., None] = weighted
    return result


two_taps, three_taps, four_taps = _taps(2), _taps(3), _taps(4)


@intrinsic
def add_tap(typing: Any, line: Any, first: Any, weight: Any, out: Any, at: Any) -> Any:
    """``out[at:at + 4]`` += weight times the pixel of a float line."""
    signature = types.void(line, types.int64, types.float32, out, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, signature, arguments)
        line, first, weight, out, at = code.arguments
        total = code.multiply_add(
            code.load(line, first, 4), code.splat(weight, 4), code.load(out, at, 4)
        )
        code.store(total, out, at)
        return context.get_dummy_value()

    return signature, generate


BLOCK = 16  # pixels that ``take_channel`` moves at once


@intrinsic
def take_channel(
    typing: Any, line: Any, first: Any, factor: Any, term: Any, out: Any, at: Any
) -> Any:
    """``out[at:at + 16]`` = factor * every fourth value of a float line + term, float or uint8.

    The values are clamped to 0..255 first.
    """
    signature = types.void(line, types.int64, types.float32, types.float32, out, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, signature, arguments)
        line, first, factor, term, out, at = code.arguments
        pixels = code.load(line, first, 4 * BLOCK)
        values = code.clamp(code.pick(pixels, list(range(0, 4 * BLOCK, 4))), 0.0, 255.0)
        values = code.multiply_add(values, code.splat(factor, BLOCK), code.splat(term, BLOCK))
        whole = signature.args[4].dtype == types.uint8
        (code.store_levels if whole else code.store)(values, out, at)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def take_next(typing: Any, counter: Any) -> Any:
    """The counter (1,) int64 before this call adds one to it, whichever thread calls."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (counter,) = _Code(context, builder, signature, arguments).arguments
        return builder.atomic_rmw("add", counter, _I64(1), "monotonic")

    return types.int64(counter), generate


@intrinsic
def spread_pixels(typing: Any, pixels: Any, first: Any, out: Any, at: Any) -> Any:
    """``out[at:at + 64]`` = 16 neighbouring uint8 pixels of three, each followed by a zero."""
    signature = types.void(pixels, types.int64, out, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, signature, arguments)
        pixels, first, out, at = code.arguments
        values = code.load_bytes(pixels, first, 3 * BLOCK)
        zeros = ir.Constant(values.type, [0] * (3 * BLOCK))
        lanes = [3 * BLOCK if k % 4 == 3 else k // 4 * 3 + k % 4 for k in range(4 * BLOCK)]
        mask = ir.Constant(ir.VectorType(_I32, len(lanes)), lanes)
        code.store_bytes(builder.shuffle_vector(values, zeros, mask), out, at)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def join_pixels(
    typing: Any, reds: Any, greens: Any, blues: Any, first: Any, out: Any, at: Any
) -> Any:
    """``out[at:at + 64]`` = 16 uint8 pixels of whole floats from three lines, each with a zero."""
    signature = types.void(reds, greens, blues, types.int64, out, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, signature, arguments)
        *lines, first, out, at = code.arguments
        kind = ir.VectorType(_I8, BLOCK)
        red, green, blue = (builder.fptoui(code.load(x, first, BLOCK), kind) for x in lines)
        pairs = ir.Constant(ir.VectorType(_I32, 2 * BLOCK), list(range(2 * BLOCK)))
        zeros = ir.Constant(kind, [0] * BLOCK)
        left = builder.shuffle_vector(red, green, pairs)
        right = builder.shuffle_vector(blue, zeros, pairs)
        lanes = [k % 4 * BLOCK + k // 4 for k in range(4 * BLOCK)]
        mask = ir.Constant(ir.VectorType(_I32, 4 * BLOCK), lanes)
        code.store_bytes(builder.shuffle_vector(left, right, mask), out, at)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def split_pixels(
    typing: Any, pixels: Any, first: Any, reds: Any, greens: Any, blues: Any, at: Any
) -> Any:
    """Three lines of floats, each from ``at`` on, from 16 neighbouring uint8 pixels of three."""
    signature = types.void(pixels, types.int64, reds, greens, blues, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, signature, arguments)
        pixels, first, *lines, at = code.arguments
        values = code.load_bytes(pixels, first, 3 * BLOCK)
        for channel, line in enumerate(lines):
            own = code.pick(values, list(range(channel, 3 * BLOCK, 3)))
            code.store(builder.uitofp(own, ir.VectorType(_F32, BLOCK)), line, at)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def mix_pixels(typing: Any, reds: Any, greens: Any, blues: Any, at: Any, color: Any) -> Any:
    """16 pixels of three float lines through a 3x3 matrix, in place: clamped and rounded."""
    signature = types.void(reds, greens, blues, types.int64, color)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, signature, arguments)
        *lines, at, color = code.arguments
        kind = ir.VectorType(_F32, BLOCK)
        rint = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind]), f"llvm.rint.v{BLOCK}f32"
        )
        pixels = [code.load(line, at, BLOCK) for line in lines]
        for number, line in enumerate(lines):
            total = code.constant(0.0, BLOCK)
            for channel, values in enumerate(pixels):
                weight = code.scalar(color, _I64(3 * number + channel))
                total = code.multiply_add(values, code.splat(weight, BLOCK), total)
            code.store(builder.call(rint, [code.clamp(total, 0.0, 255.0)]), line, at)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def convolve(typing: Any, up: Any, here: Any, down: Any, stencil: Any, at: Any, out: Any) -> Any:
    """``out[at:at + 16]`` = four float pixels through a 3x3 stencil of lines, clamped to 0..255."""
    signature = types.void(up, here, down, stencil, types.int64, out)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, signature, arguments)
        *lines, stencil, at, out = code.arguments
        total = code.constant(0.0, BLOCK)
        for number, line in enumerate(lines):
            for tap in range(3):
                weight = code.scalar(stencil, _I64(3 * number + tap))
                pixels = code.load(line, code.offset(at, 4 * tap - 4), BLOCK)
                total = code.multiply_add(pixels, code.splat(weight, BLOCK), total)
        code.store(code.clamp(total, 0.0, 255.0), out, at)
        return context.get_dummy_value()

    return signature, generate
