"""Sixteen floats at once in Numba: LLVM's `<16 x float>` as a type with arithmetic, loads, stores and an exponential.

Left to itself Numba does not vectorise the blend loop; written in terms of this type it runs at the speed of C. LLVM
splits the vector where the machine's registers are shorter. This is the only file that knows about widths.
"""

import operator

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 16
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR, _INTS = ir.VectorType(_F32, WIDTH), ir.VectorType(_I32, WIDTH)


class Lanes(types.Type):
    """Sixteen float32 values in a register."""

    def __init__(self) -> None:
        super().__init__(name="Lanes16f32")


LANES = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):  # type: ignore[no-untyped-def]
        super().__init__(dmm, fe_type, _VECTOR)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [ir.Constant(_F32, value)] * WIDTH)


def _integers(value: int) -> ir.Constant:
    return ir.Constant(_INTS, [ir.Constant(_I32, value)] * WIDTH)


def _call(builder: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """A vector intrinsic of LLVM that takes and answers <16 x float>."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{WIDTH}f32")
    return builder.call(function, args)


def _mask(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """The low 16 bits of an i64 as <16 x i1>."""
    return builder.bitcast(builder.trunc(bits, ir.IntType(WIDTH)), ir.VectorType(ir.IntType(1), WIDTH))


def _bits(builder: ir.IRBuilder, mask: ir.Value) -> ir.Value:
    return builder.zext(builder.bitcast(mask, ir.IntType(WIDTH)), _I64)


def _pointer(context, builder, array_type, array, index) -> ir.Value:  # type: ignore[no-untyped-def]
    data = cgutils.create_struct_proxy(array_type)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


@intrinsic
def splat(typingctx, value):  # type: ignore[no-untyped-def]
    """All lanes equal to one float32."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        single = context.cast(builder, args[0], signature.args[0], types.float32)
        first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), single, ir.Constant(_I32, 0))
        zeros = ir.Constant(_INTS, [ir.Constant(_I32, 0)] * WIDTH)
        return builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), zeros)

    return LANES(value), codegen


@intrinsic
def load(typingctx, array, index):  # type: ignore[no-untyped-def]
    """Sixteen consecutive elements of a contiguous float32 array, from element `index` of its memory."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        where = context.cast(builder, args[1], signature.args[1], types.int64)
        pointer = _pointer(context, builder, signature.args[0], args[0], where)
        return builder.load(pointer, align=4)

    return LANES(array, index), codegen


@intrinsic
def store(typingctx, array, index, value):  # type: ignore[no-untyped-def]
    """Write sixteen consecutive elements of a contiguous float32 array."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        where = context.cast(builder, args[1], signature.args[1], types.int64)
        pointer = _pointer(context, builder, signature.args[0], args[0], where)
        builder.store(args[2], pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


@intrinsic
def fma(typingctx, a, b, c):  # type: ignore[no-untyped-def]
    """a * b + c; `fmuladd`, because `fma` calls the C library where the machine has no such instruction."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _call(builder, "fmuladd", *args)

    return LANES(a, b, c), codegen


def _binary(name: str):  # type: ignore[no-untyped-def]
    @intrinsic
    def function(typingctx, a, b):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return getattr(builder, name)(*args)

        return LANES(a, b), codegen

    return function


def _extreme(name: str):  # type: ignore[no-untyped-def]
    @intrinsic
    def function(typingctx, a, b):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            chosen = builder.fcmp_ordered("<" if name == "min" else ">", *args)
            return builder.select(chosen, *args)

        return LANES(a, b), codegen

    return function


_add, _sub, _mul, _div = _binary("fadd"), _binary("fsub"), _binary("fmul"), _binary("fdiv")
minimum, maximum = _extreme("min"), _extreme("max")


def _operator(python_operator, function):  # type: ignore[no-untyped-def]
    @overload(python_operator, inline="always")
    def chosen(a, b):  # type: ignore[no-untyped-def]
        if isinstance(a, Lanes) and isinstance(b, Lanes):
            return lambda a, b: function(a, b)
        return None


_operator(operator.add, _add)
_operator(operator.sub, _sub)
_operator(operator.mul, _mul)
_operator(operator.truediv, _div)


@intrinsic
def at_least(typingctx, a, b):  # type: ignore[no-untyped-def]
    """Bits (one per lane, int64) of a >= b."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _bits(builder, builder.fcmp_ordered(">=", *args))

    return types.int64(a, b), codegen


@intrinsic
def above(typingctx, a, b):  # type: ignore[no-untyped-def]
    """Bits (one per lane, int64) of a > b."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _bits(builder, builder.fcmp_ordered(">", *args))

    return types.int64(a, b), codegen


@intrinsic
def choose(typingctx, bits, a, b):  # type: ignore[no-untyped-def]
    """Lane by lane a where the bit is set, else b."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        wide = context.cast(builder, args[0], signature.args[0], types.int64)
        return builder.select(_mask(builder, wide), args[1], args[2])

    return LANES(bits, a, b), codegen


@intrinsic
def magnitude(typingctx, a):  # type: ignore[no-untyped-def]
    """|a|, lane by lane."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _call(builder, "fabs", args[0])

    return LANES(a), codegen


@intrinsic
def total(typingctx, a):  # type: ignore[no-untyped-def]
    """The sum of the lanes by a fixed tree, float32."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        value, width = args[0], WIDTH
        while width > 1:
            width //= 2
            low = ir.Constant(ir.VectorType(_I32, width), [ir.Constant(_I32, i) for i in range(width)])
            high = ir.Constant(ir.VectorType(_I32, width), [ir.Constant(_I32, i + width) for i in range(width)])
            undefined = ir.Constant(value.type, ir.Undefined)
            value = builder.fadd(
                builder.shuffle_vector(value, undefined, low), builder.shuffle_vector(value, undefined, high)
            )
        return builder.extract_element(value, ir.Constant(_I32, 0))

    return types.float32(a), codegen


def _exp2_coefficients() -> list[float]:
    """2^f on [-1/2, 1/2], degree 5, fitted to relative error at Chebyshev nodes (2e-7); highest power first."""
    f = 0.5 * np.cos(np.pi * (np.arange(200) + 0.5) / 200)
    weight = 2.0**-f
    powers = np.stack([f**k for k in range(5, -1, -1)], 1)
    return [float(v) for v in np.linalg.lstsq(powers * weight[:, None], np.ones(200), rcond=None)[0]]


_EXP2 = _exp2_coefficients()
_ROUND = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in the low bits


@intrinsic
def exp2_minus(typingctx, a):  # type: ignore[no-untyped-def]
    """2^(-a) for a in 0..120, relative error 3e-7."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        x = builder.fneg(args[0])
        shifted = builder.fadd(x, _constant(_ROUND))
        fraction = builder.fsub(x, builder.fsub(shifted, _constant(_ROUND)))
        power = _constant(_EXP2[0])
        for coefficient in _EXP2[1:]:
            power = _call(builder, "fmuladd", power, fraction, _constant(coefficient))
        exponent = builder.shl(builder.bitcast(shifted, _INTS), _integers(23))
        return builder.bitcast(builder.add(builder.bitcast(power, _INTS), exponent), _VECTOR)

    return LANES(a), codegen
