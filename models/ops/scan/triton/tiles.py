"""What the Triton kernels of the scan share: how lanes, steps and channels are laid out, and what they read.

A sequence of L steps is cut into S chunks of `chunk` steps. A program of one warp takes SHARE neighbouring chunks and a
block of WIDTH times PAIR channels: lane = (chunk, pair of channels), and every lane runs through the steps of its chunk
alone, with its states in registers, ROWS steps at a time. Tiles are [LANES, ROWS] and a lane holds whole rows, so what
runs along them stays in registers; only sums over channels, and B and C, which all channels share, cross lanes.

Tensors of channels, B and C may be float32 or bfloat16; everything is computed in float32. What is read ahead waits in
registers as it was read.

A decay is 2^(x A log2 e). Row strides are compile-time constants, which makes addresses cheap.
"""

import inspect

import triton
import triton.language as tl

from models.ops.common import checked_cache

checked_cache.install()

ROWS = tl.constexpr(4)
LANES = tl.constexpr(32)
WIDTH = tl.constexpr(8)  # lanes side by side
SHARE = tl.constexpr(4)  # LANES / WIDTH
PAIR = tl.constexpr(2)  # neighbouring channels of a lane, read as one word where addresses allow
BLOCK = tl.constexpr(16)  # WIDTH PAIR
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


def kernel(function):
    """triton.jit that compiles once for all sizes: nothing is specialised on a run-time argument being 1 or even."""
    arguments = inspect.signature(function).parameters.values()
    return triton.jit(function, do_not_specialize=[a.name for a in arguments if a.annotation is not tl.constexpr])


# The recurrence along the rows of a tile


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


# Who does what


