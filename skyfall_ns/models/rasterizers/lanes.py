"""Sixteen floats at once in Numba: LLVM's `<16 x float>` as a type with arithmetic, masks, loads, stores, exponential.

Left to itself Numba does not vectorise the blend loop; written in terms of these types it runs near the speed of C.
LLVM splits the vector where the machine's registers are shorter. Only this file and lanes_memory.py know about widths.
Numbers beside lanes stand for sixteen equal ones.
"""

# Numba types these calls, not Python.
# pyright: reportOptionalCall=false, reportAttributeAccessIssue=false

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import config, types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

WIDTH = 16
F32, _F64, _I1, I32, I64 = ir.FloatType(), ir.DoubleType(), ir.IntType(1), ir.IntType(32), ir.IntType(64)
VECTOR, INTS, _FLAGS = (ir.VectorType(kind, WIDTH) for kind in (F32, I32, _I1))
_FAST = ("contract", "nsz")  # a * b + c may become one instruction


class Lanes(types.Type):
    """Sixteen float32 values in a register."""

    def __init__(self) -> None:
        super().__init__(name="Lanes16f32")


class Mask(types.Type):
    """Sixteen truth values."""

    def __init__(self) -> None:
        super().__init__(name="Mask16")


LANES, MASK = Lanes(), Mask()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):  # type: ignore[no-untyped-def]
        super().__init__(dmm, fe_type, VECTOR)


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):  # type: ignore[no-untyped-def]
        super().__init__(dmm, fe_type, _FLAGS)


def constant(value: float) -> ir.Constant:
    return ir.Constant(VECTOR, [ir.Constant(F32, value)] * WIDTH)


def _integers(value: int) -> ir.Constant:
    return ir.Constant(INTS, [ir.Constant(I32, value)] * WIDTH)


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: list[int]) -> ir.Value:
    """Lanes of a, then of b, in a new order."""
    order = ir.Constant(ir.VectorType(I32, len(lanes)), [ir.Constant(I32, lane) for lane in lanes])
    return builder.shuffle_vector(a, b, order)


def _spread(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Sixteen copies of one number."""
    undefined = ir.Constant(ir.VectorType(value.type, WIDTH), ir.Undefined)
    return shuffle(builder, builder.insert_element(undefined, value, ir.Constant(I32, 0)), undefined, [0] * WIDTH)


def as_lanes(context: Any, builder: ir.IRBuilder, kind: types.Type, value: ir.Value) -> ir.Value:
    if kind == LANES:
        return value
    return _spread(builder, context.cast(builder, value, kind, types.float32))


def _call(builder: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """An LLVM intrinsic whose operands and result have one type."""
    kind = args[0].type
    letter = "f64" if kind.element == _F64 else "f32"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(args)), f"llvm.{name}.v{WIDTH}{letter}"
    )
    return builder.call(function, args)


def _function(build: Callable[..., ir.Value], parameters: int, result: types.Type = LANES) -> Any:
    """A Numba function of lanes (or numbers) from a builder of LLVM code; its doc string is the builder's."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        vectors = [as_lanes(context, builder, kind, value) for kind, value in zip(signature.args, args, strict=True)]
        return build(builder, *vectors)

    if parameters == 1:

        def typer(typingctx, a):  # type: ignore[no-untyped-def]
            return result(a), codegen
    elif parameters == 2:

        def typer(typingctx, a, b):  # type: ignore[no-untyped-def]
            return result(a, b), codegen
    else:

        def typer(typingctx, a, b, c):  # type: ignore[no-untyped-def]
            return result(a, b, c), codegen

    typer.__name__, typer.__doc__ = build.__name__, build.__doc__
    return intrinsic(typer)


def _operator(symbol: Any, build: Callable[..., ir.Value], result: types.Type = LANES) -> None:
    """Teach Numba a Python operator between lanes, or lanes and a number."""
    pairs = [(LANES, LANES), (LANES, types.float64), (types.float64, LANES)]

    class Template(ConcreteTemplate):
        cases = [signature(result, *pair) for pair in pairs]  # noqa: RUF012

    infer_global(symbol)(Template)
    for pair in pairs:

        @lower_builtin(symbol, *pair)
        def lower(context, builder, sig, args):  # type: ignore[no-untyped-def]
            return build(builder, *(as_lanes(context, builder, k, v) for k, v in zip(sig.args, args, strict=True)))


_operator(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=_FAST))
_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=_FAST))
_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=_FAST))
_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
for _symbol, _name in ((operator.ge, ">="), (operator.gt, ">"), (operator.le, "<="), (operator.lt, "<")):
    _operator(_symbol, lambda builder, a, b, _name=_name: builder.fcmp_ordered(_name, a, b), MASK)


