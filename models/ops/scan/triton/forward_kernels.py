"""Triton kernels of the scan forward: every chunk from a zero state, the states that chunks leave, the chunks again.

The gradient of a state runs backward through the same recurrence: the backward pass uses the first two as well.
"""

import triton.language as tl

from models.ops.scan.triton.tiles import (
    BLOCK,
    LANES,
    LOG2E,
    PAIR,
    ROWS,
    border_offsets,
    compose,
    decay_rates,
    floats_of,
    kernel,
    lanes,
    parameter,
    pick,
    pixels_of,
    prompts_of,
    put,
    read_channels,
    read_states,
    saved_offsets,
    softplus,
    spread,
    tile_steps,
    write_channels,
    write_pair,
)


@kernel
def ends_kernel(
    v,  # u; dy if ADJOINT
    delta,
    A,
    M,  # B; C if ADJOINT
    bias,
    order,
    table,
    classes,
    ends,  # [B K, N, E, S]
    sums,  # [B K, E, S], of the step sizes
    L,
    S,
    chunk,
    K,
    v_batch,
    v_direction,
    delta_batch,
    delta_direction,
    M_batch,
    M_direction,
    E: tl.constexpr,
    N: tl.constexpr,
    PART: tl.constexpr,  # states at a time, a power of two
    V_ROW: tl.constexpr,
    DELTA_ROW: tl.constexpr,
    M_ROW: tl.constexpr,
    WIDE: tl.constexpr,  # offsets of 64 bits
    PAIRED: tl.constexpr,  # rows of channels lie on addresses of whole pairs
    ADJOINT: tl.constexpr,
):
    """State after the last step of every chunk when the one before its first is zero; backward in time if ADJOINT.

    Every step adds what is left of its input, 2^(rate times the steps' sizes in between): so the chunk can be read from
    the side where the state ends, and what the next kernel begins with is still in the cache.
    """
    parts = tl.cdiv(N, PART)
    sequence, b, k, group, block, index, channel = lanes(S, K, tl.cdiv(E, BLOCK) * parts)
    start = block % parts * PART
    channel += block // parts * BLOCK
    v += b * v_batch + k * v_direction
    delta += b * delta_batch + k * delta_direction
    M += b * M_batch + k * M_direction
    if order is not None:
        order += sequence * L
    if classes is not None:
        classes += sequence * L
    rates = ()
    offsets = ()
    states = ()
    totals = ()
    for j in tl.static_range(PAIR):
        rates = rates + (decay_rates(A, k, channel + j, start, N, E, PART),)
        offsets = offsets + (parameter(bias + k * E, channel + j, E),)
        states = states + (tl.zeros([LANES, PART], tl.float32),)
        totals = totals + (tl.zeros([LANES], tl.float32),)

    # what a tile needs is read while the one before is computed, its pixels one tile earlier still
    steps = tile_steps(index, chunk, 0, not ADJOINT)
    pixels, prompts = pixels_of(steps, L, order, WIDE), prompts_of(steps, L, classes, N)
    raw = read_channels(delta, pixels, channel, DELTA_ROW, E, PAIRED)
    values = read_channels(v, pixels, channel, V_ROW, E, PAIRED)
    m_tiles = read_states(M, pixels, table, prompts, start, M_ROW, N, PART)
    steps = tile_steps(index, chunk, ROWS, not ADJOINT)
    pixels, prompts = pixels_of(steps, L, order, WIDE), prompts_of(steps, L, classes, N)

    for done in range(0, chunk, ROWS):
        next_raw = read_channels(delta, pixels, channel, DELTA_ROW, E, PAIRED)
        next_values = read_channels(v, pixels, channel, V_ROW, E, PAIRED)
        next_m_tiles = read_states(M, pixels, table, prompts, start, M_ROW, N, PART)
        ahead = tile_steps(index, chunk, done + 2 * ROWS, not ADJOINT)
        pixels, prompts = pixels_of(ahead, L, order, WIDE), prompts_of(ahead, L, classes, N)

        alive = tile_steps(index, chunk, done, not ADJOINT) < L
        raw, values = floats_of(raw), floats_of(values)
        ways = ()  # from the inputs to the state, in sizes of steps; a step decays its own gradient, not its own input
        inputs = ()
        new_totals = ()
        for j in tl.static_range(PAIR):
            x = tl.where(alive, softplus(raw[j] + offsets[j]), 0.0)  # 0 keeps the state
            value = tl.where(alive, values[j], 0.0)
            inputs = inputs + (value if ADJOINT else value * x,)
            total = totals[j]
            way = x
            for r in tl.static_range(ROWS):
                further = total + pick(x, r)
                way = put(way, r, further if ADJOINT else total)
                total = further
            ways = ways + (way,)
            new_totals = new_totals + (total,)
        totals = new_totals
        for n in tl.static_range(min(N, PART)):
            m = spread(m_tiles, n)
            new_states = ()
            for j in tl.static_range(PAIR):
                left = tl.exp2(ways[j] * pick(rates[j], n)[:, None])
                new = inputs[j] * m
                state = pick(states[j], n)
                for r in tl.static_range(ROWS):
                    state += pick(left, r) * pick(new, r)
                new_states = new_states + (put(states[j], n, state),)
            states = new_states
        raw, values, m_tiles = next_raw, next_values, next_m_tiles

    for j in tl.static_range(PAIR):
        e = channel + j
        tl.store(sums + (sequence * E + e) * S + index, totals[j], mask=(index < S) & (e < E) & (start + 0 * e == 0))
        at, mask = border_offsets(sequence, index, S, e, start, N, E, PART)
        tl.store(ends + at, states[j], mask=mask)


