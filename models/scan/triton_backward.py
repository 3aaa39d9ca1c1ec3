"""Triton kernels of the scan's gradients."""

import triton
import triton.language as tl

from models.scan.triton_tiles import (
    LANES,
    LN2,
    LOG2E,
    ROWS,
    STAGES,
    WIDTH,
    channels,
    column,
    existing,
    flip,
    kernel,
    lanes,
    parameter,
    pick,
    pixels_of,
    prompt_rows,
    put,
    softplus,
    state_offsets,
    steps_from,
)


@triton.jit
def _compose_split(decay, kept, new, next_decay, next_kept, next_new):
    """Two steps as one for a state in two parts: what is left of the state before, and what the step has added."""
    return decay * next_decay, next_decay * (kept + new) + next_kept, next_new


@triton.jit
def _compose_back(decay, decays, passed, own, next_decay, next_decays, next_passed, next_own):
    """The same in reverse: the gradient of a state is what the later step passed back, and what its output gives."""
    return next_decay, decays * decay * next_decays, next_decays * (decay * (passed + own)) + next_passed, next_own


@triton.jit
def _halve(tile, stage: tl.constexpr):
    """Adds pairs of values [LANES, ., 2] over pairs of lanes: one keeps the first of every pair, one the second."""
    first, second = tl.split(tile)
    lane = tl.arange(0, LANES)[:, None]
    odd = (lane >> stage) % 2 == 1
    given = tl.where(odd, first, second)
    return tl.where(odd, second, first) + tl.gather(given, tl.broadcast_to(lane ^ (1 << stage), given.shape), 0)


@triton.jit
def _sum_over_channels(dB, dC):
    """[LANES]: for w = lane % WIDTH, the sum over the chunk's lanes of row w // 2 of dB (w even) or of dC (odd).

    Every stage halves the number of values and adds two lanes; sums one by one would take four shuffles each, not one.
    """
    tile = _halve(tl.join(dB, dC), 0)
    for stage in tl.static_range(1, STAGES):
        tile = _halve(tl.reshape(tile, [LANES, ROWS >> stage, 2]), stage)
    return tl.reshape(tile, [LANES])


