// The attentive selective scan, forward and backward; the equations are in models/scan/__init__.py.
//
// Channels lie side by side in memory, so a vector holds LANES channels of one pixel, and the recurrence runs over
// pixels with the states in registers. Work is cut into units of (image, direction, channels) that do not depend on the
// number of threads, and every sum has a fixed order: the same bits for any number of threads.
// The forward pass keeps the states every TILE steps; the backward pass computes those between again, tile by tile.

#include <algorithm>
#include <type_traits>

#include "vector.h"

namespace {

constexpr int TILE = 32;
constexpr int MAX_STATES = 64;
constexpr int BLOCK = 8;    // states held in registers at a time
constexpr int GROUPS = 16;  // at most so many partial sums of dB and dC
constexpr int PAD = 16;     // rows of states are padded to this many channels, whatever LANES is
constexpr float LN2 = 0.693147181f, LOG2E = 1.44269504f;

struct Problem {
    int64_t batch, directions, length, channels, states, classes_count;
    // strides in elements; the last dimension of everything is contiguous
    int64_t u_batch, u_row;
    int64_t delta_batch, delta_direction, delta_row;
    int64_t B_batch, B_direction, B_row;
    int64_t C_batch, C_direction, C_row;
    int64_t dy_batch, dy_direction, dy_row;
    const float *u, *delta, *A, *B, *C, *D, *bias, *table, *dy;
    const int64_t *order, *classes;  // [batch, directions, length] or null

    int64_t vectors() const { return (channels + LANES - 1) / LANES; }
    int64_t padded() const { return (channels + PAD - 1) / PAD * PAD; }
    int64_t tiles() const { return (length + TILE - 1) / TILE; }
};

// The rows that TILE steps read: pixels, B, and C with its prompt.
struct Rows {
    int count;
    int64_t pixel[TILE];
    const float *B[TILE], *C[TILE];
    float prompted[TILE][MAX_STATES];

    // False when an order or a class is out of range.
    bool fill(const Problem& p, int64_t b, int64_t k, int64_t first) {
        count = (int)std::min<int64_t>(TILE, p.length - first);
        const float* B0 = p.B + b * p.B_batch + k * p.B_direction;
        const float* C0 = p.C + b * p.C_batch + k * p.C_direction;
        const int64_t steps = (b * p.directions + k) * p.length + first;
        for (int t = 0; t < count; ++t) {
            int64_t q = p.order ? p.order[steps + t] : first + t;
            if ((uint64_t)q >= (uint64_t)p.length) return false;
            pixel[t] = q;
            B[t] = B0 + q * p.B_row;
            C[t] = C0 + q * p.C_row;
            if (!p.table) continue;
            int64_t c = p.classes[steps + t];
            if ((uint64_t)c >= (uint64_t)p.classes_count) return false;
            const float* prompt = p.table + c * p.states;
            for (int64_t n = 0; n < p.states; ++n) prompted[t][n] = C[t][n] + prompt[n];
            C[t] = prompted[t];
        }
        return true;
    }
};

// LANES channels of one direction: where they are, and their parameters.
struct Channels {
    int64_t first;
    int count;
    const float *u, *delta;
    vec bias, D, A[MAX_STATES];  // A in units of log 2