@infer_global(operator.and_)
class _MaskAnd(ConcreteTemplate):
    cases = [signature(MASK, MASK, MASK)]  # noqa: RUF012


@lower_builtin(operator.and_, MASK, MASK)
def _lower_mask_and(context, builder, sig, args):  # type: ignore[no-untyped-def]
    return builder.and_(*args)


@infer_global(operator.neg)
class _LanesNegative(ConcreteTemplate):
    cases = [signature(LANES, LANES)]  # noqa: RUF012


@lower_builtin(operator.neg, LANES)
def _lower_negative(context, builder, sig, args):  # type: ignore[no-untyped-def]
    return builder.fneg(args[0])


def _splat(builder, a):  # type: ignore[no-untyped-def]
    """All lanes equal to one number."""
    return a


def _fma(builder, a, b, c):  # type: ignore[no-untyped-def]
    """a * b + c; `fmuladd`, because `fma` calls the C library where the machine has no such instruction."""
    return _call(builder, "fmuladd", a, b, c)


def _minimum(builder, a, b):  # type: ignore[no-untyped-def]
    """The lesser of two; b where a is not a number."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _maximum(builder, a, b):  # type: ignore[no-untyped-def]
    """The greater of two; b where a is not a number."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@cache
def _has_avx512() -> bool:
    """Whether the kernels' machine has AVX-512, from what was asked of Numba or else from this machine."""
    asked = f"{config.CPU_NAME or ''}{config.CPU_FEATURES or ''}"
    return "+avx512f" in asked if asked else bool(get_host_cpu_features().get("avx512f"))


def _quotient(builder, a, b):  # type: ignore[no-untyped-def]
    """a / b to float32 rounding, for b of ordinary size; a division takes as long as ten multiplications."""
    if not _has_avx512():
        return builder.fdiv(a, b)
    kind = ir.FunctionType(VECTOR, [VECTOR, VECTOR, ir.IntType(WIDTH)])
    estimate = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.rcp14.ps.512")
    inverse = builder.call(estimate, [b, b, ir.Constant(ir.IntType(WIDTH), -1)])
    inverse = builder.fmul(inverse, _call(builder, "fmuladd", builder.fneg(b), inverse, constant(2.0)))
    return builder.fmul(a, inverse)


def _below_zero(builder, a):  # type: ignore[no-untyped-def]
    """-|a|."""
    sign = builder.or_(builder.bitcast(a, INTS), _integers(0x80000000))
    return builder.bitcast(sign, VECTOR)


def _unary(name: str, description: str) -> Any:
    def build(builder, a):  # type: ignore[no-untyped-def]
        return _call(builder, name, a)

    build.__name__, build.__doc__ = name, description
    return _function(build, 1)


splat, fma, minimum, maximum = _function(_splat, 1), _function(_fma, 3), _function(_minimum, 2), _function(_maximum, 2)
quotient, below_zero = _function(_quotient, 2), _function(_below_zero, 1)
square_root, magnitude = _unary("sqrt", "The square root."), _unary("fabs", "|a|.")
floor, ceil = _unary("floor", "The integer at or below."), _unary("ceil", "The integer at or above.")


@intrinsic
def choose(typingctx, mask, a, b):  # type: ignore[no-untyped-def]
    """Lane by lane a where the mask is true, else b."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pair = (as_lanes(context, builder, k, v) for k, v in zip(signature.args[1:], args[1:], strict=True))
        return builder.select(args[0], *pair)

    return LANES(mask, a, b), codegen


@intrinsic
def bits_of(typingctx, mask):  # type: ignore[no-untyped-def]
    """A mask as the low sixteen bits of an int64."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.zext(builder.bitcast(args[0], ir.IntType(WIDTH)), I64)

    return types.int64(mask), codegen


