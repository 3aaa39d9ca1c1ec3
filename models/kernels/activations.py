"""GELU in kernels, by the error function."""

import triton
import triton.language as tl


@triton.jit
def normal(z):
    """Distribution function of the standard normal distribution."""
    return 0.5 + 0.5 * tl.erf(z * 0.7071067811865476)


@triton.jit
def gelu_slope(z):
    """Derivative of GELU(z) = z normal(z)."""
    return normal(z) + z * tl.exp(-0.5 * z * z) * 0.3989422804014327
