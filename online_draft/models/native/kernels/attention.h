// Attention of one key-value head's queries over KV slots, in tiles of 16 context entries.
//
// Entry e of a row is the token at position e of the row's own path, so sums run in the order in which plain
// decoding runs them, and entries that it doesn't see add exactly zero.
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

// The values of entries, wherever they are.
template <class T> struct Values {
  const T *const *entry;
  template <Place> Vec<T> at(int64_t panel, int64_t e) const { return load(entry[e] + panel * LANES); }
};

// Scratch of one thread.
template <class T> struct Attention {
  static constexpr int64_t QUERIES = 48; // at a time, to share transposed keys
  static constexpr int64_t TILES = 12;   // of keys transposed at a time
  int64_t size, wide;
  Array<T> asked, keys, scores, spread, mixed;
  std::vector<const T *> values;
  struct Path {
    int64_t start, moved, depth, length; // of a tree: its rows in `nodes`, how many of them lie where they belong
  };
  std::vector<Path> paths;
  std::vector<int64_t> nodes;

  // Keys of `count` entries as panels: [tiles][size][16], zeros for missing ones.
  void fetch_keys(const Context<T> &c, const int64_t *slots, int64_t count) {
    T *to = keys.data();
    for (; count > 0; count -= LANES, slots += LANES, to += size * LANES) {
      const T *from[LANES];
      for (int64_t e = 0; e < LANES; ++e) from[e] = e < count ? c.keys + slots[e] * c.stride : zeros.data();
      int64_t d = 0;
      for (; d + LANES <= size; d += LANES) {
        Vec<T> block[LANES];
        for (int64_t e = 0; e < LANES; ++e) block[e] = load(from[e] + d);
        transpose<T>(block);
        for (int64_t e = 0; e < LANES; ++e) store(to + (d + e) * LANES, block[e]);
      }
      for (; d < size; ++d)
        for (int64_t e = 0; e < LANES; ++e) to[d * LANES + e] = from[e][d];
    }
  }

  // Where the values are; padded copies if the head isn't made of whole panels.
  void fetch_values(const Context<T> &c, int64_t count) {
    values.resize(count);
    for (int64_t e = 0; e < count; ++e) values[e] = c.values + c.slots[e] * c.stride;
    if (size == wide) return;
    spread.resize(count * wide);
    for (int64_t e = 0; e < count; ++e) {
      std::memcpy(&spread[e * wide], values[e], size * sizeof(T));
      values[e] = &spread[e * wide];
    }
  }

  // Which entries each row sees. Parents come before their children.
  void find_paths(const Group &g, const int32_t *parents, int64_t first, int64_t rows) {
    nodes.clear(), paths.clear();
    for (int64_t r = first; r < first + rows; ++r) {
      Path p{int64_t(nodes.size()), 0, 0, g.kind == FULL ? g.length : g.length + r + 1};
      if (g.kind == TREE) {
        for (int64_t row = r; row >= 0; row = parents[row]) nodes.push_back(row);
        std::reverse(nodes.begin() + p.start, nodes.end());
        p.depth = int64_t(nodes.size()) - p.start, p.length = g.length + p.depth;
        while (p.moved < p.depth && nodes[p.start + p.moved] == p.moved) ++p.moved;
      }
      paths.push_back(p);
    }
  }
  int64_t at(int64_t row, int64_t i) const { return nodes[paths[row].start + i]; }

  // Rows first .. first + rows - 1 of a group, `heads` queries each. `parents` are rows of the group.
  //
  // A tree's rows are scored against all rows before them. Each row then closes up the scores of its own path, so
  // that its softmax is that of plain decoding, and its weights go back to where the values are: the rows that
  // aren't on the path weigh exactly zero.
  void run(const Context<T> &c, const Group &g, const int32_t *parents, int64_t first, int64_t rows, int64_t heads,
           const T *queries, int64_t ldq, T *out, int64_t ldo) {
    const int64_t count = rows * heads, entries = g.kind == FULL ? g.length : g.length + first + rows;
    const int64_t lds = padded(entries) | LANES; // an odd number of cache lines: rows don't meet in the cache
    size = c.size, wide = padded(size);
    grow(asked, count * size), grow(keys, TILES * LANES * size), grow(scores, count * lds), grow(mixed, count * wide);
    grow(zeros, size), grow(totals, count);
    const T scale = T(1.44269504088896341) / std::sqrt(T(size)); // powers of two are cheaper than those of e
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < heads * size; ++i) asked[r * heads * size + i] = queries[r * ldq + i] * scale;
    for (int64_t e = 0; e < entries; e += TILES * LANES) {
      const int64_t here = std::min(TILES * LANES, entries - e);
      fetch_keys(c, c.slots + e, here);
      product(asked.data(), size, count, keys.data(), padded(here) / LANES, size, &scores[e], lds);
    }
    find_paths(g, parents, first, rows);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t q = r * heads; q < (r + 1) * heads; ++q) {
        T *own = &scores[q * lds + g.length];
        for (int64_t i = paths[r].moved; i < paths[r].depth; ++i) own[i] = own[at(r, i)];
      }
    for (int64_t q = 0; q < count; ++q)
      totals[q] = exponentials(&scores[q * lds], paths[q / heads].length, padded(entries));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t q = r * heads; q < (r + 1) * heads; ++q) {
        T *own = &scores[q * lds + g.length];
        for (int64_t i = paths[r].depth - 1; i >= paths[r].moved; --i) std::swap(own[i], own[at(r, i)]);
      }
    fetch_values(c, entries);
    product_of(scores.data(), lds, count, Values<T>{values.data()}, wide / LANES, entries, mixed.data(), wide);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t q = r * heads + h;
        const T share = 1 / totals[q];
        for (int64_t d = 0; d < size; ++d) out[r * ldo + h * size + d] = mixed[q * wide + d] * share;
      }
  }

  // Scores as powers of two relative to the largest, and their sum; zeros from `length` to `end`, a multiple of 16.
  static T exponentials(T *s, int64_t length, int64_t end) {
    const int64_t full = padded(length);
    T *last = s + full - LANES;
    typename Lanes<T>::I lane;
    for (int64_t i = 0; i < LANES; ++i) lane[i] = i;
    store(last, lane < int32_t(s + length - last) ? load(last) : splat(-std::numeric_limits<T>::infinity()));
    for (int64_t e = full; e < end; e += LANES) store(s + e, Vec<T>{});
    Vec<T> top = load(s);
    for (int64_t e = LANES; e < full; e += LANES) top = larger<T>(top, load(s + e));
    const T m = maximum<T>(top);
    Vec<T> total = {};
    for (int64_t e = 0; e < full; e += LANES) {
      const Vec<T> p = power_of_two(load(s + e) - m);
      total += p;
      store(s + e, p);
    }
    return sum<T>(total);
  }

private:
  static void grow(Array<T> &v, int64_t size) {
    if (int64_t(v.size()) < size) v.resize(size);
  }

  Array<T> zeros, totals;
};

} // namespace od