@triton.jit
def lanes(S, K, blocks):
    """Of a program: image and direction, image, direction, its chunks, block. Of its lanes: chunk, channel in it."""
    program, groups = tl.program_id(0), tl.cdiv(S, SHARE)
    block = program % blocks  # neighbours share B and C
    group = program // blocks % groups
    sequence = program // blocks // groups
    lane = opaque(tl.arange(0, LANES))  # else the compiler would give a lane several of them
    b, k = (sequence // K).to(tl.int64), (sequence % K).to(tl.int64)
    return sequence.to(tl.int64), b, k, group, block, group * SHARE + lane // WIDTH, lane % WIDTH * PAIR


@triton.jit
def opaque(indices):
    """The same numbers (program_id(1) is 0), of which the compiler no longer knows that they lie side by side."""
    return indices ^ tl.program_id(1).to(indices.dtype)


@triton.jit
def tile_steps(chunk_index, chunk, done, BACK: tl.constexpr):
    """[LANES, ROWS]: the steps that follow the first `done` of every chunk, in reverse and from its end if BACK.

    Past the end of the chunk, where only what is read ahead points, those of its last tile.
    """
    done = tl.minimum(done, chunk - ROWS)
    rows = tl.arange(0, ROWS)[None, :]
    if BACK:
        steps = (chunk_index * chunk + chunk - 1 - done)[:, None] - rows
    else:
        steps = (chunk_index * chunk + done)[:, None] + rows
    return opaque(steps)


@triton.jit
def pixels_of(steps, L, order, WIDE: tl.constexpr):
    """Pixels of steps (any pixel past the end), in the type that offsets need: 32 bits save registers."""
    steps = tl.where(steps < L, steps, 0)
    if order is not None:
        steps = tl.load(order + steps)
    return steps.to(tl.int64) if WIDE else steps.to(tl.uint32)


@triton.jit
def prompts_of(steps, L, classes, N: tl.constexpr):
    """Where in the table the prompts of steps begin, in a tuple; an empty one without prompts."""
    offsets = ()
    if classes is not None:
        offsets = (tl.load(classes + tl.where(steps < L, steps, 0)).to(tl.uint32) * N,)
    return offsets


# Rows of channels: PAIR tiles


@triton.jit
def channel_rows(x, pixels, channel, ROW: tl.constexpr):
    return x + (pixels * ROW + channel.to(pixels.dtype)[:, None])


@triton.jit
def read_pair(pointers, channel, alive, E: tl.constexpr, PAIRED: tl.constexpr):
    """What is at the pointers of first channels and behind them, zero where not alive and beyond the last channel.

    A tuple for `floats_of`: the words of both channels if PAIRED, else the numbers of one and of the other.
    """
    if PAIRED:
        if (BLOCK - 1 + E) // BLOCK * BLOCK != E:  # BLOCK first: in the interpreter E is an int
            alive = alive & (channel < E)
        word: tl.constexpr = tl.int32 if pointers.dtype.element_ty == tl.bfloat16 else tl.int64
        read = (tl.load(pointers.to(tl.pointer_type(word), bitcast=True), mask=alive, other=0),)
    else:
        first = tl.load(pointers, mask=alive & (channel < E), other=0.0)
        second = tl.load(pointers + 1, mask=alive & (channel + 1 < E), other=0.0)
        read = (first, second)
    return read


@triton.jit
def floats_of(read):
    """The float32 tiles of both channels in what `read_pair` has read."""
    if read[0].dtype == tl.int64:
        first = read[0].to(tl.int32).to(tl.float32, bitcast=True)
        second = (read[0] >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    elif read[0].dtype == tl.int32:  # a bfloat16 is the upper half of a float32
        first = (read[0] << 16).to(tl.float32, bitcast=True)
        second = (read[0] & -65536).to(tl.float32, bitcast=True)
    else:
        first, second = read[0].to(tl.float32), read[1].to(tl.float32)
    return first, second


@triton.jit
def write_pair(pointers, channel, first, second, alive, E: tl.constexpr, PAIRED: tl.constexpr):
    """Writes two channels where they are alive and exist."""
    if PAIRED:
        if (BLOCK - 1 + E) // BLOCK * BLOCK != E:  # BLOCK first: in the interpreter E is an int
            alive = alive & (channel < E)
        number: tl.constexpr = pointers.dtype.element_ty
        bits: tl.constexpr = number.primitive_bitwidth
        one: tl.constexpr = tl.uint16 if bits == 16 else tl.uint32
        both: tl.constexpr = tl.uint32 if bits == 16 else tl.uint64
        low = first.to(number).to(one, bitcast=True).to(both)
        high = second.to(number).to(one, bitcast=True).to(both)
        tl.store(pointers.to(tl.pointer_type(both), bitcast=True), high << bits | low, mask=alive)
    else:
        tl.store(pointers, first, mask=alive & (channel < E))
        tl.store(pointers + 1, second, mask=alive & (channel + 1 < E))


@triton.jit
def read_channels(x, pixels, channel, ROW: tl.constexpr, E: tl.constexpr, PAIRED: tl.constexpr):
    """Rows of x, for `floats_of`."""
    return read_pair(channel_rows(x, pixels, channel, ROW), channel[:, None], pixels >= 0, E, PAIRED)


@triton.jit
def write_channels(x, pixels, channel, first, second, alive, E: tl.constexpr, PAIRED: tl.constexpr):
    """Writes the rows [E] of x that are alive."""
    write_pair(channel_rows(x, pixels, channel, E), channel[:, None], first, second, alive, E, PAIRED)


# B and C


@triton.jit
def read_states(M, pixels, table, prompts, start, ROW: tl.constexpr, N: tl.constexpr, PART: tl.constexpr):
    """Rows of B or C (with their prompts), states start .. start + PART: lane w of WIDTH has w, w + WIDTH, ..."""
    lane = opaque(tl.arange(0, LANES)) % WIDTH
    tiles = ()
    for q in tl.static_range((WIDTH - 1 + PART) // WIDTH):
        n = tl.minimum(start + (q * WIDTH + lane) % PART, N - 1)
        tile = tl.load(channel_rows(M, pixels, n, ROW))
        if table is not None:
            tile = tile.to(tl.float32) + tl.load(table + (prompts[0] + n.to(tl.uint32)[:, None]))
        tiles = tiles + (tile,)
    return tiles


@triton.jit
def spread(tiles, n: tl.constexpr):
    """State n of such rows, to all lanes of its chunk: [LANES, ROWS]."""
    at: tl.constexpr = n + 0 * WIDTH  # in the interpreter n is an int, which knows no constexpr on its right
    source = tl.arange(0, LANES) // WIDTH * WIDTH + at % WIDTH
    return tl.gather(tiles[at // WIDTH].to(tl.float32), tl.broadcast_to(source[:, None], [LANES, ROWS]), 0)


# Parameters and states of channels


@triton.jit
def parameter(pointer, channel, E: tl.constexpr):
    """One value for every channel, [LANES, 1]."""
    return tl.load(pointer + channel, mask=channel < E, other=0.0)[:, None]


@triton.jit
def decay_rates(A, k, channel, start, N: tl.constexpr, E: tl.constexpr, PART: tl.constexpr):
    """A log2 e, [LANES, PART]; 0 beyond the last state."""
    n = start + opaque(tl.arange(0, PART))[None, :]
    return tl.load(A + (k * E + channel)[:, None] * N + n, mask=(channel < E)[:, None] & (n < N), other=0.0) * LOG2E


@triton.jit
def saved_offsets(sequence, L, first, channel, start, N: tl.constexpr, E: tl.constexpr, PART: tl.constexpr):
    """Where the states before a tile are in [B K, L / ROWS, N, E], and which exist: [LANES, PART]."""
    n = start + tl.arange(0, PART)[None, :]
    row = sequence * tl.cdiv(L, ROWS) + first // ROWS
    offsets = row[:, None] * (N * E) + n * E + channel[:, None]
    return offsets, ((first < L) & (channel < E))[:, None] & (n < N)


@triton.jit
def border_offsets(sequence, chunk_index, S, channel, start, N: tl.constexpr, E: tl.constexpr, PART: tl.constexpr):
    """Where states at the borders of chunks are in [B K, N, E, S], and which exist: [LANES, PART]."""
    n = start + tl.arange(0, PART)[None, :]
    offsets = (sequence * (N * E) + n * E + channel[:, None]) * S + chunk_index[:, None]
    return offsets, ((chunk_index >= 0) & (chunk_index < S) & (channel < E))[:, None] & (n < N)
