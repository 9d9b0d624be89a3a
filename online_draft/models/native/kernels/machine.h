// What a stack of layers is made of: threads with scratch, and the loops that split a product between them.
#pragma once
#include "attention.h"
#include "pool.h"

namespace od {

// y = (x - mean) / sqrt(variance + eps) * weight, per row.
template <class T> void layer_norm(const T *x, int64_t rows, int64_t size, const T *weight, T eps, T *y) {
  for (int64_t r = 0; r < rows; ++r, x += size, y += size) {
    T mean = 0, squares = 0;
    for (int64_t i = 0; i < size; ++i) mean += x[i];
    mean /= size;
    for (int64_t i = 0; i < size; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const T factor = 1 / std::sqrt(squares / size + eps);
    for (int64_t i = 0; i < size; ++i) y[i] = (x[i] - mean) * factor * weight[i];
  }
}

template <class T> struct Scratch {
  Array<T> normed, made, narrow;
  int64_t normed_in = -1;
  Attention<T> attention;
};

enum class Norm { rms, layer };

struct Unchanged {
  template <class... A> void operator()(A...) const {}
};

template <class T, class W> class Machine {
public:
  Machine(Pool *pool, Norm norm, T eps) : pool_(pool), kind_(norm), eps_(eps), scratch_(pool->threads()) {}
  int64_t threads() const { return pool_->threads(); }

  // f(first, count, scratch) for all `panels`, a few chunks a thread: as many as share the work most evenly.
  template <class F> void panels(int64_t panels, const F &f) {
    ++loop_;
    const int64_t threads = pool_->threads();
    int64_t step = 0, longest = std::numeric_limits<int64_t>::max();
    for (int64_t each : {2, 3, 4}) {
      const int64_t size = std::max((panels + threads * each - 1) / (threads * each), panels / 60000 + 1);
      const int64_t turns = ((panels + size - 1) / size + threads - 1) / threads;
      if (turns * size < longest) longest = turns * size, step = size;
    }
    pool_->run((panels + step - 1) / step, [&](int64_t chunk, int64_t thread) {
      f(chunk * step, std::min(step, panels - chunk * step), scratch_[thread]);
    });
  }
  // f(item, scratch) for all items.
  template <class F> void items(int64_t count, const F &f) {
    ++loop_;
    const int64_t step = count / 60000 + 1; // a loop has at most 65,535 chunks
    pool_->run((count + step - 1) / step, [&](int64_t chunk, int64_t thread) {
      for (int64_t item = chunk * step; item < std::min(count, (chunk + 1) * step); ++item) f(item, scratch_[thread]);
    });
  }

  // The normalised rows, made once a loop by every thread: cheaper than another loop.
  const T *normed(Scratch<T> &s, const T *x, int64_t rows, int64_t size, const T *weight) {
    if (s.normed_in != loop_) {
      s.normed.resize(rows * size);
      if (kind_ == Norm::rms)
        rms_norm(x, rows, size, weight, eps_, s.normed.data(), size);
      else
        layer_norm(x, rows, size, weight, eps_, s.normed.data());
      s.normed_in = loop_;
    }
    return s.normed.data();
  }

  // y[rows, outs] = or += x[rows, ins] times weight, plus bias
  void linear(const T *x, int64_t ldx, int64_t ins, int64_t rows, const W *weight, const T *bias, T *y, int64_t outs,
              bool add) {
    panels(padded(outs) / LANES, [&](int64_t first, int64_t count, Scratch<T> &s) {
      const int64_t ld = count * LANES, here = std::min(ld, outs - first * LANES);
      s.made.resize(rows * ld);
      product(x, ldx, rows, weight + first * ins * LANES, count, ins, s.made.data(), ld);
      for (int64_t r = 0; r < rows; ++r) {
        T *__restrict to = y + r * outs + first * LANES;
        const T *__restrict made = &s.made[r * ld];
        if (add)
          for (int64_t o = 0; o < here; ++o) to[o] += made[o];
        else
          for (int64_t o = 0; o < here; ++o) to[o] = made[o];
        if (bias)
          for (int64_t o = 0; o < here; ++o) to[o] += bias[first * LANES + o];
      }
    });
  }

  // hidden += down(silu(gate(norm(hidden))) * up(norm(hidden))). change(first, count, made, ld) may add to so many
  // panels' products with gate and up, which take turns.
  template <class Change = Unchanged>
  void feed_forward(T *hidden, int64_t rows, int64_t size, const T *norm, const W *gate_up, const W *down, int64_t inner,
                    const Change &change = {}) {
    inner_.resize(rows * inner);
    panels(padded(inner) / LANES, [&](int64_t first, int64_t count, Scratch<T> &s) {
      const T *x = normed(s, hidden, rows, size, norm);
      const int64_t ld = 2 * count * LANES;
      s.made.resize(rows * ld);
      product(x, size, rows, gate_up + first * 2 * LANES * size, 2 * count, size, s.made.data(), ld);
      change(first, count, s.made.data(), ld);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t p = 0; p < count; ++p) {
          const T *pair = &s.made[r * ld + 2 * p * LANES];
          const Vec<T> made = silu<T>(load(pair)) * load(pair + LANES);
          const int64_t at = (first + p) * LANES;
          T *to = &inner_[r * inner + at];
          if (at + LANES <= inner)
            store(to, made);
          else
            for (int64_t i = 0; at + i < inner; ++i) to[i] = made[i];
        }
    });
    linear(inner_.data(), inner, inner, rows, down, nullptr, hidden, size, true);
  }

  // What went into the last `down`, [rows, inner].
  const T *inner() const { return inner_.data(); }

private:
  Pool *pool_;
  Norm kind_;
  T eps_;
  std::vector<Scratch<T>> scratch_;
  Array<T> inner_;
  int64_t loop_ = 0;
};

// Turns a head by its position. `rotation` is cosines, then signed sines.
template <class T> inline void rotate(const T *__restrict x, const T *__restrict rotation, int64_t size, T *__restrict y) {
  const int64_t half = size / 2;
  const T *cos = rotation, *sin = rotation + size;
  for (int64_t d = 0; d < half; ++d) y[d] = x[d] * cos[d] + x[d + half] * sin[d];
  for (int64_t d = half; d < size; ++d) y[d] = x[d] * cos[d] + x[d - half] * sin[d];
}

} // namespace od