@kernel
def adjoint_kernel(
    u,
    delta,
    scaled_A,  # A log2 e [K, N, E]
    B,
    C,
    D,
    bias,
    order,
    table,
    classes,
    dy,
    ends,  # [B K, S, N, E], gradients of the states before the chunks, carried; None if there is one chunk
    saved,
    du,  # [B, K, L, E]
    ddelta,  # [B, K, L, E]
    dB,  # [channel blocks, B, K, L, N]
    dC,
    partial,  # [B, pairs of chunks, N + 2, K, E]: dA, dD, dbias of every program
    L,
    S,
    chunk,
    K,
    u_batch,
    delta_batch,
    delta_direction,
    B_batch,
    B_direction,
    C_batch,
    C_direction,
    dy_batch,
    dy_direction,
    E: tl.constexpr,
    N: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCKS: tl.constexpr,
    WHOLE: tl.constexpr,
    U_ROW: tl.constexpr,
    DELTA_ROW: tl.constexpr,
    B_ROW: tl.constexpr,
    C_ROW: tl.constexpr,
    DY_ROW: tl.constexpr,
):
    """All gradients, chunk by chunk from the end: ROWS steps forward from their saved state, then back."""
    sequence, b, k, pair, channel, index = lanes(S, K, E, BLOCKS)
    blocks, pairs = tl.cdiv(E, BLOCKS * WIDTH), tl.cdiv(S, LANES // WIDTH)
    block = (tl.program_id(0) % blocks).to(tl.int64)
    sequences = tl.num_programs(0) // (blocks * pairs)
    u += b * u_batch
    delta += b * delta_batch + k * delta_direction
    B += b * B_batch + k * B_direction
    C += b * C_batch + k * C_direction
    dy += b * dy_batch + k * dy_direction
    du += sequence * L * E
    ddelta += sequence * L * E
    dB += (block * sequences + sequence) * L * N
    dC += (block * sequences + sequence) * L * N
    if order is not None:
        order += sequence * L
    if classes is not None:
        classes += sequence * L
    lane = tl.arange(0, LANES)
    rows = tl.arange(0, ROWS)[None, :]
    ones = tl.full([LANES, ROWS], 1.0, tl.float32)
    zeros = tl.zeros([LANES, ROWS], tl.float32)
    grads = ()
    dAs = ()
    dDs = ()
    dbiases = ()
    for j in tl.static_range(BLOCKS):
        entering = tl.zeros([LANES, PADDED], tl.float32)
        if ends is not None:
            before_one = index + 1 < S
            offsets, mask = state_offsets(sequence * S + index + 1, j, channel, before_one, N, E, PADDED)
            entering = tl.load(ends + offsets, mask=mask, other=0.0)
        grads = grads + (entering,)
        dAs = dAs + (tl.zeros([LANES, PADDED], tl.float32),)
        dDs = dDs + (tl.zeros([LANES], tl.float32),)
        dbiases = dbiases + (tl.zeros([LANES], tl.float32),)

    for done in range(0, chunk, ROWS):
        first = index * chunk + chunk - ROWS - done
        steps, alive = steps_from(first, L, False)
        pixels = pixels_of(steps, order)
        u_rows = u + pixels * U_ROW + channel[:, None]
        delta_rows = delta + pixels * DELTA_ROW + channel[:, None]
        dy_rows = dy + pixels * DY_ROW + channel[:, None]
        B_rows = B + pixels * B_ROW
        C_rows = C + pixels * C_ROW
        prompts = prompt_rows(steps, table, classes, N)
        saved_row = saved + (sequence * tl.cdiv(L, ROWS) + first // ROWS) * (N * E) + channel
        xs = ()
        back_xs = ()
        inputs = ()
        dys = ()
        back_dys = ()
        dxs = ()  # by way of the decays, over ln 2
        dinputs = ()
        for j in tl.static_range(BLOCKS):
            offset = parameter(bias + k * E, j, channel, E)[:, None]
            x = tl.where(alive, softplus(channels(delta_rows, j, channel, E, WHOLE) + offset), 0.0)
            dy_j = tl.where(alive, channels(dy_rows, j, channel, E, WHOLE), 0.0)
            xs = xs + (x,)
            back_xs = back_xs + (flip(x),)
            inputs = inputs + (tl.where(alive, channels(u_rows, j, channel, E, WHOLE), 0.0) * x,)
            dys = dys + (dy_j,)
            back_dys = back_dys + (flip(dy_j),)
            dxs = dxs + (zeros,)
            dinputs = dinputs + (zeros,)
        dB_tile = tl.zeros([LANES, PADDED], tl.float32)  # of dC in every second lane
        for n in tl.static_range(N):
            b_n = tl.load(B_rows + n)
            c_n = column(C_rows, prompts, n)
            back_c = flip(c_n)
            new_grads = ()
            new_dAs = ()
            new_dxs = ()
            new_dinputs = ()
            dB_n = zeros
            dC_n = zeros
            for j in tl.static_range(BLOCKS):
                rate = parameter(scaled_A + (k * N + n) * E, j, channel, E)[:, None]
                decay = tl.exp2(xs[j] * rate)
                inside = (first < L) & (channel + j * WIDTH < E)
                state = tl.load(saved_row + n * E + j * WIDTH, mask=inside, other=0.0)
                kept = tl.where(rows == 0, decay * state[:, None], 0.0)
                new = inputs[j] * b_n
                kept = tl.associative_scan((decay, kept, new), 1, _compose_split)[1]
                dC_n += dys[j] * (kept + new)
                decay = tl.exp2(back_xs[j] * rate)  # the same registers, which the compiler finds
                passed = tl.where(rows == 0, pick(grads[j], n)[:, None], 0.0)
                own = back_dys[j] * back_c
                back = tl.associative_scan((decay, ones, passed, own), 1, _compose_back)[2] + own
                grad = flip(back)
                dexponent = grad * kept
                dB_n += grad * inputs[j]
                new_dxs = new_dxs + (dxs[j] + dexponent * rate,)
                new_dinputs = new_dinputs + (dinputs[j] + grad * b_n,)
                new_dAs = new_dAs + (put(dAs[j], n, pick(dAs[j], n) + tl.sum(dexponent * xs[j], 1)),)
                new_grads = new_grads + (put(grads[j], n, pick(decay * back, ROWS - 1)),)
            grads = new_grads
            dAs = new_dAs
            dxs = new_dxs
            dinputs = new_dinputs
            dB_tile = put(dB_tile, n, _sum_over_channels(dB_n, dC_n))

        step = first + lane % WIDTH // 2
        inside = step < L
        if order is not None:
            step = tl.load(order + step, mask=inside, other=0)
        n = tl.arange(0, PADDED)[None, :]
        at = step.to(tl.int64)[:, None] * N + n
        tl.store(dB + at, dB_tile, mask=(inside & (lane % 2 == 0))[:, None] & (n < N))
        tl.store(dC + at, dB_tile, mask=(inside & (lane % 2 == 1))[:, None] & (n < N))

        du_rows = du + pixels * E + channel[:, None]
        ddelta_rows = ddelta + pixels * E + channel[:, None]
        new_dDs = ()
        new_dbiases = ()
        for j in tl.static_range(BLOCKS):
            value = channels(u_rows, j, channel, E, WHOLE)
            z = channels(delta_rows, j, channel, E, WHOLE) + parameter(bias + k * E, j, channel, E)[:, None]
            skip = parameter(D + k * E, j, channel, E)[:, None]
            e = tl.exp2(tl.abs(z) * -LOG2E)
            slope = tl.where(z > 0, 1.0, e) / (1.0 + e)
            ddelta_j = (dinputs[j] * value + dxs[j] * LN2) * slope
            inside = existing(alive, j, channel, E, WHOLE)
            tl.store(du_rows + j * WIDTH, dinputs[j] * xs[j] + dys[j] * skip, mask=inside)
            tl.store(ddelta_rows + j * WIDTH, ddelta_j, mask=inside)
            new_dDs = new_dDs + (dDs[j] + tl.sum(dys[j] * value, 1),)
            new_dbiases = new_dbiases + (dbiases[j] + tl.sum(ddelta_j, 1),)
        dDs = new_dDs
        dbiases = new_dbiases

    partial += (b * pairs + pair) * ((N + 2) * K * E)
    partner = tl.broadcast_to((lane ^ WIDTH)[:, None], [LANES, PADDED])  # the other chunk
    n = tl.arange(0, PADDED)[None, :] ^ tl.program_id(1)
    for j in tl.static_range(BLOCKS):
        e = k * E + channel + j * WIDTH
        mask = (lane < WIDTH) & (channel + j * WIDTH < E)
        dA = dAs[j] + tl.gather(dAs[j], partner, 0)
        tl.store(partial + n * K * E + e[:, None], dA, mask=mask[:, None] & (n < N))
        tl.store(partial + N * K * E + e, dDs[j] + tl.gather(dDs[j], lane ^ WIDTH, 0), mask=mask)
        tl.store(partial + (N + 1) * K * E + e, dbiases[j] + tl.gather(dbiases[j], lane ^ WIDTH, 0), mask=mask)


@kernel
def collect_kernel(partial, dA, dD, dbias, count, KE, N: tl.constexpr, COUNT: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums partial [count, N + 2, K E] over its first axis into dA [K E, N], dD [K E] and dbias [K E]."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < (N + 2) * KE
    rows = tl.arange(0, COUNT)
    total = tl.zeros([COLUMNS], tl.float32)
    for first in range(0, count, COUNT):
        at = (first + rows).to(tl.int64)[:, None] * ((N + 2) * KE) + column[None, :]
        total += tl.sum(tl.load(partial + at, mask=(first + rows < count)[:, None] & inside[None, :], other=0.0), 0)
    n, e = column // KE, column % KE
    tl.store(dA + e * N + n, total, mask=inside & (n < N))
    tl.store(dD + e, total, mask=inside & (n == N))
    tl.store(dbias + e, total, mask=inside & (n == N + 1))