    Channels(const Problem& p, int64_t b, int64_t k, int64_t v)
        : first(v * LANES), count((int)std::min<int64_t>(LANES, p.channels - first)) {
        u = p.u + b * p.u_batch + first;
        delta = p.delta + b * p.delta_batch + k * p.delta_direction + first;
        const int64_t row = k * p.channels + first;
        bias = load(p.bias + row, count);
        D = load(p.D + row, count);
        for (int64_t n = 0; n < p.states; ++n) {
            A[n] = vec{};
            for (int i = 0; i < count; ++i) A[n][i] = p.A[(row + i) * p.states + n] * LOG2E;
        }
    }
};

// Calls f.template operator()<NB>(n) for blocks of NB states starting at n, until all are done.
template <class F>
INLINE void blocks(int states, F f) {
    int n = 0;
    for (; n + BLOCK <= states; n += BLOCK) f(std::integral_constant<int, BLOCK>(), n);
    if (n + 4 <= states) f(std::integral_constant<int, 4>(), n), n += 4;
    if (n + 2 <= states) f(std::integral_constant<int, 2>(), n), n += 2;
    if (n < states) f(std::integral_constant<int, 1>(), n);
}

template <int NB>
INLINE void forward_block(const Rows& rows, const vec* A, vec* state, const vec* x, const vec* xu, vec* y, int n0) {
    vec h[NB], a[NB];
    for (int n = 0; n < NB; ++n) h[n] = state[n0 + n], a[n] = A[n0 + n];
    for (int t = 0; t < rows.count; ++t) {
        const float *b = rows.B[t] + n0, *c = rows.C[t] + n0;
        vec sum = y[t];
        for (int n = 0; n < NB; ++n) {
            h[n] = exp2(x[t] * a[n]) * h[n] + xu[t] * b[n];
            sum += h[n] * c[n];
        }
        y[t] = sum;
    }
    for (int n = 0; n < NB; ++n) state[n0 + n] = h[n];
}

bool forward_unit(const Problem& p, int64_t b, int64_t k, int64_t v, float* y, float* saved) {
    const Channels ch(p, b, k, v);
    const int64_t bk = b * p.directions + k;
    float* out = y + bk * p.length * p.channels + ch.first;
    vec state[MAX_STATES] = {}, x[TILE], xu[TILE], ys[TILE];
    Rows rows;
    for (int64_t s = 0; s < p.tiles(); ++s) {
        if (!rows.fill(p, b, k, s * TILE)) return false;
        if (saved) {
            float* row = saved + (bk * p.tiles() + s) * p.states * p.padded() + ch.first;
            for (int64_t n = 0; n < p.states; ++n) store(row + n * p.padded(), state[n], LANES);
        }
        for (int t = 0; t < rows.count; ++t) {
            const vec raw = load(ch.delta + rows.pixel[t] * p.delta_row, ch.count) + ch.bias;
            const vec u = load(ch.u + rows.pixel[t] * p.u_row, ch.count);
            x[t] = softplus(raw, exp_minus_abs(raw));
            xu[t] = x[t] * u;
            ys[t] = ch.D * u;
        }
        blocks((int)p.states, [&](auto size, int n) { forward_block<size()>(rows, ch.A, state, x, xu, ys, n); });
        for (int t = 0; t < rows.count; ++t) store(out + rows.pixel[t] * p.channels, ys[t], ch.count);
    }
    return true;
}

// Sums over the lanes of M vectors, M a power of two: lane i of the result is the sum of vector i modulo M, and for
// M < LANES of a part of its lanes only, until fold() adds those parts.
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

INLINE vec pair(vec a, vec b, int stage) {
#if defined(__AVX512F__)
    switch (stage) {
        case 0:
            return SHUFFLE(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
                   SHUFFLE(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
        case 1:
            return SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                   SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
        case 2:
            return SHUFFLE(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
                   SHUFFLE(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
        default:
            return SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                   SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
#else
    switch (stage) {
        case 0:
            return SHUFFLE(a, b, 0, 8, 1, 9, 4, 12, 5, 13) + SHUFFLE(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
        case 1:
            return SHUFFLE(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + SHUFFLE(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
        default:
            return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    }
#endif
}

// out[m] = sum of the lanes of v[m].
template <int M>
INLINE void lane_sums(vec* v, float* out) {
    if constexpr (M > LANES) {
        lane_sums<M / 2>(v, out);
        lane_sums<M / 2>(v + M / 2, out + M / 2);
    } else {
        for (int stage = 0, left = M; left > 1; ++stage, left /= 2)
            for (int i = 0; i < left / 2; ++i) v[i] = pair(v[2 * i], v[2 * i + 1], stage);
        if constexpr (M == LANES) {
            store(out, v[0], LANES);
        } else {
            for (int m = 0; m < M; ++m) {
                out[m] = 0;
                for (int i = m; i < LANES; i += M) out[m] += v[0][i];
            }
        }
    }
}

// What the backward pass of one tile reads and adds up, for LANES channels.
struct TileGradient {
    vec x[TILE], xu[TILE], u[TILE], slope[TILE], dy[TILE];
    vec d_xu[TILE], d_x[TILE];           // gradients of x u, and of x through the exponent in units of log 2
    float d_rows[TILE][2 * MAX_STATES];  // dB and dC of the pixels, interleaved by blocks of states
};

template <int NB>
INLINE void backward_block(const Rows& rows, const vec* A, const float* saved, int64_t stride, float* adjoint,
                           float* dA, TileGradient& tile, bool first, int n0) {
    vec h[TILE + 1][NB], decay[TILE][NB];
    for (int n = 0; n < NB; ++n) h[0][n] = load(saved + (n0 + n) * stride, LANES);
    for (int t = 0; t < rows.count; ++t) {
        const float* b = rows.B[t] + n0;
        for (int n = 0; n < NB; ++n) {
            decay[t][n] = exp2(tile.x[t] * A[n0 + n]);
            h[t + 1][n] = decay[t][n] * h[t][n] + tile.xu[t] * b[n];
        }
    }
    vec g[NB], sum_A[NB] = {};
    for (int n = 0; n < NB; ++n) g[n] = load(adjoint + (n0 + n) * stride, LANES);
    for (int t = rows.count - 1; t >= 0; --t) {
        const float *b = rows.B[t] + n0, *c = rows.C[t] + n0;
        const vec dy = tile.dy[t], x = tile.x[t], xu = tile.xu[t];
        vec d_xu = tile.d_xu[t], d_x = tile.d_x[t], products[2 * NB];
        for (int n = 0; n < NB; ++n) {
            products[NB + n] = dy * h[t + 1][n];
            g[n] += dy * c[n];
            products[n] = g[n] * xu;
            d_xu += g[n] * b[n];
            g[n] *= decay[t][n];
            const vec d_exponent = g[n] * h[t][n];
            d_x += d_exponent * A[n0 + n];
            sum_A[n] += d_exponent * x;
        }
        tile.d_xu[t] = d_xu, tile.d_x[t] = d_x;
        float sums[2 * NB], *row = tile.d_rows[t] + 2 * n0;
        lane_sums<2 * NB>(products, sums);
        for (int i = 0; i < 2 * NB; ++i) row[i] = first ? sums[i] : row[i] + sums[i];
    }
    for (int n = 0; n < NB; ++n) {
        store(adjoint + (n0 + n) * stride, g[n], LANES);
        float* row = dA + (n0 + n) * stride;
        store(row, load(row, LANES) + sum_A[n], LANES);
    }
}

struct Gradients {
    float *adjoint, *dA;  // [batch, directions, states, padded], zero at first; adjoint: gradient of the state
    float *dD, *dbias;    // [batch, directions, padded], zero at first
    float *du, *ddelta;   // [batch, directions, length, channels]
    float* partial;       // [groups, batch, directions, length, 2 states]
};

bool backward_unit(const Problem& p, int64_t b, int64_t k, int64_t group, int64_t begin, int64_t end,
                   const float* saved, const Gradients& out) {
    const int64_t bk = b * p.directions + k, stride = p.padded();
    const float* dy = p.dy + b * p.dy_batch + k * p.dy_direction;
    float* partial = out.partial + (group * p.batch * p.directions + bk) * p.length * 2 * p.states;
    Rows rows;
    TileGradient tile;
    for (int64_t s = p.tiles() - 1; s >= 0; --s) {
        if (!rows.fill(p, b, k, s * TILE)) return false;
        for (int64_t v = begin; v < end; ++v) {
            const Channels ch(p, b, k, v);
            for (int t = 0; t < rows.count; ++t) {
                const int64_t q = rows.pixel[t];
                const vec raw = load(ch.delta + q * p.delta_row, ch.count) + ch.bias, e = exp_minus_abs(raw);
                tile.x[t] = softplus(raw, e);
                tile.slope[t] = sigmoid(raw, e);
                tile.u[t] = load(ch.u + q * p.u_row, ch.count);
                tile.xu[t] = tile.x[t] * tile.u[t];
                tile.dy[t] = load(dy + q * p.dy_row + ch.first, ch.count);
                tile.d_xu[t] = tile.d_x[t] = vec{};
            }
            const float* states = saved + (bk * p.tiles() + s) * p.states * stride + ch.first;
            float* adjoint = out.adjoint + bk * p.states * stride + ch.first;
            float* dA = out.dA + bk * p.states * stride + ch.first;
            blocks((int)p.states, [&](auto size, int n) {
                backward_block<size()>(rows, ch.A, states, stride, adjoint, dA, tile, v == begin, n);
            });
            vec sum_D = {}, sum_bias = {};
            for (int t = 0; t < rows.count; ++t) {
                const int64_t at = (bk * p.length + rows.pixel[t]) * p.channels + ch.first;
                store(out.du + at, tile.d_xu[t] * tile.x[t] + tile.dy[t] * ch.D, ch.count);
                const vec d_raw = (tile.d_x[t] * LN2 + tile.d_xu[t] * tile.u[t]) * tile.slope[t];
                store(out.ddelta + at, d_raw, ch.count);
                sum_D += tile.dy[t] * tile.u[t];
                sum_bias += d_raw;
            }
            const int64_t at = bk * stride + ch.first;
            store(out.dD + at, load(out.dD + at, LANES) + sum_D, LANES);
            store(out.dbias + at, load(out.dbias + at, LANES) + sum_bias, LANES);
        }
        for (int t = 0; t < rows.count; ++t) {
            float* row = partial + rows.pixel[t] * 2 * p.states;
            blocks((int)p.states, [&](auto size, int n) {
                for (int i = 0; i < size(); ++i) {
                    row[n + i] = tile.d_rows[t][2 * n + i];
                    row[p.states + n + i] = tile.d_rows[t][2 * n + size() + i];
                }
            });
        }
    }
    return true;
}

int64_t groups_of(const Problem& p) { return std::min<int64_t>(p.vectors(), GROUPS); }

}  // namespace

extern "C" {

// What the caller must agree with; checked when the library is loaded.
extern const int64_t scan_constants[5];
const int64_t scan_constants[5] = {TILE, PAD, GROUPS, MAX_STATES, sizeof(Problem)};

// y [batch, directions, length, channels]; saved [batch, directions, tiles, states, padded] or null.
// Returns 0, or 1 when an order or a class is out of range.
int scan_forward(const Problem* problem, float* y, float* saved, int threads) {
    const Problem& p = *problem;
    const int64_t units = p.batch * p.directions * p.vectors();
    int bad = 0;
#pragma omp parallel num_threads(threads) reduction(| : bad)
    {
        FlushSubnormals flush;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < units; ++i) {
            const int64_t bk = i / p.vectors();
            bad |= !forward_unit(p, bk / p.directions, bk % p.directions, i % p.vectors(), y, saved);
        }
    }
    return bad;
}

// dB, dC [batch, directions, length, states]; everything else as in Gradients.
int scan_backward(const Problem* problem, const float* saved, float* adjoint, float* du, float* ddelta, float* dA,
                  float* partial, float* dB, float* dC, float* dD, float* dbias, int threads) {
    const Problem& p = *problem;
    const Gradients out = {adjoint, dA, dD, dbias, du, ddelta, partial};
    const int64_t groups = groups_of(p), units = p.batch * p.directions * groups;
    const int64_t rows = p.batch * p.directions * p.length;
    int bad = 0;
#pragma omp parallel num_threads(threads) reduction(| : bad)
    {
        FlushSubnormals flush;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < units; ++i) {
            const int64_t bk = i / groups, group = i % groups, v = p.vectors();
            bad |= !backward_unit(p, bk / p.directions, bk % p.directions, group, group * v / groups,
                                  (group + 1) * v / groups, saved, out);
        }
#pragma omp for
        for (int64_t r = 0; r < rows; ++r) {
            float *b = dB + r * p.states, *c = dC + r * p.states;
            for (int64_t n = 0; n < p.states; ++n) b[n] = c[n] = 0;
            for (int64_t group = 0; group < groups; ++group) {
                const float* row = partial + (group * rows + r) * 2 * p.states;
                for (int64_t n = 0; n < p.states; ++n) b[n] += row[n], c[n] += row[p.states + n];
            }
        }
    }
    return bad;
}

}  // extern "C"
