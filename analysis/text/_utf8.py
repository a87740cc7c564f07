"""Reads UTF-8: characters one at a time, and bytes 64 at a time by LLVM instructions that numba does not expose.

LLVM lowers the 64-byte vector to the instructions of the CPU (AVX-512, AVX2, NEON), so this code is not specific to a
CPU.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_VECTOR = ir.VectorType(_BYTE, 64)
_U64 = np.uint64
_ONE, _CASE_BITS = _U64(1), _U64(0x4040404040404040)

CodeGenerator = tuple[Any, Callable[..., Any]]


def _load(context: Any, builder: Any, array_type: Any, array: Any, position: Any, loaded: Any) -> Any:
    """Load from byte `position` of a uint8 array."""
    data = context.make_array(array_type)(context, builder, array).data
    pointer = builder.bitcast(builder.gep(data, [position]), loaded.as_pointer())
    return builder.load(pointer, align=1)


def _splat(value: int) -> Any:
    return ir.Constant(_VECTOR, [value] * 64)


@intrinsic
def load_8_bytes(typing_context: Any, data: Any, position: Any) -> CodeGenerator:
    """`data[position : position + 8]` as one little-endian uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, position = arguments
        return _load(context, builder, signature.args[0], array, position, _WORD)

    return types.uint64(data, types.intp), generate


@intrinsic
def classify_64_bytes(typing_context: Any, data: Any, position: Any) -> CodeGenerator:
    """Bit masks of `data[position : position + 64]`, bit i for byte i: word characters [A-Za-z0-9_]; non-ASCII."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, position = arguments
        text = _load(context, builder, signature.args[0], array, position, _VECTOR)
        letter = builder.icmp_unsigned("<", builder.sub(builder.or_(text, _splat(0x20)), _splat(ord("a"))), _splat(26))
        digit = builder.icmp_unsigned("<", builder.sub(text, _splat(ord("0"))), _splat(10))
        underscore = builder.icmp_unsigned("==", text, _splat(ord("_")))
        word = builder.or_(builder.or_(letter, digit), underscore)
        not_ascii = builder.icmp_unsigned(">=", text, _splat(0x80))
        masks = [builder.bitcast(mask, _WORD) for mask in (word, not_ascii)]
        return context.make_tuple(builder, signature.return_type, masks)

    return types.UniTuple(types.uint64, 2)(data, types.intp), generate


@intrinsic
def count_trailing_zeros(typing_context: Any, value: Any) -> CodeGenerator:
    """Index of the lowest set bit of a uint64; 64 for zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def count_ones(typing_context: Any, value: Any) -> CodeGenerator:
    """Number of set bits of a uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@njit(cache=True, inline="always")
def lower_ascii(word: Any) -> Any:
    # Letters and the underscore have bit 0x40, digits do not. Bytes with this bit get 0x20, so "_" becomes 0x7f, which
    # is no other word character.
    return word | ((word & _CASE_BITS) >> _ONE)


@njit(cache=True)
def code_point_at(data: Any, position: Any) -> Any:
    """Code point at `position` of valid UTF-8, and its number of bytes."""
    first = np.int64(data[position])
    if first < 0x80:
        return first, 1
    second = np.int64(data[position + 1]) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, 2
    third = np.int64(data[position + 2]) & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, 3
    fourth = np.int64(data[position + 3]) & 0x3F
    return (first & 0x07) << 18 | second << 12 | third << 6 | fourth, 4


@njit(cache=True)
def utf8(code_point: Any) -> Any:
    """UTF-8 bytes of a code point as a little-endian uint64, and their number; "_" is 0x7f as in `lower_ascii`."""
    c = code_point
    if c < 0x80:
        return lower_ascii(_U64(c)), 1
    if c < 0x800:
        return _U64(0xC0 | c >> 6 | (0x80 | c & 0x3F) << 8), 2
    if c < 0x10000:
        return _U64(0xE0 | c >> 12 | (0x80 | c >> 6 & 0x3F) << 8 | (0x80 | c & 0x3F) << 16), 3
    tail = (0x80 | c >> 12 & 0x3F) << 8 | (0x80 | c >> 6 & 0x3F) << 16 | (0x80 | c & 0x3F) << 24
    return _U64(0xF0 | c >> 18 | tail), 4


@njit(nogil=True, cache=True)
def contextual_capitals(data: Any, offsets: Any) -> Any:
    """Find documents with capitals whose lower-case form a table cannot give.

    These are sigma (its lower-case form depends on its neighbours) and dotted I (its lower-case form has two
    characters).
    """
    found = np.zeros(offsets.size - 1, np.bool_)
    for document in range(offsets.size - 1):
        end = offsets[document + 1]
        for position in range(offsets[document], end, 64):
            _, other = classify_64_bytes(data, position)
            while other != 0:
                i = position + count_trailing_zeros(other)
                other &= other - _ONE
                if i + 1 < end:
                    first, second = data[i], data[i + 1]
                    found[document] |= (first == 0xCE and second == 0xA3) or (first == 0xC4 and second == 0xB0)
    return found
