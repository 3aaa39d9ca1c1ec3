"""Triton kernels of the scan forward: every chunk from a zero state, the states that chunks leave, the chunks again.

The gradient of a state runs backward through the same recurrence: the backward pass uses the first two as well.
"""

import triton.language as tl

from models.scan.triton_tiles import (
    LANES,
    LOG2E,
    ROWS,
    WIDTH,
    channels,
    column,
    compose,
    decay_rates,
    existing,
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
    ends,  # [B K, S, N, E]
    sums,  # [B K, S, E], of the step sizes
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
    PADDED: tl.constexpr,  # N, to a power of two
    BLOCKS: tl.constexpr,
    WHOLE: tl.constexpr,  # E fills its blocks
    V_ROW: tl.constexpr,
    DELTA_ROW: tl.constexpr,
    M_ROW: tl.constexpr,
    ADJOINT: tl.constexpr,
):
    """State after the last step of every chunk when the one before its first is zero; backward in time if ADJOINT."""
    sequence, b, k, pair, channel, index = lanes(S, K, E, BLOCKS)
    v += b * v_batch + k * v_direction
    delta += b * delta_batch + k * delta_direction
    M += b * M_batch + k * M_direction
    if order is not None:
        order += sequence * L
    if classes is not None:
        classes += sequence * L
    rows = tl.arange(0, ROWS)[None, :]
    rates = decay_rates(A, k, channel, N, E, BLOCKS, PADDED)
    states = ()
    totals = ()
    for j in tl.static_range(BLOCKS):
        states = states + (tl.zeros([LANES, PADDED], tl.float32),)
        totals = totals + (tl.zeros([LANES], tl.float32),)

    for done in range(0, chunk, ROWS):
        steps, alive = steps_from(index * chunk + (chunk - ROWS - done if ADJOINT else done), L, ADJOINT)
        pixels = pixels_of(steps, order)
        v_rows = v + pixels * V_ROW + channel[:, None]
        delta_rows = delta + pixels * DELTA_ROW + channel[:, None]
        M_rows = M + pixels * M_ROW
        prompts = prompt_rows(steps, table, classes, N)
        xs = ()
        inputs = ()
        new_totals = ()
        for j in tl.static_range(BLOCKS):
            offset = parameter(bias + k * E, j, channel, E)[:, None]
            x = tl.where(alive, softplus(channels(delta_rows, j, channel, E, WHOLE) + offset), 0.0)
            value = tl.where(alive, channels(v_rows, j, channel, E, WHOLE), 0.0)
            xs = xs + (x,)
            inputs = inputs + (value if ADJOINT else value * x,)
            new_totals = new_totals + (totals[j] + tl.sum(x, 1),)
        totals = new_totals
        for n in tl.static_range(N):
            m = column(M_rows, prompts, n)
            new_states = ()
            for j in tl.static_range(BLOCKS):
                state = pick(states[j], n)[:, None]
                decay = tl.exp2(xs[j] * pick(rates[j], n)[:, None])
                new = inputs[j] * m
                if ADJOINT:
                    new = decay * tl.where(rows == 0, new + state, new)
                else:
                    new = tl.where(rows == 0, new + decay * state, new)
                after = tl.associative_scan((decay, new), 1, compose)[1]
                new_states = new_states + (put(states[j], n, pick(after, ROWS - 1)),)
            states = new_states

    row = sequence * S + index
    for j in tl.static_range(BLOCKS):
        inside = (index < S) & (channel + j * WIDTH < E)
        tl.store(sums + row * E + channel + j * WIDTH, totals[j], mask=inside)
        offsets, mask = state_offsets(row, j, channel, index < S, N, E, PADDED)
        tl.store(ends + offsets, states[j], mask=mask)


