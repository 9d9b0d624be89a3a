// Amphista's draft call: new rows through the adaptation stages, then all heads of the newest row.
#pragma once
#include <numeric>
#include "adapters.h"

namespace od {

struct AmphistaSizes {
  int64_t hidden, heads, inner, drafts, vocab, stages, block, features, window, capacity;
};

// slots[S]; position[slots, capacity] of each entry of a stage's memory; first and end [S]: positions to take in.
// adapters[S]: each sequence's adapter, or null for none at all; stack: addresses of their weights, of `rank`.
struct DraftArguments {
  int64_t sequences, slots, first, end, position, hidden, tokens, memory, logits, ring, adapters, stack, rank;
};

template <class T, class W> class Amphista {
public:
  // w: 6 pointers a layer in the order of Layer, stages then block; then embedding, rotations, places, final norm,
  // join, residuals, LM head.
  Amphista(Pool *pool, const AmphistaSizes &sizes, const void *const *w, const int64_t *sources, double eps)
      : m_(pool, Norm::layer, T(eps)), s_(sizes), eps_(T(eps)), sources_(sources, sources + sizes.drafts) {
    const auto whole = [&] { return static_cast<const T *>(*w++); };
    const auto packed = [&] { return static_cast<const W *>(*w++); };
    for (int64_t i = 0; i < s_.stages + s_.block; ++i)
      layers_.push_back({whole(), whole(), packed(), packed(), packed(), packed()});
    embedding_ = whole(), rotations_ = whole(), places_ = whole(), norm_ = whole();
    join_ = packed(), residuals_ = packed(), lm_head_ = packed();
  }

  void draft(const DraftArguments &a) {
    const int64_t S = a.sequences, F = s_.hidden, K = s_.drafts;
    adapt(a);
    take(a);
    const int64_t rows = int64_t(rows_.size());
    features_.resize(S * s_.features * F);
    keep(0, x_.data());
    const auto *memory = reinterpret_cast<T *const *>(a.memory);
    for (int64_t i = 0; i < s_.stages; ++i) {
      if (i == s_.stages - 1) join(rows);
      // From the last stage only the newest rows go on.
      const bool last = i == s_.stages - 1;
      if (!last) everything(rows);
      run(i, x_, rows, memory[i], true, last ? newest_ : wanted_);
      if (last) std::iota(newest_.begin(), newest_.end(), 0);
      keep(i + 1, x_.data());
    }
    drafts_.resize(S * K * F);
    m_.items(K, [&](int64_t k, Scratch<T> &s) {
      const int64_t panels = padded(F) / LANES;
      const T *source = &features_[sources_[k] * F];
      s.made.resize(S * panels * LANES);
      product(source, s_.features * F, S, residuals_ + k * panels * LANES * F, panels, F, s.made.data(), panels * LANES);
      for (int64_t i = 0; adapters_ && i < S; ++i)
        adapters_.change(4 * layers_.size() + 1, i, k, source + i * s_.features * F, &s.made[i * panels * LANES], s);
      for (int64_t i = 0; i < S; ++i)
        for (int64_t f = 0; f < F; ++f) {
          const T made = s.made[i * panels * LANES + f];
          drafts_[(i * K + k) * F + f] =
              source[i * s_.features * F + f] + places_[k * F + f] + made / (1 + std::exp(-made));
        }
    });
    for (int64_t i = s_.stages; i < s_.stages + s_.block; ++i) {
      block_memory_.resize(S * K * 2 * F);
      everything(S * K);
      run(i, drafts_, S * K, block_memory_.data(), false, wanted_);
    }
    normed_.resize(S * K * F);
    rms_norm(drafts_.data(), S * K, F, norm_, eps_, normed_.data(), F);
    m_.linear(normed_.data(), F, F, S * K, lm_head_, nullptr, reinterpret_cast<T *>(a.logits), s_.vocab, false);
  }

  // Makes a slot's memory anew from the rows first ... end - 1: the same as having followed all along. Each stage
  // computes only what a later one or the next draft will look at.
  void rebuild(const DraftArguments &a) {
    const int64_t slot = *reinterpret_cast<const int64_t *>(a.slots), begin = *reinterpret_cast<const int64_t *>(a.first);
    const int64_t end = *reinterpret_cast<const int64_t *>(a.end), F = s_.hidden;
    auto *position = reinterpret_cast<int64_t *>(a.position) + slot * s_.capacity;
    const auto *memory = reinterpret_cast<T *const *>(a.memory);
    int64_t first = begin;
    adapt(a);
    load_rows(a, slot, first, end);
    for (int64_t i = 0; i < s_.stages; ++i) {
      const int64_t later = s_.stages - 1 - i, out = later ? std::max(begin, end - s_.window * later) : end - 1;
      const int64_t needed = std::max(begin, out - s_.window + 1);
      x_.erase(x_.begin(), x_.begin() + (needed - first) * F);
      rows_.erase(rows_.begin(), rows_.begin() + (needed - first));
      first = needed;
      const int64_t rows = end - first;
      contexts_.clear(), wanted_.clear();
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t low = std::max<int64_t>(0, r - s_.window + 1);
        rows_[r].place = r, rows_[r].context = int64_t(contexts_.size()), rows_[r].length = r - low + 1;
        for (int64_t e = low; e <= r; ++e) contexts_.push_back(e);
        if (first + r >= out) wanted_.push_back(r);
      }
      if (!later) join(rows);
      rebuilt_.resize(rows * 2 * F);
      run(i, x_, rows, rebuilt_.data(), true, wanted_);
      for (int64_t at = std::max(first, end - s_.capacity); at < end; ++at)
        std::memcpy(memory[i] + (slot * s_.capacity + at % s_.capacity) * 2 * F, &rebuilt_[(at - first) * 2 * F],
                    2 * F * sizeof(T));
      rows_.erase(rows_.begin(), rows_.begin() + (out - first));
      first = out;
    }
    std::fill_n(position, s_.capacity, NEVER);
    for (int64_t at = std::max({begin, end - s_.capacity, end - s_.window}); at < end; ++at)
      position[at % s_.capacity] = at;
  }

private:
  static constexpr int64_t NEVER = -(int64_t(1) << 40);

