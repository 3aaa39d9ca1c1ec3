"""What the kernels of window attention share: which pixels a window's tokens are, how their rows are read and written,
bias and mask from indices, and products of products. Letters as in triton.py.
"""

import triton
import triton.language as tl

from models.ops.common.products import INTERPRETED, split

MASKED = tl.constexpr(-100.0)  # official


@triton.jit
def left_side(x, M: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr):
    """x [M, N], a result, as the left side of a product: split, columns 2c + j of every eight renumbered 4j + c."""
    if PRECISION == "tf32x3" or PRECISION == "tf32":
        x = tl.reshape(tl.permute(tl.reshape(x, [M, N // 8, 4, 2]), [0, 1, 3, 2]), [M, N])
    return split(x, PRECISION)


@triton.jit
def right_side(x, N: tl.constexpr, P: tl.constexpr, PRECISION: tl.constexpr):
    """A pair of `split`, [N, P], as the right side of a product with `left_side`: its rows renumbered alike."""
    if PRECISION == "tf32x3" or PRECISION == "tf32":
        high = tl.reshape(tl.permute(tl.reshape(x[0], [N // 8, 4, 2, P]), [0, 2, 1, 3]), [N, P])
        low = tl.reshape(tl.permute(tl.reshape(x[1], [N // 8, 4, 2, P]), [0, 2, 1, 3]), [N, P])
        return high, low
    else:
        return x


@triton.jit
def lookup(pointers, step):
    """tl.load(pointers) as an elementwise operation, which takes the layout of the products around it.

    `step` is not read: it changes from step to step, which keeps the compiler from loading everything beforehand.
    """
    if INTERPRETED:
        return tl.load(pointers)
    else:
        return tl.inline_asm_elementwise(
            "ld.global.nc.f32 $0, [$1];", "=f,l,r", [pointers.to(tl.int64), step], tl.float32, is_pure=True, pack=1
        )


@triton.jit
def find_window(index, height, width, SHIFT: tl.constexpr, W: tl.constexpr):
    """Window `index`: (first pixel of its image, y and x of its corner, is in the last row, is in the last column)."""
    columns = width // W
    rows = height // W
    x = index % columns
    y = index // columns % rows
    first = (index // columns // rows).to(tl.int64) * height * width
    last_y = (y == rows - 1) & (SHIFT > 0)
    last_x = (x == columns - 1) & (SHIFT > 0)
    return first, y * W + SHIFT, x * W + SHIFT, last_y, last_x


@triton.jit
def pixels_of(tokens, window, height, width, W: tl.constexpr, WIDE: tl.constexpr):
    """Numbers of tokens' pixels in their image: counted from the window's corner, round its borders."""
    _, y, x, _, _ = window
    y = y + tokens // W
    x = x + tokens % W
    y = tl.where(y >= height, y - height, y)
    x = tl.where(x >= width, x - width, x)
    if WIDE:
        return y.to(tl.int64) * width + x
    else:
        return y * width + x


@triton.jit
def read_rows(pointer, pixels, STRIDE: tl.constexpr, D: tl.constexpr, P: tl.constexpr, padding):
    """[len(pixels), P]: D values of every pixel, then padding."""
    d = tl.arange(0, P)[None, :]
    return tl.load(pointer + (pixels[:, None] * STRIDE + d), mask=d < D, other=padding)


@triton.jit
def scale_rows(x, factors):
    """Rows of x, each times its factor, in the type of x."""
    return (x * factors[:, None]).to(x.dtype)


@triton.jit
def store_rows(pointer, pixels, values, STRIDE: tl.constexpr, D: tl.constexpr, P: tl.constexpr):
    d = tl.arange(0, P)[None, :]
    tl.store(pointer + (pixels[:, None] * STRIDE + d), values.to(pointer.dtype.element_ty), mask=d < D)


@triton.jit
def offset_of(tokens, W: tl.constexpr):
    """Row of the table for (query, key) = offset_of(query) - offset_of(key) + the table's middle, 2 w (w - 1)."""
    return tokens // W * (2 * W - 1) + tokens % W


@triton.jit
def regions_of(tokens, window, SHIFT: tl.constexpr, W: tl.constexpr):
    """0 to 3: whether tokens came round from the other border, by rows and by columns."""
    _, _, _, last_y, last_x = window
    return (last_y & (tokens // W >= W - SHIFT)) * 2 + (last_x & (tokens % W >= W - SHIFT))


@triton.jit
def mask_scores(x, rows, columns, window, SHIFT: tl.constexpr, W: tl.constexpr, BRANCH: tl.constexpr):
    """x [rows, columns] with -100 between regions; BRANCH: skips windows that have only one."""
    if SHIFT > 0:  # noqa: SIM102 known when compiling, the other is not
        if not BRANCH or (window[3] | window[4]):
            apart = regions_of(rows, window, SHIFT, W)[:, None] != regions_of(columns, window, SHIFT, W)[None, :]
            x = tl.where(apart, x + MASKED, x)
    return x
