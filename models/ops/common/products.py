"""Matrix products in kernels. A float32 one is made of three TF32 ones (3xTF32): x = high + low with 11 bits each, and
only low low is dropped."""

import os

import triton
import triton.language as tl

from models.ops.common import checked_cache

checked_cache.install()

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def _high(x):
    """x rounded to the 11 significant bits of TF32."""
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def split(x, PRODUCTS: tl.constexpr):
    """(high, low) for `dot`; low is read for tf32x3 only."""
    if PRODUCTS == "tf32x3":
        x = x.to(tl.float32)
        high = _high(x)
        return high, x - high
    elif PRODUCTS == "tf32":
        return _high(x.to(tl.float32)), x
    elif PRODUCTS == "bf16":
        y = x.to(tl.bfloat16)
        return y.to(tl.float32) if INTERPRETED else y, x  # the interpreter cannot multiply bfloat16
    else:
        return x, x


@triton.jit
def factor(x):
    """What `split` made and memory kept, for `dot`: the interpreter cannot multiply bfloat16."""
    return x.to(tl.float32) if INTERPRETED else x


@triton.jit
def dot(a, b, PRODUCTS: tl.constexpr):
    """a b for pairs of `split`, small terms first: tensor cores round every partial sum towards zero."""
    if PRODUCTS == "tf32x3":
        small = tl.dot(a[1], b[0], input_precision="tf32")
        small = tl.dot(a[0], b[1], small, input_precision="tf32")
        return tl.dot(a[0], b[0], small, input_precision="tf32")
    elif PRODUCTS == "tf32":
        return tl.dot(a[0], b[0], input_precision="tf32")
    else:
        return tl.dot(a[0], b[0], input_precision="ieee")


@triton.jit
def transposed(a):
    return tl.trans(a[0]), tl.trans(a[1])