@kernel
def carry_kernel(
    ends,  # [B K, S, N, E]: in, what a chunk leaves from a zero state; out, what it really leaves
    sums,
    A,
    S,
    K,
    E: tl.constexpr,
    N: tl.constexpr,
    CHUNKS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILES: tl.constexpr,
    ADJOINT: tl.constexpr,
):
    """States that leave the chunks when the first is entered by zero (the last, if ADJOINT): a parallel prefix."""
    program, blocks = tl.program_id(0), tl.cdiv(N * E, COLUMNS)
    sequence = (program // blocks).to(tl.int64)
    column = program % blocks * COLUMNS + tl.arange(0, COLUMNS)
    n, e = column // E, column % E
    inside = column < N * E
    rate = tl.load(A + (sequence % K * E + e) * N + n, mask=inside, other=0.0) * LOG2E
    rows = tl.arange(0, CHUNKS)
    state = tl.zeros([COLUMNS], tl.float32)
    for tile in tl.static_range(TILES):
        index = tile * CHUNKS + rows
        mask = (index < S)[:, None] & inside[None, :]
        row = sequence * S + (S - 1 - index if ADJOINT else index)
        left = ends + row[:, None] * (N * E) + column[None, :]
        local = tl.load(left, mask=mask, other=0.0)
        total = tl.load(sums + row[:, None] * E + e[None, :], mask=mask, other=0.0)
        decay, local = tl.associative_scan((tl.exp2(total * rate[None, :]), local), 0, compose)
        local = decay * state[None, :] + local
        tl.store(left, local, mask=mask)
        if tile + 1 < TILES:
            state = tl.sum(tl.where(rows[:, None] == CHUNKS - 1, local, 0.0), 0)


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
    ends,  # [B K, S, N, E], carried; None if there is one chunk
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
    PADDED: tl.constexpr,
    BLOCKS: tl.constexpr,
    WHOLE: tl.constexpr,
    U_ROW: tl.constexpr,
    DELTA_ROW: tl.constexpr,
    B_ROW: tl.constexpr,
    C_ROW: tl.constexpr,
):
    """The chunks from the states that really enter them."""
    sequence, b, k, pair, channel, index = lanes(S, K, E, BLOCKS)
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
    rates = decay_rates(A, k, channel, N, E, BLOCKS, PADDED)
    states = ()
    for j in tl.static_range(BLOCKS):
        entering = tl.zeros([LANES, PADDED], tl.float32)
        if ends is not None:
            after_one = (index > 0) & (index < S)
            offsets, mask = state_offsets(sequence * S + index - 1, j, channel, after_one, N, E, PADDED)
            entering = tl.load(ends + offsets, mask=mask, other=0.0)
        states = states + (entering,)

    for done in range(0, chunk, ROWS):
        first = index * chunk + done
        if saved is not None:
            for j in tl.static_range(BLOCKS):
                row = sequence * tl.cdiv(L, ROWS) + first // ROWS
                offsets, mask = state_offsets(row, j, channel, first < L, N, E, PADDED)
                tl.store(saved + offsets, states[j], mask=mask)
        steps, alive = steps_from(first, L, False)
        pixels = pixels_of(steps, order)
        u_rows = u + pixels * U_ROW + channel[:, None]
        delta_rows = delta + pixels * DELTA_ROW + channel[:, None]
        B_rows = B + pixels * B_ROW
        C_rows = C + pixels * C_ROW
        prompts = prompt_rows(steps, table, classes, N)
        xs = ()
        inputs = ()
        ys = ()
        for j in tl.static_range(BLOCKS):
            offset = parameter(bias + k * E, j, channel, E)[:, None]
            x = tl.where(alive, softplus(channels(delta_rows, j, channel, E, WHOLE) + offset), 0.0)
            value = tl.where(alive, channels(u_rows, j, channel, E, WHOLE), 0.0)
            xs = xs + (x,)
            inputs = inputs + (value * x,)
            ys = ys + (value * parameter(D + k * E, j, channel, E)[:, None],)
        for n in tl.static_range(N):
            b_n = tl.load(B_rows + n)
            c_n = column(C_rows, prompts, n)
            new_states = ()
            new_ys = ()
            for j in tl.static_range(BLOCKS):
                decay = tl.exp2(xs[j] * pick(rates[j], n)[:, None])
                new = inputs[j] * b_n
                new = tl.where(rows == 0, new + decay * pick(states[j], n)[:, None], new)
                state = tl.associative_scan((decay, new), 1, compose)[1]
                new_ys = new_ys + (ys[j] + state * c_n,)
                new_states = new_states + (put(states[j], n, pick(state, ROWS - 1)),)
            ys = new_ys
            states = new_states
        y_rows = y + pixels * E + channel[:, None]
        for j in tl.static_range(BLOCKS):
            tl.store(y_rows + j * WIDTH, ys[j], mask=existing(alive, j, channel, E, WHOLE))
