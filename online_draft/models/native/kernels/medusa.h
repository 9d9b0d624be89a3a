// Medusa's draft call: every head a residual block and a vocabulary of its own, on the newest row alone.
#pragma once
#include "machine.h"

namespace od {

struct MedusaSizes {
  int64_t hidden, drafts, vocab;
};

// rows[S]: the place of each sequence's newest row in the ring's hidden states; logits[S, drafts, vocab].
struct MedusaArguments {
  int64_t sequences, rows, hidden, logits;
};

template <class T, class W> class Medusa {
public:
  // w: biases, then residuals and vocabularies, packed, one head behind the other.
  Medusa(Pool *pool, const MedusaSizes &sizes, const void *const *w)
      : m_(pool, Norm::rms, T(0)), s_(sizes), biases_(static_cast<const T *>(w[0])),
        residuals_(static_cast<const W *>(w[1])), vocabularies_(static_cast<const W *>(w[2])) {}

  void draft(const MedusaArguments &a) {
    const int64_t S = a.sequences, F = s_.hidden, K = s_.drafts, V = s_.vocab;
    const auto *rows = reinterpret_cast<const int64_t *>(a.rows);
    const T *hidden = reinterpret_cast<const T *>(a.hidden);
    x_.resize(S * F), mixed_.resize(K * S * F);
    for (int64_t i = 0; i < S; ++i) std::memcpy(&x_[i * F], hidden + rows[i] * F, F * sizeof(T));
    const int64_t inner = padded(F) / LANES, outer = padded(V) / LANES;
    m_.items(K, [&](int64_t k, Scratch<T> &s) {
      const int64_t ld = inner * LANES;
      s.made.resize(S * ld);
      product(x_.data(), F, S, residuals_ + k * inner * LANES * F, inner, F, s.made.data(), ld);
      for (int64_t i = 0; i < S; ++i) {
        T *made = &s.made[i * ld];
        for (int64_t f = 0; f < F; ++f) made[f] += biases_[k * F + f];
        for (int64_t f = 0; f < ld; f += LANES) store(made + f, silu<T>(load(made + f)));
        for (int64_t f = 0; f < F; ++f) mixed_[(k * S + i) * F + f] = x_[i * F + f] + made[f];
      }
    });
    T *logits = reinterpret_cast<T *>(a.logits);
    m_.panels(K * outer, [&](int64_t first, int64_t count, Scratch<T> &s) {
      while (count > 0) { // a chunk may begin in one head and end in the next
        const int64_t k = first / outer, here = std::min(count, (k + 1) * outer - first), ld = here * LANES;
        const int64_t at = (first - k * outer) * LANES, outs = std::min(ld, V - at);
        s.made.resize(S * ld);
        product(&mixed_[k * S * F], F, S, vocabularies_ + first * LANES * F, here, F, s.made.data(), ld);
        for (int64_t i = 0; i < S; ++i)
          std::memcpy(logits + (i * K + k) * V + at, &s.made[i * ld], outs * sizeof(T));
        first += here, count -= here;
      }
    });
  }

private:
  Machine<T, W> m_;
  MedusaSizes s_;
  const T *biases_;
  const W *residuals_, *vocabularies_;
  std::vector<T> x_, mixed_;
};

} // namespace od