@kernel
def carry_kernel(
    ends,  # [B K, N, E, S]: in, what a chunk leaves from a zero state; out, what it really leaves
    sums,  # [B K, E, S]
    A,
    count,  # B K N E
    S,
    K,
    E: tl.constexpr,
    N: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNKS: tl.constexpr,
    ADJOINT: tl.constexpr,
):
    """States that leave the chunks when the first is entered by zero (the last, if ADJOINT): a parallel prefix."""
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    sequence, n, e = column // (N * E), column // E % N, column % E
    inside = column < count
    rate = tl.load(A + (sequence % K * E + e) * N + n, mask=inside, other=0.0)[:, None] * LOG2E
    chunks = tl.arange(0, CHUNKS)[None, :]
    state = tl.zeros([COLUMNS], tl.float32)
    for first in range(0, S, CHUNKS):
        index = first + chunks
        mask = (index < S) & inside[:, None]
        index = S - 1 - index if ADJOINT else index
        left = ends + column[:, None] * S + index
        local = tl.load(left, mask=mask, other=0.0)
        total = tl.load(sums + (sequence * E + e)[:, None] * S + index, mask=mask, other=0.0)
        decay, local = tl.associative_scan((tl.exp2(total * rate), local), 1, compose)
        local = decay * state[:, None] + local
        tl.store(left, local, mask=mask)
        state = tl.sum(tl.where(chunks == CHUNKS - 1, local, 0.0), 1)


