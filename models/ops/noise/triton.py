"""Philox Gumbel noise inside a kernel: the integers of reference.py, and its noise within two roundings."""

import triton
import triton.language as tl

from models.ops.common import checked_cache

checked_cache.install()

BELOW_ONE = tl.constexpr(1 - 2**-24)


@triton.jit
def log(x):
    """Natural logarithm of positive normal float32, within about one rounding; Triton's own is exact near 1 in absolute
    terms only, and the largest noise comes from u near 1."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23  # x = m 2^exponent with m in [sqrt(1/2), sqrt(2))
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    p = f * -0.07646104693412781 + 0.1277911514043808  # (log(1 + f) - f + f^2 / 2) / f^3, minimax of degree 7
    p = p * f - 0.13164186477661133
    p = p * f + 0.14199694991111755
    p = p * f - 0.16622765362262726
    p = p * f + 0.2000129222869873
    p = p * f - 0.25000837445259094
    p = p * f + 0.3333333134651184
    square = f * f
    return exponent.to(tl.float32) * 0.6931471805599453 + (f + square * (p * f - 0.5))


@triton.jit
def gumbel(n):
    """-log(-log u), u = (n + 1/2) / 2^32 rounded once to float32 and kept below one, for uint32 n."""
    # n + 1/2 is a float32 below 2^23 and one rounding away below 2^24; above, n is first moved to where float32 rounds
    # as it would round n + 1/2: odd numbers up where they lie half-way between two floats, else off the half-way points
    moved = tl.where(n < 0x2000000, n + (n & 1), n | 1)
    u = tl.where(n < 0x1000000, n.to(tl.float32) + 0.5, moved.to(tl.float32)) * 2.3283064365386963e-10
    return -log(-log(tl.minimum(u, BELOW_ONE)))


@triton.jit
def philox_gumbel(key, layer, pixel, T: tl.constexpr):
    """Noise [P, T] of pixels int32 [P] and classes 0..T-1 (T = 4, 8, 16, ...) for a key and a layer (int64)."""
    block = tl.arange(0, T // 4)[None, :]
    zero = tl.zeros([pixel.shape[0], T // 4], tl.uint32)
    c0, c1 = zero + pixel.to(tl.uint32)[:, None], zero + block.to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(key, c0, c1, zero + layer.to(tl.uint32), zero)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # [P, T / 4, 2, 2]: word 2 i + j of the block
    return gumbel(tl.reshape(words, [pixel.shape[0], T]))
