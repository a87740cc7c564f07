"""Four LLVM instructions that numba does not expose, for scanning text 64 bytes at a time.

LLVM lowers the 64-byte vector to the instructions of the CPU (AVX-512, AVX2, NEON), so this code is not specific to a
CPU.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_VECTOR = ir.VectorType(_BYTE, 64)

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
