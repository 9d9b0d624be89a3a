// One decoder step over a flat batch of rows: embedding, layers, final norm, LM head.
#pragma once
#include "attention.h"
#include "pool.h"

namespace od {

template <class T> struct LayerWeights {
  const T *attention_norm, *qkv, *qkv_bias, *query_norm, *key_norm, *output, *output_bias, *mlp_norm, *gate_up, *down;
};

// Sizes in the order of this struct, as the caller fills them in.
struct Sizes {
  int64_t layers, hidden, heads, kv_heads, head_size, inner, vocab;
};

// All int64 so that one flat array describes a step. Pointers as integers.
struct StepArguments {
  int64_t rows, groups, tokens, parents, group, table, table_stride, kv, kv_slots, hidden, logit_rows, logit_row, logits, best;
};

template <class T> struct Scratch {
  std::vector<T> normed, made;
  int64_t normed_at = -1;
  Attention<T> attention;
};

template <class T> class Target {
public:
  // weights: 10 pointers a layer in the order of LayerWeights, then embedding, final norm, LM head, rotations.
  Target(Pool *pool, const Sizes &sizes, const T *const *weights, double eps)
      : pool_(pool), s_(sizes), eps_(T(eps)), scratch_(pool->threads()) {
    for (int64_t i = 0; i < s_.layers; ++i, weights += 10)
      layers_.push_back({weights[0], weights[1], weights[2], weights[3], weights[4], weights[5], weights[6], weights[7],
                         weights[8], weights[9]});
    embedding_ = weights[0], norm_ = weights[1], lm_head_ = weights[2], rotations_ = weights[3];
  }

  void step(const StepArguments &a) {
    const int64_t rows = a.rows, F = s_.hidden;
    place(a);
    T *hidden = residual_.data();
    const auto *tokens = reinterpret_cast<const int64_t *>(a.tokens);
    for (int64_t r = 0; r < rows; ++r) std::memcpy(hidden + r * F, embedding_ + tokens[r] * F, F * sizeof(T));
    for (int64_t i = 0; i < s_.layers; ++i) layer(i, a);
    rms_norm(hidden, rows, F, norm_, eps_, reinterpret_cast<T *>(a.hidden), F);
    if (a.logit_rows) head(a);
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
    attended_.resize(rows * s_.heads * s_.head_size), inner_.resize(rows * s_.inner);
    rows_.resize(rows), units_.clear();
    const int64_t shared = s_.heads / s_.kv_heads;
    const int64_t tile = std::max<int64_t>(1, Attention<T>::QUERIES / shared);
    for (int64_t i = 0; i < a.groups; ++i) {
      const Group &g = groups_[i];
      const int64_t *slots = table_ + g.sequence * a.table_stride;
      for (int64_t r = 0; r < g.rows; ++r) {
        int64_t position = g.length + r;
        if (g.tree) {
          position = g.length - 1;
          for (int64_t row = r; row >= 0; row = parents_[g.first_row + row]) ++position;
        }
        rows_[g.first_row + r] = {rotations_ + position * 2 * s_.head_size, slots[g.length + r]};
      }
      for (int64_t first = 0; first < g.rows; first += tile)
        for (int64_t head = 0; head < s_.kv_heads; ++head)
          units_.push_back({i, head, first, std::min(tile, g.rows - first)});
    }
  }

  // Chunks of `count` items such that every thread gets several, and never more chunks than a loop can have.
  int64_t portion(int64_t count, int64_t least) const {
    const int64_t chunks = pool_->threads() * 3;
    return std::max({least, (count + chunks - 1) / chunks, count / 60000 + 1});
  }

  const T *normed(Scratch<T> &scratch, int64_t phase, const T *x, int64_t rows, const T *weight) {
    if (scratch.normed_at != phase) {
      scratch.normed.resize(rows * s_.hidden);
      rms_norm(x, rows, s_.hidden, weight, eps_, scratch.normed.data(), s_.hidden);
      scratch.normed_at = phase;
    }
    return scratch.normed.data();
  }

  void layer(int64_t index, const StepArguments &a) {
    const LayerWeights<T> &w = layers_[index];
    const int64_t rows = a.rows, F = s_.hidden, D = s_.head_size, G = s_.kv_heads, H = s_.heads, I = s_.inner;
    const int64_t panels = padded(D) / LANES, wide = H * D;
    T *hidden = residual_.data();
    T *kv = reinterpret_cast<T *>(a.kv) + index * a.kv_slots * 2 * G * D;
    const int64_t stride = 2 * G * D;

    ++phase_;
    pool_->run(H + 2 * G, [&](int64_t head, int64_t thread) {
      Scratch<T> &s = scratch_[thread];
      const T *x = normed(s, phase_, hidden, rows, w.attention_norm);
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
        const T *cos = rows_[r].rotation, *sin = cos + D;
        for (int64_t d = 0; d < D / 2; ++d) {
          to[d] = made[d] * cos[d] + made[d + D / 2] * sin[d];
          to[d + D / 2] = made[d + D / 2] * cos[d + D / 2] + made[d] * sin[d + D / 2];
        }
      }
    });

    pool_->run(int64_t(units_.size()), [&](int64_t unit, int64_t thread) {
      const Unit &u = units_[unit];
      const Group &g = groups_[u.group];
      const int64_t shared = H / G, from = (g.first_row + u.first) * wide + u.head * shared * D;
      const Context<T> context{kv + u.head * D, kv + (G + u.head) * D, stride, D, table_ + g.sequence * a.table_stride};
      scratch_[thread].attention.run(context, g, parents_ + g.first_row, u.first, u.rows, shared, &queries_[from], wide,
                                     &attended_[from], wide);
    });

    add(w.output, w.output_bias, attended_.data(), wide, rows);

    ++phase_;
    const int64_t inner_panels = padded(I) / LANES, step = portion(inner_panels, 1);
    pool_->run((inner_panels + step - 1) / step, [&](int64_t chunk, int64_t thread) {
      Scratch<T> &s = scratch_[thread];
      const T *x = normed(s, phase_, hidden, rows, w.mlp_norm);
      const int64_t first = chunk * step, count = std::min(step, inner_panels - first), ld = 2 * count * LANES;
      s.made.resize(rows * ld);
      product(x, F, rows, w.gate_up + first * 2 * LANES * F, 2 * count, F, s.made.data(), ld);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t p = 0; p < count; ++p) {
          const T *pair = &s.made[r * ld + 2 * p * LANES];
          const Vec<T> made = silu<T>(load(pair)) * load(pair + LANES);
          const int64_t at = (first + p) * LANES;
          if (at + LANES <= I)
            store(&inner_[r * I + at], made);
          else
            for (int64_t i = 0; at + i < I; ++i) inner_[r * I + at + i] = made[i];
        }
    });

