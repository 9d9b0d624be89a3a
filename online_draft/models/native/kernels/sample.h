// The token of one row at a temperature: argmax(logits / temperature + Gumbel noise), noise as in decoding/noise.py.
#pragma once
#include "vector.h"

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
