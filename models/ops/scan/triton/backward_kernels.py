"""Triton kernels of the scan's gradients."""

import triton
import triton.language as tl

from models.ops.scan.triton.tiles import (
    BLOCK,
    LANES,
    LN2,
    LOG2E,
    PAIR,
    ROWS,
    WIDTH,
    border_offsets,
    channel_rows,
    decay_rates,
    floats_of,
    kernel,
    lanes,
    opaque,
    parameter,
    pick,
    pixels_of,
    prompts_of,
    put,
    read_channels,
    read_pair,
    read_states,
    softplus,
    spread,
    tile_steps,
    write_channels,
)


@triton.jit
def _across(tile, distance: tl.constexpr):
    """The tile [LANES, .] of the lane that many lanes away, by exclusive or."""
    lane = tl.arange(0, LANES)[:, None]
    return tl.gather(tile, tl.broadcast_to(lane ^ distance, tile.shape), 0)


@triton.jit
def _halve(first, second, stage: tl.constexpr):
    """Sums of two tiles over pairs of lanes: one of a pair keeps the first, the other the second.

    After log2 WIDTH stages, lane w has the sum over WIDTH lanes of tile w, for about one shuffle a tile and row.
    """
    odd = (tl.arange(0, LANES)[:, None] >> stage) % 2 == 1
    return tl.where(odd, second, first) + _across(tl.where(odd, first, second), 1 << stage)


@triton.jit
def _add_rows(x, pixels, n, sums, alive, again, N: tl.constexpr):
    """Writes the sums of states n [LANES] to the rows of x that are alive, or adds them if an earlier block wrote."""
    mask = alive & (n < N)[:, None]
    rows = channel_rows(x, pixels, n, N)
    if again:
        sums += tl.load(rows, mask=mask, other=0.0)
    tl.store(rows, sums, mask=mask)


@triton.jit
def _sum_over_chunks(tile):
    """[LANES, .]: the sum over the chunks of a program, in every lane."""
    tile += _across(tile, WIDTH)
    return tile + _across(tile, 2 * WIDTH)


