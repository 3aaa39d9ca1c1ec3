// Vectors of single precision with the functions that the kernels need, on the compiler's own vector extensions.
// exp2, softplus and log are accurate to about 1e-7 (relative), and let NaN through.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;  // one AVX register, or a pair of smaller ones
#endif

typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t ivec __attribute__((vector_size(LANES * sizeof(int32_t))));

#define INLINE inline __attribute__((always_inline))

INLINE vec splat(float x) { return vec{} + x; }

// The first `count` floats at any address; the other lanes are zero.
INLINE vec load(const float* p, int count) {
    vec v;
    if (count == LANES) {
        std::memcpy(&v, p, sizeof v);
        return v;
    }
#if defined(__AVX512F__)
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
#else
    v = vec{};
    for (int i = 0; i < count; ++i) v[i] = p[i];
    return v;
#endif
}

INLINE void store(float* p, vec v, int count) {
    if (count == LANES) {
        std::memcpy(p, &v, sizeof v);
        return;
    }
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)v);
#else
    for (int i = 0; i < count; ++i) p[i] = v[i];
#endif
}

INLINE vec select(ivec mask, vec yes, vec no) { return mask ? yes : no; }

INLINE vec absolute(vec x) { return (vec)((ivec)x & 0x7fffffff); }

// 2^f for |f| <= 1/2: minimax polynomial through (0, 1), relative error 2e-9.
INLINE vec exp2_fraction(vec f) {
    vec p = splat(1.5353362e-4f);
    p = p * f + 1.3398874e-3f;
    p = p * f + 9.6184369e-3f;
    p = p * f + 5.5503324e-2f;
    p = p * f + 2.4022648e-1f;
    p = p * f + 6.9314718e-1f;
    return p * f + 1.0f;
}

INLINE vec exp2(vec x) {
#if defined(__AVX512F__)
    vec n = (vec)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return (vec)_mm512_scalef_ps((__m512)exp2_fraction(x - n), (__m512)n);
#else
    x = select(x < -126.0f, splat(-126.0f), x);  // comparisons with NaN are false: it stays
    x = select(x > 127.0f, splat(127.0f), x);
    const vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
    vec shifted = x + magic;
    vec power = (vec)(((ivec)shifted - (ivec)magic + 127) << 23);
    return exp2_fraction(x - (shifted - magic)) * power;
#endif
}

// 2 atanh(s) for 0 <= s <= 1/3 or |s| small: minimax polynomial in s^2, relative error 4e-9.
INLINE vec twice_atanh(vec s) {
    vec w = s * s;
    vec p = splat(2.8011990e-1f);
    p = p * w + 2.8001806e-1f;
    p = p * w + 4.0021527e-1f;
    p = p * w + 6.6666418e-1f;
    return s * (p * w) + (s + s);
}

// exp(-|x|), the one exponential that softplus and its derivative share.
INLINE vec exp_minus_abs(vec x) { return exp2(absolute(x) * -1.44269504f); }

// log(1 + exp(x)) from e = exp(-|x|) in (0, 1]; equal to x in single precision from 17 on, so PyTorch's threshold of 20
// needs no case of its own.
INLINE vec softplus(vec x, vec e) { return select(x < 0.0f, vec{}, x) + twice_atanh(e / (e + 2.0f)); }

// 1 / (1 + exp(-x)), never out of [0, 1].
INLINE vec sigmoid(vec x, vec e) {
    vec r = 1.0f / (e + 1.0f);
    return select(x < 0.0f, e * r, r);
}

// Natural logarithm of positive normal numbers.
INLINE vec log_positive(vec x) {
    // exponent counted from sqrt(1/2), so that the mantissa lies in [sqrt(1/2), sqrt(2)) and log(1 - tiny) is exact
    ivec bits = (ivec)x - 0x3f3504f3;
    vec exponent = __builtin_convertvector(bits >> 23, vec);
    vec m = (vec)((bits & 0x007fffff) + 0x3f3504f3);
    vec r = twice_atanh((m - 1.0f) / (m + 1.0f));
    return exponent * 0.693145752f + (exponent * 1.42860677e-6f + r);  // log 2 in two parts
}

// Subnormal numbers cost many cycles on some processors and mean nothing here: flush them while a kernel runs.
struct FlushSubnormals {
#if defined(__SSE2__)
    unsigned int before = _mm_getcsr();
    FlushSubnormals() { _mm_setcsr(before | 0x8040); }
    ~FlushSubnormals() { _mm_setcsr(before); }
#endif
};
