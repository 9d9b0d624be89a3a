// Attention of one key-value head's queries over KV slots, in tiles of 16 context entries.
//
// Entry e of a row is the token at position e of the row's own path, so sums run in the order in which plain
// decoding runs them, and trailing masked entries add exactly zero.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>
#include "linear.h"

namespace od {

enum Kind : int64_t { CAUSAL = 0, TREE = 1, FULL = 2 };

// The rows of one sequence in a step. Causal rows (a prompt chunk) see everything before them. Tree rows see the
// first `length` entries and their own chain of parents; the root is row 0. Full rows see `length` entries.
struct Group {
  int64_t sequence, length, rows, kind, first_row;
};

template <class T> struct Context {
  const T *keys;   // [slots][stride], already at the head
  const T *values;
  int64_t stride, size; // elements between slots, head size
  const int64_t *slots; // slot of each position of the sequence
};

// Scratch of one thread.
template <class T> struct Attention {
  static constexpr int64_t QUERIES = 32;
  int64_t size, wide;
  std::vector<T> asked, scores, tile_k, tile_v, mixed, zeros;
  const T *value[LANES];
  std::vector<int64_t> lengths;
  std::vector<int64_t> chains;

  void prepare(int64_t head_size, int64_t longest) {
    size = head_size, wide = padded(head_size);
    if (int64_t(scores.size()) < QUERIES * padded(longest)) scores.resize(QUERIES * padded(longest));
    asked.resize(QUERIES * size), tile_k.resize(wide * LANES), tile_v.resize(wide * LANES), zeros.resize(wide), mixed.resize(QUERIES * wide);
  }

  // Keys of up to 16 entries as tile_k[size][16], zeros for missing ones.
  void fetch_keys(const Context<T> &c, const int64_t *slots, int64_t count) {
    int64_t d = 0;
    for (; d + LANES <= size; d += LANES) {
      Vec<T> block[LANES];
      for (int64_t e = 0; e < LANES; ++e) block[e] = e < count ? load(c.keys + slots[e] * c.stride + d) : Vec<T>{};
      transpose<T>(block);
      for (int64_t e = 0; e < LANES; ++e) store(&tile_k[(d + e) * LANES], block[e]);
    }
    for (; d < size; ++d)
      for (int64_t e = 0; e < LANES; ++e) tile_k[d * LANES + e] = e < count ? c.keys[slots[e] * c.stride + d] : T(0);
  }

  // Where the values of up to 16 entries are; missing ones are zeros.
  void fetch_values(const Context<T> &c, const int64_t *slots, int64_t count) {
    for (int64_t e = 0; e < LANES; ++e) {
      const T *v = e < count ? c.values + slots[e] * c.stride : zeros.data();
      if (size != wide) {
        std::memcpy(&tile_v[e * wide], v, size * sizeof(T));
        v = &tile_v[e * wide];
      }
      value[e] = v;
    }
  }

  template <int Q> void score(const T *queries, int64_t ldq, T *out, int64_t lds) {
    Vec<T> acc[Q] = {};
    for (int64_t d = 0; d < size; ++d) {
      const Vec<T> k = load(&tile_k[d * LANES]);
      for (int q = 0; q < Q; ++q) acc[q] += k * queries[q * ldq + d];
    }
    for (int q = 0; q < Q; ++q) store(out + q * lds, acc[q]);
  }
  void score_all(const T *queries, int64_t ldq, int64_t count, T *out, int64_t lds) {
    for (; count >= 8; count -= 8, queries += 8 * ldq, out += 8 * lds) score<8>(queries, ldq, out, lds);
    for (; count >= 3; count -= 3, queries += 3 * ldq, out += 3 * lds) score<3>(queries, ldq, out, lds);
    for (; count >= 1; --count, queries += ldq, out += lds) score<1>(queries, ldq, out, lds);
  }
  template <int Q, int P> void mix_part(const T *weights, int64_t lds, T *out, int64_t d) {
    Vec<T> acc[Q][P];
    for (int q = 0; q < Q; ++q)
      for (int p = 0; p < P; ++p) acc[q][p] = load(out + q * wide + d + p * LANES);
    for (int64_t e = 0; e < LANES; ++e)
      for (int p = 0; p < P; ++p) {
        const Vec<T> v = load(value[e] + d + p * LANES);
        for (int q = 0; q < Q; ++q) acc[q][p] += v * weights[q * lds + e];
      }
    for (int q = 0; q < Q; ++q)
      for (int p = 0; p < P; ++p) store(out + q * wide + d + p * LANES, acc[q][p]);
  }
  template <int Q> void mix(const T *weights, int64_t lds, T *out) {
    int64_t d = 0;
    for (; d + 2 * LANES <= wide; d += 2 * LANES) mix_part<Q, 2>(weights, lds, out, d);
    if (d < wide) mix_part<Q, 1>(weights, lds, out, d);
  }
  void mix_all(const T *weights, int64_t lds, int64_t count, T *out) {
    for (; count >= 8; count -= 8, weights += 8 * lds, out += 8 * wide) mix<8>(weights, lds, out);
    for (; count >= 3; count -= 3, weights += 3 * lds, out += 3 * wide) mix<3>(weights, lds, out);
    for (; count >= 1; --count, weights += lds, out += wide) mix<1>(weights, lds, out);
  }

  // Rows first .. first + rows - 1 of a group, `heads` queries each. `parents` are rows of the group.
  void run(const Context<T> &c, const Group &g, const int32_t *parents, int64_t first, int64_t rows, int64_t heads,
           const T *queries, int64_t ldq, T *out, int64_t ldo) {
    lengths.resize(rows);
    int64_t deepest = 0, longest = 0;
    for (int64_t r = 0; r < rows; ++r) {
      int64_t depth = 0;
      if (g.kind == TREE)
        for (int64_t row = first + r; row >= 0; row = parents[row]) ++depth;
      lengths[r] = g.kind == TREE ? g.length + depth : g.kind == FULL ? g.length : g.length + first + r + 1;
      deepest = std::max(deepest, depth), longest = std::max(longest, lengths[r]);
    }
    chains.resize(rows * deepest);
    if (g.kind == TREE)
      for (int64_t r = 0; r < rows; ++r) {
        int64_t at = lengths[r] - g.length;
        for (int64_t row = first + r; row >= 0; row = parents[row]) chains[r * deepest + --at] = row;
      }
    prepare(c.size, longest);
    const T scale = 1 / std::sqrt(T(c.size));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < heads * c.size; ++i) asked[r * heads * c.size + i] = queries[r * ldq + i] * scale;
    const int64_t lds = padded(longest);
    const int64_t shared = g.kind == TREE ? g.length / LANES : lds / LANES; // tiles that all rows have in common
    int64_t own[LANES];
    const auto own_slots = [&](int64_t r, int64_t start) {
      int64_t count = 0;
      for (; count < LANES && start + count < lengths[r]; ++count) {
        const int64_t e = start + count;
        own[count] = c.slots[e < g.length ? e : g.length + chains[r * deepest + e - g.length]];
      }
      return count;
    };
    for (int64_t t = 0; t < shared; ++t) {
      fetch_keys(c, c.slots + t * LANES, std::min(LANES, longest - t * LANES));
      score_all(asked.data(), c.size, rows * heads, &scores[t * LANES], lds);
    }
    if (g.kind == TREE)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t t = shared; t * LANES < lengths[r]; ++t) {
          fetch_keys(c, own, own_slots(r, t * LANES));
          score_all(&asked[r * heads * c.size], c.size, heads, &scores[r * heads * lds + t * LANES], lds);
        }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t h = 0; h < heads; ++h) normalise(&scores[(r * heads + h) * lds], lengths[r], lds);
    std::fill(mixed.begin(), mixed.begin() + rows * heads * wide, T(0));
    for (int64_t t = 0; t < shared; ++t) {
      fetch_values(c, c.slots + t * LANES, std::min(LANES, longest - t * LANES));
      mix_all(&scores[t * LANES], lds, rows * heads, mixed.data());
    }
    if (g.kind == TREE)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t t = shared; t * LANES < lengths[r]; ++t) {
          fetch_values(c, own, own_slots(r, t * LANES));
          mix_all(&scores[r * heads * lds + t * LANES], lds, heads, &mixed[r * heads * wide]);
        }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t d = 0; d < size; ++d) out[r * ldo + h * size + d] = mixed[(r * heads + h) * wide + d];
  }

  // Softmax over the first `length` scores; zeros behind.
  static void normalise(T *s, int64_t length, int64_t end) {
    const int64_t full = padded(length);
    for (int64_t e = length; e < end; ++e) s[e] = e < full ? -std::numeric_limits<T>::infinity() : T(0);
    Vec<T> top = load(s);
    for (int64_t e = LANES; e < full; e += LANES) top = larger<T>(top, load(s + e));
    const T m = maximum<T>(top);
    Vec<T> total = {};
    for (int64_t e = 0; e < full; e += LANES) {
      const Vec<T> p = exponential(load(s + e) - m);
      total += p;
      store(s + e, p);
    }
    const T inverse = 1 / sum<T>(total);
    for (int64_t e = 0; e < full; e += LANES) store(s + e, load(s + e) * inverse);
  }
};

} // namespace od