@kernel
def adjoint_kernel(
    u,
    delta,
    A,
    B,
    C,
    D,
    bias,
    order,
    table,
    classes,
    dy,
    ends,  # [B K, N, E, S], gradients of the states before the chunks, carried; None if there is one chunk
    saved,
    du,  # [B, K, L, E]
    ddelta,  # [B, K, L, E]
    dB,  # [teams, B, K, L, N]
    dC,
    partial,  # [B, groups of chunks, N + 2, K, E]: dA, dD, dbias of every program
    L,
    S,
    chunk,
    K,
    teams,  # of channel blocks: a program takes one block of a team after the other, and adds to dB and dC
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
    PART: tl.constexpr,
    U_ROW: tl.constexpr,
    DELTA_ROW: tl.constexpr,
    B_ROW: tl.constexpr,
    C_ROW: tl.constexpr,
    DY_ROW: tl.constexpr,
    WIDE: tl.constexpr,
    PAIRED: tl.constexpr,
):
    """All gradients, chunk by chunk from the end: ROWS steps forward from their saved state, then back."""
    sequence, b, k, group, team, index, first_channel = lanes(S, K, teams)
    groups = tl.cdiv(S, LANES // WIDTH)
    u += b * u_batch
    delta += b * delta_batch + k * delta_direction
    B += b * B_batch + k * B_direction
    C += b * C_batch + k * C_direction
    dy += b * dy_batch + k * dy_direction
    du += sequence * L * E
    ddelta += sequence * L * E
    partial += (b * groups + group) * ((N + 2) * K * E) + k * E
    sequences = tl.num_programs(0) // (teams * groups)
    dB += (team.to(tl.int64) * sequences + sequence) * L * N
    dC += (team.to(tl.int64) * sequences + sequence) * L * N
    if order is not None:
        order += sequence * L
    if classes is not None:
        classes += sequence * L
    lane = opaque(tl.arange(0, LANES))
    columns = opaque(tl.arange(0, PART))[None, :]
    zeros = tl.zeros([LANES, ROWS], tl.float32)

    for block in range(team, tl.cdiv(E, BLOCK), teams):
        channel = first_channel + block * BLOCK
        for start in range(0, N, PART):
            rates = ()
            offsets = ()
            skips = ()
            grads = ()
            dAs = ()
            dDs = ()
            dbiases = ()
            for j in tl.static_range(PAIR):
                rates = rates + (decay_rates(A, k, channel + j, start, N, E, PART),)
                offsets = offsets + (parameter(bias + k * E, channel + j, E),)
                skips = skips + (parameter(D + k * E, channel + j, E),)
                entering = tl.zeros([LANES, PART], tl.float32)
                if ends is not None:
                    at, mask = border_offsets(sequence, index + 1, S, channel + j, start, N, E, PART)
                    entering = tl.load(ends + at, mask=mask, other=0.0)
                grads = grads + (entering,)
                dAs = dAs + (tl.zeros([LANES, PART], tl.float32),)
                dDs = dDs + (tl.zeros([LANES], tl.float32),)
                dbiases = dbiases + (tl.zeros([LANES], tl.float32),)
            steps = tile_steps(index, chunk, chunk - ROWS, False)
            pixels, prompts = pixels_of(steps, L, order, WIDE), prompts_of(steps, L, classes, N)

            for left in range(0, chunk, ROWS):
                done = chunk - ROWS - left
                first = index * chunk + done
                raw = floats_of(read_channels(delta, pixels, channel, DELTA_ROW, E, PAIRED))
                values = floats_of(read_channels(u, pixels, channel, U_ROW, E, PAIRED))
                douts = floats_of(read_channels(dy, pixels, channel, DY_ROW, E, PAIRED))
                B_tiles = read_states(B, pixels, None, None, start, B_ROW, N, PART)
                C_tiles = read_states(C, pixels, table, prompts, start, C_ROW, N, PART)
                alive = tile_steps(index, chunk, done, False) < L
                xs = ()
                inputs = ()
                dys = ()
                dxs = ()  # by way of the decays, over ln 2
                dinputs = ()
                for j in tl.static_range(PAIR):
                    x = tl.where(alive, softplus(raw[j] + offsets[j]), 0.0)
                    out = tl.where(alive, douts[j], 0.0)
                    xs = xs + (x,)
                    inputs = inputs + (tl.where(alive, values[j], 0.0) * x,)
                    dys = dys + (out,)
                    dxs = dxs + (zeros,)
                    dinputs = dinputs + (zeros,)
                row = sequence * tl.cdiv(L, ROWS) + first // ROWS
                from_row = saved + row * (N * E) + start * E + channel
                entered = first < L
                for n in tl.static_range((WIDTH - 1 + PART) // WIDTH * WIDTH):
                    dB_n = zeros
                    dC_n = zeros
                    if n < min(N, PART):
                        states = floats_of(read_pair(from_row + n * E, channel, entered & (start + n < N), E, PAIRED))
                        b_n, c_n = spread(B_tiles, n), spread(C_tiles, n)
                        if N % PART != 0 and N > PART:
                            b_n = tl.where(start + n < N, b_n, 0.0)
                            c_n = tl.where(start + n < N, c_n, 0.0)
                        new_grads = ()
                        new_dAs = ()
                        new_dxs = ()
                        new_dinputs = ()
                        for j in tl.static_range(PAIR):
                            rate = pick(rates[j], n)
                            decay = tl.exp2(xs[j] * rate[:, None])
                            state = states[j]
                            kept = zeros  # of the states before, by row
                            after = zeros
                            for r in tl.static_range(ROWS):
                                left = pick(decay, r) * state
                                state = left + pick(inputs[j], r) * pick(b_n, r)
                                kept, after = put(kept, r, left), put(after, r, state)
                            passed = pick(grads[j], n)
                            grad = zeros
                            for r in tl.static_range(ROWS):
                                here = passed + pick(dys[j], ROWS - 1 - r) * pick(c_n, ROWS - 1 - r)
                                passed = pick(decay, ROWS - 1 - r) * here
                                grad = put(grad, ROWS - 1 - r, here)
                            dexponent = grad * kept
                            dB_n += grad * inputs[j]
                            dC_n += dys[j] * after
                            new_dxs = new_dxs + (dxs[j] + dexponent * rate[:, None],)
                            new_dinputs = new_dinputs + (dinputs[j] + grad * b_n,)
                            new_dAs = new_dAs + (put(dAs[j], n, pick(dAs[j], n) + tl.sum(dexponent * xs[j], 1)),)
                            new_grads = new_grads + (put(grads[j], n, passed),)
                        grads = new_grads
                        dAs = new_dAs
                        dxs = new_dxs
                        dinputs = new_dinputs
                    # sums over channels: two states at a time, then two such pairs, then two of those
                    if n % 2 == 0:
                        dB_1, dC_1 = dB_n, dC_n
                    else:
                        dB_n, dC_n = _halve(dB_1, dB_n, 0), _halve(dC_1, dC_n, 0)
                        if n % 4 == 1:
                            dB_2, dC_2 = dB_n, dC_n
                        else:
                            dB_n, dC_n = _halve(dB_2, dB_n, 1), _halve(dC_2, dC_n, 1)
                            if n % 8 == 3:
                                dB_4, dC_4 = dB_n, dC_n
                            else:
                                mine = start + n - 7 + lane % WIDTH
                                _add_rows(dB, pixels, mine, _halve(dB_4, dB_n, 2), alive, block != team, N)
                                _add_rows(dC, pixels, mine, _halve(dC_4, dC_n, 2), alive, block != team, N)

                pixels = opaque(pixels)  # else addresses would wait in registers
                raw = floats_of(read_channels(delta, pixels, channel, DELTA_ROW, E, PAIRED))
                values = floats_of(read_channels(u, pixels, channel, U_ROW, E, PAIRED))
                dus = ()
                ddeltas = ()
                new_dDs = ()
                new_dbiases = ()
                earlier_du = (0.0, 0.0)
                earlier_ddelta = (0.0, 0.0)
                if N > PART:
                    earlier_du = floats_of(read_channels(du, pixels, channel, E, E, PAIRED))
                    earlier_ddelta = floats_of(read_channels(ddelta, pixels, channel, E, E, PAIRED))
                for j in tl.static_range(PAIR):
                    z = raw[j] + offsets[j]
                    e = tl.exp2(tl.abs(z) * -LOG2E)
                    slope = tl.where(z > 0, 1.0, e) / (1.0 + e)
                    du_j = dinputs[j] * xs[j]
                    skipped = dys[j]
                    ddelta_j = (dinputs[j] * values[j] + dxs[j] * LN2) * slope
                    new_dbiases = new_dbiases + (dbiases[j] + tl.sum(ddelta_j, 1),)
                    if N > PART:
                        skipped = tl.where(start > 0, 0.0, skipped)
                        du_j += tl.where(start > 0, earlier_du[j], 0.0)
                        ddelta_j += tl.where(start > 0, earlier_ddelta[j], 0.0)
                    dus = dus + (du_j + skipped * skips[j],)
                    ddeltas = ddeltas + (ddelta_j,)
                    new_dDs = new_dDs + (dDs[j] + tl.sum(skipped * values[j], 1),)
                dDs = new_dDs
                dbiases = new_dbiases
                write_channels(du, pixels, channel, dus[0], dus[1], alive, E, PAIRED)
                write_channels(ddelta, pixels, channel, ddeltas[0], ddeltas[1], alive, E, PAIRED)
                steps = tile_steps(index, chunk, tl.maximum(done - ROWS, 0), False)
                pixels, prompts = pixels_of(steps, L, order, WIDE), prompts_of(steps, L, classes, N)

            for j in tl.static_range(PAIR):
                e = channel + j
                one = (lane < WIDTH) & (e < E)
                dA = _sum_over_chunks(dAs[j])
                tl.store(
                    partial + (start + columns) * K * E + e[:, None], dA, mask=one[:, None] & (start + columns < N)
                )
                dD = dDs[j]
                dbias = dbiases[j]
                if N > PART:
                    earlier = one & (start + 0 * lane > 0)
                    dD += tl.load(partial + N * K * E + e, mask=earlier, other=0.0)
                    dbias += tl.load(partial + (N + 1) * K * E + e, mask=earlier, other=0.0)
                dD, dbias = _sum_over_chunks(dD[:, None]), _sum_over_chunks(dbias[:, None])
                tl.store(partial + N * K * E + e[:, None], dD, mask=one[:, None])
                tl.store(partial + (N + 1) * K * E + e[:, None], dbias, mask=one[:, None])


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