  struct Layer {
    const T *attention_norm, *norm;
    const W *qkv, *out, *gate_up, *down;
  };
  struct Row {
    int64_t sequence, position, place, token; // place: entry of the memory that this row fills
    int64_t context, length;                  // entries that it sees: contexts_[context ...]
  };

  // The rows to take in, oldest first; without a new one the newest is taken in again.
  void take(const DraftArguments &a) {
    const auto *slots = reinterpret_cast<const int64_t *>(a.slots), *first = reinterpret_cast<const int64_t *>(a.first);
    const auto *end = reinterpret_cast<const int64_t *>(a.end);
    auto *position = reinterpret_cast<int64_t *>(a.position);
    rows_.clear(), contexts_.clear(), newest_.clear();
    for (int64_t i = 0; i < a.sequences; ++i) {
      const int64_t base = slots[i] * s_.capacity;
      for (int64_t at = first[i]; at < end[i]; ++at) position[base + at % s_.capacity] = at;
      for (int64_t at = first[i]; at < end[i]; ++at) {
        int64_t low = std::max<int64_t>(0, at - s_.window + 1);
        while (position[base + low % s_.capacity] != low) ++low;
        rows_.push_back({i, at, base + at % s_.capacity, slots[i] * a.ring + at % a.ring, int64_t(contexts_.size()),
                         at - low + 1});
        for (; low <= at; ++low) contexts_.push_back(base + low % s_.capacity);
      }
      newest_.push_back(int64_t(rows_.size()) - 1);
    }
    fetch(a);
  }

  void load_rows(const DraftArguments &a, int64_t slot, int64_t first, int64_t end) {
    rows_.clear();
    for (int64_t at = first; at < end; ++at) rows_.push_back({0, at, 0, slot * a.ring + at % a.ring, 0, 0});
    fetch(a);
  }

  // Hidden states and tokens of all rows from the feature ring.
  void fetch(const DraftArguments &a) {
    const T *hidden = reinterpret_cast<const T *>(a.hidden);
    const auto *tokens = reinterpret_cast<const int64_t *>(a.tokens);
    x_.resize(rows_.size() * s_.hidden);
    for (size_t r = 0; r < rows_.size(); ++r) {
      std::memcpy(&x_[r * s_.hidden], hidden + rows_[r].token * s_.hidden, s_.hidden * sizeof(T));
      rows_[r].token = tokens[rows_[r].token];
    }
  }

  void everything(int64_t rows) {
    wanted_.resize(rows);
    std::iota(wanted_.begin(), wanted_.end(), 0);
  }

  // The newest rows of stage `i`'s output, if heads use it. Features count from the last stage.
  void keep(int64_t i, const T *x) {
    const int64_t feature = s_.stages - i, F = s_.hidden;
    if (feature < s_.features)
      for (size_t n = 0; n < newest_.size(); ++n)
        std::memcpy(&features_[(n * s_.features + feature) * F], x + newest_[n] * F, F * sizeof(T));
  }

