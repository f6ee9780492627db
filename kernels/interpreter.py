"""Repairs of Triton's interpreter, which runs kernels on CPU tensors for tests (TRITON_INTERPRET=1; found with Triton 3.8).

1. It holds bfloat16 as 16-bit integers and then multiplies, adds and reduces those bits: garbage without an error; here such numbers are
   widened to float32 first, and results rounded back.
2. It cuts float32 off to bfloat16; here it rounds.
3. It runs a scan with a combine function of one's own element by element: here slice by slice along the axis, as fast as arrays allow.
4. It replaces the whole language anew for every call of a function inside a kernel, a third of the time: here only where that is not done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

BITS, WIDE = np.dtype(np.uint16), tl.float32
Handle = interpreter.TensorHandle


@cache
def install() -> None:
    """Replaces methods of the interpreter; once per process."""
    builder = interpreter.InterpreterBuilder
    _repair_arithmetic(builder)
    _repair_casts(builder)
    for operation in (interpreter.ReduceOps, interpreter.ScanOps):
        operation.apply_impl = _widened(operation.apply_impl)
    interpreter.ScanOps.generic_scan = _scan
    patch = interpreter._patch_lang
    interpreter._patch_lang = lambda function: patch(function) if _is_unpatched(function) else interpreter._LangPatchScope()


def _is_unpatched(function: Any) -> bool:
    """Whether a module of the language that a function sees still has its compiled form. A launch restores what it has replaced in the
    kernel's own module."""
    return any(tl.core.is_builtin(value.load) for value in function.__globals__.values() if value is tl or value is tl.core)


def _is_bits(handle: Any) -> bool:
    return handle.dtype.scalar == tl.bfloat16 and handle.data.dtype == BITS


def widen(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as bits → float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(values: np.ndarray) -> np.ndarray:
    """float32 → bfloat16 as bits, to the nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).reshape(np.shape(values))


def _wide(handle: Any) -> Any:
    return Handle(widen(handle.data), WIDE) if _is_bits(handle) else handle


def _narrow(values: np.ndarray) -> Any:
    return Handle(narrow(values), tl.bfloat16)


def _repair_arithmetic(builder: Any) -> None:
    binary, unary, dot = builder.binary_op, builder.unary_op, builder.create_dot

    def binary_op(self: Any, lhs: Any, rhs: Any, op: Callable) -> Any:
        if not (_is_bits(lhs) and _is_bits(rhs)):
            return binary(self, lhs, rhs, op)
        result = op(widen(lhs.data), widen(rhs.data))
        return Handle(result, tl.int1) if result.dtype == bool else _narrow(result)

    def unary_op(self: Any, argument: Any, op: Callable) -> Any:
        return _narrow(op(widen(argument.data))) if _is_bits(argument) else unary(self, argument, op)

    def create_dot(self: Any, a: Any, b: Any, accumulator: Any, *rest: Any) -> Any:
        result = dot(self, _wide(a), _wide(b), _wide(accumulator), *rest)
        return _narrow(result.data) if _is_bits(accumulator) else result

    builder.binary_op, builder.unary_op, builder.create_dot = binary_op, unary_op, create_dot


def _repair_casts(builder: Any) -> None:
    cast = builder.cast_impl

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        scalar = target.scalar
        if _is_bits(source) and scalar not in (tl.bfloat16, WIDE):
            return cast(self, _wide(source), target)
        if scalar == tl.bfloat16 and not _is_bits(source):
            return _narrow(source.data.astype(np.float32))
        return cast(self, source, target)

    builder.cast_impl = cast_impl
    for name in ("create_si_to_fp", "create_ui_to_fp", "create_fp_to_si", "create_fp_to_ui", "create_fp_ext", "create_fp_trunc"):
        setattr(builder, name, lambda self, source, target, *_: self.cast_impl(source, target))


def _widened(original: Callable) -> Callable:
    """A reduction or scan that sees float32 where it was given bfloat16, and gives bfloat16 back."""

    def apply_impl(self: Any, given: Any) -> Any:
        tensors = given if isinstance(given, tuple) else (given,)
        bits = [_is_bits(tensor.handle) for tensor in tensors]
        if not any(bits):
            return original(self, given)
        wide = tuple(
            tl.tensor(_wide(tensor.handle), tl.block_type(WIDE, list(tensor.shape))) if flag else tensor
            for flag, tensor in zip(bits, tensors, strict=True)
        )
        results = original(self, wide if isinstance(given, tuple) else wide[0])
        found = list(results) if isinstance(results, (tuple, list)) else [results]
        for i, (flag, result) in enumerate(zip(bits, found, strict=True)):
            if flag and result.handle.data.dtype == np.float32:  # not the indices that argmax and its like add
                shape = list(np.shape(result.handle.data))
                found[i] = tl.tensor(_narrow(result.handle.data), tl.block_type(tl.bfloat16, shape) if shape else tl.bfloat16)
        return type(results)(found) if isinstance(results, (tuple, list)) else found[0]

    return apply_impl


def _scan(self: Any, given: Sequence[Any]) -> list[Any]:
    """Inclusive scan: one call of the combine function per slice along the axis."""
    data = [np.moveaxis(tensor.handle.data, self.axis, 0) for tensor in given]
    carried = tuple(self.to_tensor(values[0], tensor.dtype) for values, tensor in zip(data, given, strict=True))
    slices = [[_values(value)] for value in carried]
    for i in range(1, len(data[0])):
        here = (self.to_tensor(values[i], tensor.dtype) for values, tensor in zip(data, given, strict=True))
        result = self.combine_fn.fn(*carried, *here)
        carried = result if isinstance(result, tuple) else (result,)
        for kept, value in zip(slices, carried, strict=True):
            kept.append(_values(value))
    whole = (np.stack(kept).reshape(data[0].shape) for kept in slices)  # a slice of a vector is held as a vector of one
    return [self.to_tensor(np.moveaxis(values, 0, self.axis), tensor.dtype) for values, tensor in zip(whole, given, strict=True)]


def _values(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.handle.data)
