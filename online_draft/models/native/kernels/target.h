// One decoder step over a flat batch of rows: embedding, layers, final norm, LM head.
#pragma once
#include <numeric>
#include "machine.h"

namespace od {

template <class T, class W> struct LayerWeights {
  const T *attention_norm, *qkv_bias, *query_norm, *key_norm, *output_bias, *mlp_norm;
  const W *qkv, *output, *gate_up, *down;
};

// Sizes in the order of this struct, as the caller fills them in.
struct Sizes {
  int64_t layers, hidden, heads, kv_heads, head_size, inner, vocab, positions;
};

// All int64 so that one flat array describes a step. Pointers as integers.
struct StepArguments {
  int64_t rows, groups, tokens, parents, group, table, table_stride, kv, kv_slots, hidden, logit_rows, logit_row, logits, best;
};

template <class T, class W> class Target {
public:
  // w: 10 pointers a layer in the order of LayerWeights, then embedding, final norm, rotations, LM head.
  Target(Pool *pool, const Sizes &sizes, const void *const *w, double eps)
      : m_(pool, Norm::rms, T(eps)), s_(sizes), eps_(T(eps)) {
    const auto whole = [&] { return static_cast<const T *>(*w++); };
    const auto packed = [&] { return static_cast<const W *>(*w++); };
    for (int64_t i = 0; i < s_.layers; ++i)
      layers_.push_back({whole(), whole(), whole(), whole(), whole(), whole(), packed(), packed(), packed(), packed()});
    embedding_ = whole(), norm_ = whole(), rotations_ = whole(), lm_head_ = packed();
  }

  void step(const StepArguments &a) {
    const int64_t rows = a.rows, F = s_.hidden;
    place(a);
    T *hidden = residual_.data();
    const auto *tokens = reinterpret_cast<const int64_t *>(a.tokens);
    for (int64_t r = 0; r < rows; ++r) std::memcpy(hidden + r * F, embedding_ + tokens[r] * F, F * sizeof(T));
    for (int64_t i = 0; i < s_.layers; ++i) layer(i, a);
    rms_norm(hidden, rows, F, norm_, eps_, reinterpret_cast<T *>(a.hidden), F);
    head(a);
  }

  // Logits [logit_rows, vocab] and the best token of each row.
  void head(const StepArguments &a) {
    const int64_t F = s_.hidden, V = s_.vocab, rows = a.logit_rows;
    if (!rows) return;
    const auto *from = reinterpret_cast<const int64_t *>(a.logit_row);
    const T *x = reinterpret_cast<const T *>(a.hidden);
    if (from) {
      chosen_.resize(rows * F);
      for (int64_t r = 0; r < rows; ++r) std::memcpy(&chosen_[r * F], x + from[r] * F, F * sizeof(T));
      x = chosen_.data();
    }
    T *logits = reinterpret_cast<T *>(a.logits);
    m_.linear(x, F, F, rows, lm_head_, nullptr, logits, V, false);
    auto *best = reinterpret_cast<int64_t *>(a.best);
    m_.items(rows, [&](int64_t r, Scratch<T> &) { best[r] = first_of_largest(logits + r * V, V); });
  }

private:
  struct Row {
    const T *rotation;
    int64_t slot;
  };

  void place(const StepArguments &a) {
    const int64_t rows = a.rows;
    groups_ = reinterpret_cast<const Group *>(a.group);
    parents_ = reinterpret_cast<const int32_t *>(a.parents);
    table_ = reinterpret_cast<const int64_t *>(a.table);
    residual_.resize(rows * s_.hidden), queries_.resize(rows * s_.heads * s_.head_size);
    attended_.resize(rows * s_.heads * s_.head_size);
    rows_.resize(rows), units_.clear();
    const int64_t shared = s_.heads / s_.kv_heads;
    // As few units as keep all threads busy: each makes its keys ready anew.
    const int64_t wholes = a.groups * s_.kv_heads, threads = m_.threads();
    const int64_t least = wholes < 2 * threads ? threads / std::gcd(threads, wholes) : 1;
    for (int64_t i = 0; i < a.groups; ++i) {
      const Group &g = groups_[i];
      const int64_t *slots = table_ + g.sequence * a.table_stride;
      for (int64_t r = 0; r < g.rows; ++r) {
        int64_t position = g.length + r;
        if (g.kind == TREE) {
          position = g.length - 1;
          for (int64_t row = r; row >= 0; row = parents_[g.first_row + row]) ++position;
        }
        position = std::min(position, s_.positions - 1); // a node behind the context: never committed
        rows_[g.first_row + r] = {rotations_ + position * 2 * s_.head_size, slots[g.length + r]};
      }
      const int64_t parts = std::max(least, (g.rows * shared + Attention<T>::QUERIES - 1) / Attention<T>::QUERIES);
      const int64_t tile = (g.rows + parts - 1) / parts;
      for (int64_t first = 0; first < g.rows; first += tile)
        for (int64_t head = 0; head < s_.kv_heads; ++head)
          units_.push_back({i, head, first, std::min(tile, g.rows - first)});
    }
  }

  void layer(int64_t index, const StepArguments &a) {
    const LayerWeights<T, W> &w = layers_[index];
    const int64_t rows = a.rows, F = s_.hidden, D = s_.head_size, G = s_.kv_heads, H = s_.heads;
    const int64_t panels = padded(D) / LANES, wide = H * D, stride = 2 * G * D;
    T *hidden = residual_.data();
    T *kv = reinterpret_cast<T *>(a.kv) + index * a.kv_slots * stride;

    m_.items(H + 2 * G, [&](int64_t head, Scratch<T> &s) {
      const T *x = m_.normed(s, hidden, rows, F, w.attention_norm);
      s.made.resize(rows * padded(D));
      product(x, F, rows, w.qkv + head * panels * LANES * F, panels, F, s.made.data(), padded(D));
      for (int64_t r = 0; r < rows; ++r) {
        T *made = &s.made[r * padded(D)];
        if (w.qkv_bias)
          for (int64_t d = 0; d < D; ++d) made[d] += w.qkv_bias[head * D + d];
        const bool query = head < H, value = head >= H + G;
        T *to = query ? &queries_[r * wide + head * D] : kv + rows_[r].slot * stride + (head - H) * D;
        if (value) {
          std::memcpy(to, made, D * sizeof(T));
          continue;
        }
        if (w.query_norm) rms_norm(made, 1, D, query ? w.query_norm : w.key_norm, eps_, made, D);
        rotate(made, rows_[r].rotation, D, to);
      }
    });

    m_.items(int64_t(units_.size()), [&](int64_t unit, Scratch<T> &s) {
      const Unit &u = units_[unit];
      const Group &g = groups_[u.group];
      const int64_t shared = H / G, from = (g.first_row + u.first) * wide + u.head * shared * D;
      const Context<T> context{kv + u.head * D, kv + (G + u.head) * D, stride, D, table_ + g.sequence * a.table_stride};
      s.attention.run(context, g, parents_ + g.first_row, u.first, u.rows, shared, &queries_[from], wide,
                      &attended_[from], wide);
    });

    m_.linear(attended_.data(), wide, wide, rows, w.output, w.output_bias, hidden, F, true);
    m_.feed_forward(hidden, rows, F, w.mlp_norm, w.gate_up, w.down, s_.inner);
  }

  static int64_t first_of_largest(const T *x, int64_t count) {
    int64_t i = 0;
    T m = x[0];
    if (count >= LANES) {
      Vec<T> top = load(x);
      for (i = LANES; i + LANES <= count; i += LANES) top = larger<T>(top, load(x + i));
      m = maximum<T>(top);
    }
    for (; i < count; ++i) m = x[i] > m ? x[i] : m;
    for (i = 0; i < count - 1 && !(x[i] == m); ++i) {
    }
    return i;
  }

  struct Unit {
    int64_t group, head, first, rows;
  };

  Machine<T, W> m_;
  Sizes s_;
  T eps_;
  std::vector<LayerWeights<T, W>> layers_;
  const T *embedding_, *norm_, *rotations_;
  const W *lm_head_;
  Array<T> residual_, queries_, attended_, chosen_;
  std::vector<Row> rows_;
  std::vector<Unit> units_;
  const Group *groups_ = nullptr;
  const int32_t *parents_ = nullptr;
  const int64_t *table_ = nullptr;
};

} // namespace od