  void join(int64_t rows) {
    const int64_t F = s_.hidden;
    joined_.resize(rows * 2 * F);
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(&joined_[r * 2 * F], &x_[r * F], F * sizeof(T));
      rms_norm<T>(embedding_ + rows_[r].token * F, 1, F, nullptr, eps_, &joined_[r * 2 * F + F], F);
    }
    m_.linear(joined_.data(), 2 * F, 2 * F, rows, join_, nullptr, x_.data(), F, false);
    own_adapters(rows, true);
    adapters_.change_rows(4 * layers_.size(), joined_.data(), rows, x_.data());
  }

  // Adapters: four sites a layer in the order of `Layer`, then join and residuals.
  void adapt(const DraftArguments &a) {
    adapters_.begin(reinterpret_cast<const int64_t *>(a.adapters), reinterpret_cast<const void *>(a.stack), a.rank);
    if (!adapters_) return;
    const int64_t F = s_.hidden;
    for (size_t i = 0; i < layers_.size(); ++i) {
      adapters_.site(1, F, 3 * F), adapters_.site(1, F, F);
      adapters_.site(1, F, 2 * s_.inner), adapters_.site(1, s_.inner, F);
    }
    adapters_.site(1, 2 * F, F), adapters_.site(s_.drafts, F, F);
  }

  void own_adapters(int64_t rows, bool stage) {
    adapters_.rows(rows, [&](int64_t r) { return stage ? rows_[r].sequence : r / s_.drafts; });
  }

  // Layer `index` over all rows; afterwards `all` holds the wanted ones. Stages see their memory through the window, the
  // block's rows all drafts of their sequence.
  void run(int64_t index, std::vector<T> &all, int64_t rows, T *memory, bool stage, const std::vector<int64_t> &wanted) {
    T *x = all.data();
    const Layer &w = layers_[index];
    const size_t site = 4 * index;
    own_adapters(rows, stage);
    adapters_.narrow_normed(site, x, rows, w.attention_norm, eps_);
    const int64_t F = s_.hidden, H = s_.heads, E = F / H, K = s_.drafts, panels = padded(E) / LANES, stride = 2 * F;
    queries_.resize(rows * F), attended_.resize(rows * F);
    m_.items(3 * H, [&](int64_t head, Scratch<T> &s) {
      const T *normal = m_.normed(s, x, rows, F, w.attention_norm);
      s.made.resize(rows * padded(E));
      product(normal, F, rows, w.qkv + head * panels * LANES * F, panels, F, s.made.data(), padded(E));
      for (int64_t r = 0; r < rows; ++r) {
        T *made = &s.made[r * padded(E)];
        adapters_.widen(site, r, head * E, E, made);
        T *to = head < H ? &queries_[r * F + head * E] : memory + (stage ? rows_[r].place : r) * stride + (head - H) * E;
        if (stage && head < 2 * H)
          rotate(made, rotations_ + rows_[r].position * 2 * E, E, to);
        else
          std::memcpy(to, made, E * sizeof(T));
      }
    });
    if (!stage) {
      identity_.resize(rows);
      for (int64_t r = 0; r < rows; ++r) identity_[r] = r;
    }
    const int64_t groups = stage ? int64_t(wanted.size()) : rows / K;
    m_.items(groups * H, [&](int64_t unit, Scratch<T> &s) {
      const int64_t group = stage ? wanted[unit / H] : unit / H, head = unit % H;
      const int64_t *slots = stage ? &contexts_[rows_[group].context] : &identity_[group * K];
      const Group g{0, stage ? rows_[group].length : K, stage ? 1 : K, FULL, stage ? group : group * K};
      const Context<T> context{memory + head * E, memory + (H + head) * E, stride, E, slots};
      const int64_t from = g.first_row * F + head * E;
      for (int64_t first = 0; first < g.rows; first += Attention<T>::QUERIES) {
        const int64_t count = std::min(Attention<T>::QUERIES, g.rows - first);
        s.attention.run(context, g, nullptr, first, count, 1, &queries_[from + first * F], F, &attended_[from + first * F], F);
      }
    });
    const int64_t left = int64_t(wanted.size());
    if (left < rows)
      for (int64_t r = 0; r < left; ++r) {
        std::memmove(x + r * F, x + wanted[r] * F, F * sizeof(T));
        std::memmove(&attended_[r * F], &attended_[wanted[r] * F], F * sizeof(T));
        adapters_.move(wanted[r], r);
      }
    all.resize(left * F);
    m_.linear(attended_.data(), F, F, left, w.out, nullptr, x, F, true);
    adapters_.change_rows(site + 1, attended_.data(), left, x);
    if (!adapters_) return m_.feed_forward(x, left, F, w.norm, w.gate_up, w.down, s_.inner);
    adapters_.narrow_normed(site + 2, x, left, w.norm, eps_);
    m_.feed_forward(x, left, F, w.norm, w.gate_up, w.down, s_.inner, [&](int64_t first, int64_t count, T *made, int64_t ld) {
      for (int64_t r = 0; r < left; ++r)
        for (int64_t p = 0; p < count; ++p) {
          const int64_t at = (first + p) * LANES, here = std::min(LANES, s_.inner - at);
          T *pair = made + r * ld + 2 * p * LANES;
          adapters_.widen(site + 2, r, at, here, pair);
          adapters_.widen(site + 2, r, s_.inner + at, here, pair + LANES);
        }
    });
    adapters_.change_rows(site + 3, m_.inner(), left, x);
  }

  Machine<T, W> m_;
  Adapters<T, W> adapters_{m_};
  AmphistaSizes s_;
  T eps_;
  std::vector<int64_t> sources_;
  std::vector<Layer> layers_;
  const T *embedding_, *rotations_, *places_, *norm_;
  const W *join_, *residuals_, *lm_head_;
  std::vector<Row> rows_;
  std::vector<int64_t> contexts_, newest_, wanted_, identity_;
  std::vector<T> x_, joined_, features_, queries_, attended_, drafts_, block_memory_, rebuilt_, normed_;
};

} // namespace od