    add(w.down, nullptr, inner_.data(), I, rows);
  }

  // hidden += x times weight + bias
  void add(const T *weight, const T *bias, const T *x, int64_t ins, int64_t rows) {
    const int64_t F = s_.hidden, all = padded(F) / LANES, step = portion(all, 1);
    pool_->run((all + step - 1) / step, [&](int64_t chunk, int64_t thread) {
      Scratch<T> &s = scratch_[thread];
      const int64_t first = chunk * step, count = std::min(step, all - first), ld = count * LANES;
      s.made.resize(rows * ld);
      product(x, ins, rows, weight + first * ins * LANES, count, ins, s.made.data(), ld);
      const int64_t outs = std::min(ld, F - first * LANES);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t o = 0; o < outs; ++o) {
          const int64_t at = first * LANES + o;
          residual_[r * F + at] += s.made[r * ld + o] + (bias ? bias[at] : T(0));
        }
    });
  }

  // Logits [logit_rows, vocab] and the best token of each row.
  void head(const StepArguments &a) {
    const int64_t F = s_.hidden, V = s_.vocab, rows = a.logit_rows, all = padded(V) / LANES, step = portion(all, 4);
    const auto *from = reinterpret_cast<const int64_t *>(a.logit_row);
    const T *x = reinterpret_cast<const T *>(a.hidden);
    if (from) {
      chosen_.resize(rows * F);
      for (int64_t r = 0; r < rows; ++r) std::memcpy(&chosen_[r * F], x + from[r] * F, F * sizeof(T));
      x = chosen_.data();
    }
    T *logits = reinterpret_cast<T *>(a.logits);
    auto *best = reinterpret_cast<int64_t *>(a.best);
    const int64_t chunks = (all + step - 1) / step;
    tops_.resize(chunks * rows);
    pool_->run(chunks, [&](int64_t chunk, int64_t thread) {
      Scratch<T> &s = scratch_[thread];
      const int64_t first = chunk * step, count = std::min(step, all - first), ld = count * LANES;
      s.made.resize(rows * ld);
      product(x, F, rows, lm_head_ + first * F * LANES, count, F, s.made.data(), ld);
      const int64_t outs = std::min(ld, V - first * LANES);
      for (int64_t r = 0; r < rows; ++r) {
        const T *made = &s.made[r * ld];
        std::memcpy(logits + r * V + first * LANES, made, outs * sizeof(T));
        tops_[chunk * rows + r] = first * LANES + first_of_largest(made, outs);
      }
    });
    for (int64_t r = 0; r < rows; ++r) {
      int64_t top = tops_[r];
      for (int64_t chunk = 1; chunk < chunks; ++chunk) {
        const int64_t other = tops_[chunk * rows + r];
        if (logits[r * V + other] > logits[r * V + top]) top = other;
      }
      best[r] = top;
    }
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

  Pool *pool_;
  Sizes s_;
  T eps_;
  std::vector<LayerWeights<T>> layers_;
  const T *embedding_, *norm_, *lm_head_, *rotations_;
  std::vector<Scratch<T>> scratch_;
  std::vector<T> residual_, queries_, attended_, inner_, chosen_;
  std::vector<Row> rows_;
  std::vector<Unit> units_;
  std::vector<int64_t> tops_;
  const Group *groups_ = nullptr;
  const int32_t *parents_ = nullptr;
  const int64_t *table_ = nullptr;
  int64_t phase_ = 0;
};

} // namespace od