@intrinsic
def mask_of(typingctx, bits):  # type: ignore[no-untyped-def]
    """The low sixteen bits of an integer as a mask."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        low = context.cast(builder, args[0], signature.args[0], types.uint16)
        return builder.bitcast(low, _FLAGS)

    return MASK(bits), codegen


@intrinsic
def affine(typingctx, a, b, c, d, x, y, z):  # type: ignore[no-untyped-def]
    """a x + b y + c z + d with float64 numbers and sums, rounded once at the end."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        wide = ir.VectorType(_F64, WIDTH)
        factors = [context.cast(builder, args[i], signature.args[i], types.float64) for i in range(4)]
        value = _spread(builder, factors[3])
        for factor, lanes in zip(factors[:3], args[4:], strict=True):
            value = _call(builder, "fmuladd", _spread(builder, factor), builder.fpext(lanes, wide), value)
        return builder.fptrunc(value, VECTOR)

    return LANES(a, b, c, d, x, y, z), codegen


@intrinsic
def lowest_bit(typingctx, word):  # type: ignore[no-untyped-def]
    """Place of the lowest 1 in a uint64 that is not zero."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(_I1, 1))

    return types.int64(word), codegen


@intrinsic
def count_bits(typingctx, word):  # type: ignore[no-untyped-def]
    """How many bits of a uint64 are 1."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.int64(word), codegen


def _exp2_coefficients() -> list[float]:
    """2^f on [-1/2, 1/2], degree 5, fitted to relative error at Chebyshev nodes (2e-7); highest power first."""
    f = 0.5 * np.cos(np.pi * (np.arange(200) + 0.5) / 200)
    weight = 2.0**-f
    powers = np.stack([f**k for k in range(5, -1, -1)], 1)
    return [float(v) for v in np.linalg.lstsq(powers * weight[:, None], np.ones(200), rcond=None)[0]]


_EXP2 = _exp2_coefficients()
_ROUND = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in the low bits


def _exp2_minus(builder, a):  # type: ignore[no-untyped-def]
    """2^(-a) for a in 0..120, relative error 3e-7; anything elsewhere."""
    shifted = builder.fsub(constant(_ROUND), a)
    fraction = builder.fadd(a, builder.fsub(shifted, constant(_ROUND)))  # of a: 2^-a = 2^(-whole) 2^(-fraction)
    power = constant(-_EXP2[0])
    for place, coefficient in enumerate(_EXP2[1:]):
        power = _call(builder, "fmuladd", power, fraction, constant(coefficient if place % 2 == 0 else -coefficient))
    exponent = builder.shl(builder.bitcast(shifted, INTS), _integers(23))
    return builder.bitcast(builder.add(builder.bitcast(power, INTS), exponent), VECTOR)


def _log2(builder, a):  # type: ignore[no-untyped-def]
    """log2(a) for positive normal a, absolute error 2e-7: exponent + series in (m - 1) / (m + 1), m in 0.7..1.42."""
    shifted = builder.sub(builder.bitcast(a, INTS), _integers(0x3F3504F3))  # bits of sqrt(1/2)
    exponent = builder.ashr(shifted, _integers(23))
    mantissa = builder.bitcast(builder.sub(builder.bitcast(a, INTS), builder.shl(exponent, _integers(23))), VECTOR)
    s = builder.fdiv(builder.fsub(mantissa, constant(1.0)), builder.fadd(mantissa, constant(1.0)))
    square = builder.fmul(s, s)
    series = constant(2.0 / (9.0 * np.log(2.0)))
    for odd in (7, 5, 3, 1):
        series = _call(builder, "fmuladd", series, square, constant(2.0 / (odd * np.log(2.0))))
    return _call(builder, "fmuladd", s, series, builder.sitofp(exponent, VECTOR))


exp2_minus, log2 = _function(_exp2_minus, 1), _function(_log2, 1)
