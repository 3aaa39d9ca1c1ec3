// Philox 4x32-10 words and the Gumbel noise made of them; the definition is in models/noise.py.

#include <algorithm>

#include "vector.h"

namespace {

constexpr int WIDTH = 64;  // counters worked on together
constexpr float BELOW_ONE = 0x1.fffffep-1f;

// Words of WIDTH counters (pixel, block, layer, 0); words[4 * i + j] is word j of counter i.
INLINE void philox(const uint32_t* pixels, const uint32_t* blocks, uint32_t layer, uint32_t k0, uint32_t k1,
                   uint32_t* words) {
    uint32_t c0[WIDTH], c1[WIDTH], c2[WIDTH], c3[WIDTH];
    for (int i = 0; i < WIDTH; ++i) c0[i] = pixels[i], c1[i] = blocks[i], c2[i] = layer, c3[i] = 0;
    for (int round = 0; round < 10; ++round) {
        for (int i = 0; i < WIDTH; ++i) {
            const uint64_t first = (uint64_t)c0[i] * 0xD2511F53u, second = (uint64_t)c2[i] * 0xCD9E8D57u;
            c0[i] = (uint32_t)(second >> 32) ^ c1[i] ^ k0;
            c2[i] = (uint32_t)(first >> 32) ^ c3[i] ^ k1;
            c1[i] = (uint32_t)second;
            c3[i] = (uint32_t)first;
        }
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < WIDTH; ++i)
        words[4 * i] = c0[i], words[4 * i + 1] = c1[i], words[4 * i + 2] = c2[i], words[4 * i + 3] = c3[i];
}

INLINE vec gumbel(const uint32_t* words) {
    ivec n;
    std::memcpy(&n, words, sizeof n);
    // (n + 1/2) 2^-32 rounded once: both halves are exact
    const vec high = __builtin_convertvector((n >> 16) & 0xffff, vec) * 0x1p-16f;
    const vec low = (__builtin_convertvector(n & 0xffff, vec) + 0.5f) * 0x1p-32f;
    vec u = high + low;
    u = select(u > BELOW_ONE, splat(BELOW_ONE), u);
    return -log_positive(-log_positive(u));
}

// Calls put(first row of the image, pixels, blocks and words of WIDTH counters, how many count) until all is made.
template <class Put>
void fill(const uint64_t* keys, int64_t batch, int64_t length, int64_t classes, uint32_t layer, int threads, Put put) {
    const int64_t blocks = (classes + 3) / 4, chunk = 64;  // pixels
    const int64_t chunks = (length + chunk - 1) / chunk;
#pragma omp parallel for num_threads(threads)
    for (int64_t job = 0; job < batch * chunks; ++job) {
        const int64_t b = job / chunks, first = job % chunks * chunk;
        const int64_t total = (std::min(length, first + chunk) - first) * blocks;
        uint32_t pixel = (uint32_t)first, block = 0;
        for (int64_t start = 0; start < total; start += WIDTH) {
            uint32_t pixels[WIDTH], blocks_of[WIDTH];
            alignas(64) uint32_t words[4 * WIDTH];
            for (int i = 0; i < WIDTH; ++i) {
                pixels[i] = pixel, blocks_of[i] = block;
                if (++block == blocks) block = 0, ++pixel;
            }
            philox(pixels, blocks_of, layer, (uint32_t)keys[b], (uint32_t)(keys[b] >> 32), words);
            put(b * length, pixels, blocks_of, words, (int)std::min<int64_t>(WIDTH, total - start));
        }
    }
}

}  // namespace

extern "C" {

void philox_integers(const uint64_t* keys, int64_t batch, int64_t length, int64_t classes, uint32_t layer, int64_t* out,
                     int threads) {
    fill(keys, batch, length, classes, layer, threads,
         [=](int64_t row, const uint32_t* pixels, const uint32_t* blocks, const uint32_t* words, int count) {
             for (int i = 0; i < count; ++i)
                 for (int64_t j = 0, c = 4 * (int64_t)blocks[i]; j < 4 && c < classes; ++j, ++c)
                     out[(row + pixels[i]) * classes + c] = words[4 * i + j];
         });
}

void philox_gumbel(const uint64_t* keys, int64_t batch, int64_t length, int64_t classes, uint32_t layer, float* out,
                   int threads) {
    fill(keys, batch, length, classes, layer, threads,
         [=](int64_t row, const uint32_t* pixels, const uint32_t* blocks, const uint32_t* words, int count) {
             float noise[4 * WIDTH];
             for (int i = 0; i < 4 * WIDTH; i += LANES) store(noise + i, gumbel(words + i), LANES);
             for (int i = 0; i < count; ++i) {
                 const int64_t c = 4 * (int64_t)blocks[i], left = std::min<int64_t>(4, classes - c);
                 float* to = out + (row + pixels[i]) * classes + c;
                 if (left == 4) std::memcpy(to, noise + 4 * i, 16);
                 else for (int64_t j = 0; j < left; ++j) to[j] = noise[4 * i + j];
             }
         });
}

}  // extern "C"