@kernel
def replay_kernel(
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
    ends,  # [B K, N, E, S], carried; None if there is one chunk
    y,  # [B, K, L, E]
    saved,  # [B K, L / ROWS, N, E], the states before every ROWS steps, or None
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
    E: tl.constexpr,
    N: tl.constexpr,
    PART: tl.constexpr,
    U_ROW: tl.constexpr,
    DELTA_ROW: tl.constexpr,
    B_ROW: tl.constexpr,
    C_ROW: tl.constexpr,
    WIDE: tl.constexpr,
    PAIRED: tl.constexpr,
):
    """The chunks from the states that really enter them; a second part of the states adds to what the first wrote."""
    sequence, b, k, group, block, index, channel = lanes(S, K, tl.cdiv(E, BLOCK))
    channel += block * BLOCK
    u += b * u_batch
    delta += b * delta_batch + k * delta_direction
    B += b * B_batch + k * B_direction
    C += b * C_batch + k * C_direction
    y += sequence * L * E
    if order is not None:
        order += sequence * L
    if classes is not None:
        classes += sequence * L
    rows = tl.arange(0, ROWS)[None, :]
    offsets = ()
    skips = ()
    for j in tl.static_range(PAIR):
        offsets = offsets + (parameter(bias + k * E, channel + j, E),)
        skips = skips + (parameter(D + k * E, channel + j, E),)

    for start in range(0, N, PART):
        rates = ()
        states = ()
        for j in tl.static_range(PAIR):
            rates = rates + (decay_rates(A, k, channel + j, start, N, E, PART),)
            entering = tl.zeros([LANES, PART], tl.float32)
            if ends is not None:
                at, mask = border_offsets(sequence, index - 1, S, channel + j, start, N, E, PART)
                entering = tl.load(ends + at, mask=mask, other=0.0)
            states = states + (entering,)

        steps = tile_steps(index, chunk, 0, False)
        pixels, prompts = pixels_of(steps, L, order, WIDE), prompts_of(steps, L, classes, N)
        raw = read_channels(delta, pixels, channel, DELTA_ROW, E, PAIRED)
        values = read_channels(u, pixels, channel, U_ROW, E, PAIRED)
        B_tiles = read_states(B, pixels, None, None, start, B_ROW, N, PART)
        C_tiles = read_states(C, pixels, table, prompts, start, C_ROW, N, PART)
        steps = tile_steps(index, chunk, ROWS, False)
        next_pixels, prompts = pixels_of(steps, L, order, WIDE), prompts_of(steps, L, classes, N)

        for done in range(0, chunk, ROWS):
            next_raw = read_channels(delta, next_pixels, channel, DELTA_ROW, E, PAIRED)
            next_values = read_channels(u, next_pixels, channel, U_ROW, E, PAIRED)
            next_B_tiles = read_states(B, next_pixels, None, None, start, B_ROW, N, PART)
            next_C_tiles = read_states(C, next_pixels, table, prompts, start, C_ROW, N, PART)
            ahead = tile_steps(index, chunk, done + 2 * ROWS, False)
            later_pixels, prompts = pixels_of(ahead, L, order, WIDE), prompts_of(ahead, L, classes, N)

            alive = tile_steps(index, chunk, done, False) < L
            raw, values = floats_of(raw), floats_of(values)
            xs = ()
            inputs = ()
            outputs = ()
            earlier = (0.0, 0.0)
            if N > PART:
                earlier = floats_of(read_channels(y, pixels, channel, E, E, PAIRED))
            if saved is not None:
                at, mask = saved_offsets(sequence, L, index * chunk + done, channel, start, N, E, PART)
                write_pair(saved + at, channel[:, None], states[0], states[1], mask, E, PAIRED)
            for j in tl.static_range(PAIR):
                x = tl.where(alive, softplus(raw[j] + offsets[j]), 0.0)
                value = tl.where(alive, values[j], 0.0)
                xs = xs + (x,)
                inputs = inputs + (value * x,)
                output = value * skips[j]
                if N > PART:
                    output = tl.where(start > 0, earlier[j], output)
                outputs = outputs + (output,)
            for n in tl.static_range(min(N, PART)):
                b_n, c_n = spread(B_tiles, n), spread(C_tiles, n)
                if N % PART != 0 and N > PART:
                    c_n = tl.where(start + n < N, c_n, 0.0)
                new_states = ()
                new_outputs = ()
                for j in tl.static_range(PAIR):
                    decay = tl.exp2(xs[j] * pick(rates[j], n)[:, None])
                    new = inputs[j] * b_n
                    new = tl.where(rows == 0, new + decay * pick(states[j], n)[:, None], new)
                    after = tl.associative_scan((decay, new), 1, compose)[1]
                    new_outputs = new_outputs + (outputs[j] + after * c_n,)
                    new_states = new_states + (put(states[j], n, pick(after, ROWS - 1)),)
                states = new_states
                outputs = new_outputs
            write_channels(y, pixels, channel, outputs[0], outputs[1], alive, E, PAIRED)
            raw, values, B_tiles, C_tiles = next_raw, next_values, next_B_tiles, next_C_tiles
            pixels, next_pixels = next_pixels, later_pixels
