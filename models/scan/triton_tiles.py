"""What the Triton kernels of the scan share: how lanes, steps and channels are laid out, and the recurrence in a tile.

A sequence of L steps is cut into S chunks of `chunk` steps. A program of one warp takes two neighbouring chunks and
BLOCKS times WIDTH channels: lane = (chunk, channel), and every lane runs through the steps of its chunk alone, with its
states in registers, ROWS steps at a time. Tiles are [LANES, ROWS], and a lane holds whole rows, so what runs along them
stays in registers; nothing but sums over channels crosses lanes.

Steps are 32-bit, offsets 64-bit. A decay is 2^(x A log2 e). Row strides are compile-time constants: cheap addresses.
"""

import inspect

import triton
import triton.language as tl

ROWS = tl.constexpr(8)
LANES = tl.constexpr(32)
WIDTH = tl.constexpr(16)  # channels side by side in a warp; 2 ROWS, so that a lane has one sum over channels to write
STAGES = tl.constexpr(4)  # log2 WIDTH
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


def kernel(function):
    """triton.jit that compiles once for all sizes: nothing is specialised on a run-time argument being 1 or even."""
    arguments = inspect.signature(function).parameters.values()
    return triton.jit(function, do_not_specialize=[a.name for a in arguments if a.annotation is not tl.constexpr])


@triton.jit
def compose(decay, state, next_decay, next_state):
    """Two steps as one: s -> decay s + state."""
    return decay * next_decay, next_decay * state + next_state


@triton.jit
def pick(tile, i: tl.constexpr):
    """Column i, free of charge: the compiler drops integer zeros from a sum, adding 0.0 would cost an instruction."""
    columns = tl.arange(0, tile.shape[1])[None, :]
    return tl.sum(tl.where(columns == i, tile.to(tl.int32, bitcast=True), 0), 1).to(tl.float32, bitcast=True)


@triton.jit
def put(tile, i: tl.constexpr, values):
    """The tile with another column i."""
    return tl.where(tl.arange(0, tile.shape[1])[None, :] == i, values[:, None], tile)


@triton.jit
def flip(tile):
    """The rows in reverse, a renaming of registers (a reverse scan would shuffle whole warps): bit by bit."""
    for _ in tl.static_range(STAGES - 1):
        even, odd = tl.split(tl.reshape(tile, [LANES, ROWS // 2, 2]))
        tile = tl.reshape(tl.permute(tl.join(odd, even), (0, 2, 1)), [LANES, ROWS])
    return tile


@triton.jit
def softplus(z):
    """log(1 + e^z). A polynomial keeps the relative accuracy that log(1 + .) loses for small results."""
    e = tl.exp2(tl.abs(z) * -LOG2E)
    p = -0.0031760570127516985
    p = p * e + 0.019542526453733444
    p = p * e - 0.056373611092567444
    p = p * e + 0.10543623566627502
    p = p * e - 0.1526966691017151
    p = p * e + 0.1966327428817749
    p = p * e - 0.24951615929603577
    p = p * e + 0.33329710364341736
    p = p * e - 0.49999892711639404
    p = p * e + 1.0
    return tl.maximum(z, 0.0) + p * e


@triton.jit
def lanes(S, K, E: tl.constexpr, BLOCKS: tl.constexpr):
    """(image and direction, image, direction, pair of chunks), and of every lane its first channel and its chunk."""
    program, blocks, pairs = tl.program_id(0), tl.cdiv(E, BLOCKS * WIDTH), tl.cdiv(S, LANES // WIDTH)
    pair = program // blocks % pairs
    sequence = program // blocks // pairs
    # program_id(1) is 0: xor hides from the compiler that channels lie side by side; it would give a lane several
    lane = tl.arange(0, LANES) ^ tl.program_id(1)
    channel = program % blocks * (BLOCKS * WIDTH) + lane % WIDTH  # neighbours share B and C
    b, k = (sequence // K).to(tl.int64), (sequence % K).to(tl.int64)
    return sequence.to(tl.int64), b, k, pair, channel, pair * (LANES // WIDTH) + lane // WIDTH


@triton.jit
def steps_from(first, L, DOWN: tl.constexpr):
    """ROWS steps of every lane from `first`, rows in reverse if DOWN; step 0 past the end, and which are inside."""
    rows = tl.arange(0, ROWS)[None, :]
    steps = (first[:, None] + (ROWS - 1 - rows if DOWN else rows)) ^ tl.program_id(
        1
    )  # hides that steps lie side by side
    return tl.where(steps < L, steps, 0), steps < L


@triton.jit
def pixels_of(steps, order):
    if order is not None:
        steps = tl.load(order + steps).to(tl.int32)
    return steps.to(tl.int64)


@triton.jit
def prompt_rows(steps, table, classes, N: tl.constexpr):
    """Pointers to the rows of the table that steps add to C; None without a table."""
    rows = None
    if table is not None:
        rows = table + tl.load(classes + steps).to(tl.int32) * N
    return rows


@triton.jit
def column(rows, prompts, n: tl.constexpr):
    """Column n of the rows, with the prompts' added."""
    values = tl.load(rows + n)
    if prompts is not None:
        values += tl.load(prompts + n)
    return values


@triton.jit
def channels(rows, j: tl.constexpr, channel, E: tl.constexpr, WHOLE: tl.constexpr):
    """Block j of the channels of the rows; zeros beyond the last channel."""
    if WHOLE:
        values = tl.load(rows + j * WIDTH)
    else:
        values = tl.load(rows + j * WIDTH, mask=(channel + j * WIDTH < E)[:, None], other=0.0)
    return values


@triton.jit
def existing(alive, j: tl.constexpr, channel, E: tl.constexpr, WHOLE: tl.constexpr):
    inside = alive
    if not WHOLE:
        inside = alive & (channel + j * WIDTH < E)[:, None]
    return inside


@triton.jit
def parameter(pointer, j: tl.constexpr, channel, E: tl.constexpr):
    """One value [LANES] for every channel of block j."""
    return tl.load(pointer + channel + j * WIDTH, mask=channel + j * WIDTH < E, other=0.0)


@triton.jit
def state_offsets(row, j: tl.constexpr, channel, exists, N: tl.constexpr, E: tl.constexpr, PADDED: tl.constexpr):
    """Where the states [rows, N, E] of a row are, for all n of block j, and which exist: tiles [LANES, PADDED]."""
    n = tl.arange(0, PADDED)[None, :] ^ tl.program_id(1)
    offsets = row[:, None] * (N * E) + n * E + channel[:, None] + j * WIDTH
    return offsets, (exists & (channel + j * WIDTH < E))[:, None] & (n < N)


@triton.jit
def decay_rates(A, k, channel, N: tl.constexpr, E: tl.constexpr, BLOCKS: tl.constexpr, PADDED: tl.constexpr):
    """A log2 e: a tile [LANES, PADDED] for every block of channels."""
    n = tl.arange(0, PADDED)[None, :] ^ tl.program_id(1)
    rates = ()
    for j in tl.static_range(BLOCKS):
        e = channel[:, None] + j * WIDTH
        rates = rates + (tl.load(A + (k * E + e) * N + n, mask=(e < E) & (n < N), other=0.0) * LOG2E,)
    return rates
