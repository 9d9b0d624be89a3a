// The token of one row at a temperature: argmax(logits / temperature + Gumbel noise), noise as in decoding/noise.py.
#pragma once
#include "vector.h"

#include <algorithm>

namespace od {

inline uint64_t hashed(uint64_t key, uint64_t token) {
  uint64_t z = key + (token + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// The same float32 noise that torch computes from these bits, in float64 and rounded once.
inline float gumbel(uint64_t bits) {
  const double uniform = (double(bits >> 11) + 0.5) * 0x1p-53;
  return float(-std::log(-std::log(uniform)));
}

// Natural logarithm of normal numbers above 0. Absolute error below 2e-7 of the larger of 1 and the result.
inline Vec<float> logarithm(Vec<float> x) {
  typedef Lanes<float>::I I;
  I bits;
  std::memcpy(&bits, &x, sizeof bits);
  const I exponent = (bits - 0x3f3504f3) >> 23; // counted so that what is left lies around 1
  bits -= exponent << 23;
  Vec<float> f;
  std::memcpy(&f, &bits, sizeof f);
  f -= 1.0f;
  const Vec<float> square = f * f, e = __builtin_convertvector(exponent, Vec<float>);
  Vec<float> p = splat(7.0376836292e-2f);
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  p = p * f * square - e * 2.12194440e-4f - square * 0.5f;
  return f + p + e * 0.693359375f;
}

// Noise of the tokens ids[0 .. count - 1], or first .. first + count - 1 without ids, for ranking guesses. The float
// form is off by less than 1e-5 above -2, where nearly all of it lies; it comes from 1 - u, which float holds well there.
inline void noise_for(uint64_t key, const int64_t *ids, int64_t first, int64_t count, float *noise) {
  typedef uint64_t U __attribute__((vector_size(LANES * 8)));
  typedef double D __attribute__((vector_size(LANES * 8)));
  U place;
  for (int64_t i = 0; i < LANES; ++i) place[i] = uint64_t(first + i);
  for (int64_t v = 0; v < count; v += LANES, place += uint64_t(LANES)) {
    U z = place;
    if (ids) std::memcpy(&z, ids + v, std::min(LANES, count - v) * 8);
    z = (z + 1) * 0x9E3779B97F4A7C15u + key;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z = ~(z ^ (z >> 31)) >> 11;
    const Vec<float> rest = (__builtin_convertvector(__builtin_convertvector(z, D), Vec<float>) + 0.5f) * 0x1p-53f;
    const Vec<float> u = larger<float>(1.0f - rest, splat(0x1p-25f));
    // The first part is what rounding took from u.
    const Vec<float> waited = (rest + (u - 1.0f)) / u - logarithm(u);
    const Vec<float> made = -logarithm(waited);
    if (v + LANES <= count)
      store(noise + v, made);
    else
      for (int64_t i = 0; v + i < count; ++i) noise[v + i] = made[i];
  }
}
inline void noise_for(uint64_t key, const int64_t *ids, int64_t first, int64_t count, double *noise) {
  for (int64_t v = 0; v < count; ++v) noise[v] = double(gumbel(hashed(key, uint64_t(ids ? ids[v] : first + v))));
}

// A token can only win if its noise exceeds what it lacks, d; because -log(u) >= 1 - u, that needs 1 - u <= e^-d.
// Nearly all tokens fail this cheap test, and only the others' logarithms are computed.
template <class T> int64_t sample(const T *logits, int64_t vocab, T temperature, uint64_t key) {
  int64_t best = 0;
  for (int64_t v = 1; v < vocab; ++v) best = logits[v] > logits[best] ? v : best;
  const auto score = [&](int64_t v) { return logits[v] / temperature + T(gumbel(hashed(key, uint64_t(v)))); };
  T top = score(best);
  const auto challenge = [&](int64_t v) {
    const T s = score(v);
    if (s > top || (s == top && v < best)) best = v, top = s;
  };
  int64_t v = 0;
  for (; v + LANES <= vocab; v += LANES) {
    float lack[LANES], rest[LANES];
    for (int64_t i = 0; i < LANES; ++i) {
      lack[i] = float(logits[v + i] / temperature - top);
      rest[i] = 1.0f - float(hashed(key, uint64_t(v + i)) >> 40) * 0x1p-24f;
    }
    const Vec<float> bound = exponential(load(lack)) * 1.001f + 1e-6f;
    const Lanes<float>::I passes = load(rest) <= bound;
    int32_t any = 0;
    for (int64_t i = 0; i < LANES; ++i) any |= passes[i];
    if (any)
      for (int64_t i = 0; i < LANES; ++i)
        if (passes[i]) challenge(v + i);
  }
  for (; v < vocab; ++v) challenge(v);
  return best;
}

} // namespace od
