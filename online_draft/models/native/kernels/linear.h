// Products of rows with packed weights. Every output is one sum over k in ascending order, whatever the number
// of rows: a row's result does not depend on what else is in the batch.
#pragma once
#include <type_traits>
#include "vector.h"

namespace od {

// A weight [outs, ins] as panels of 16 outputs: [outs / 16][ins][16], padded with zeros.
// Weights may be stored narrower (W) than the type that is computed in (T).
template <class T, class W> void pack(const T *weight, int64_t outs, int64_t ins, W *panels) {
  const auto stored = [](T x) {
    if constexpr (std::is_same_v<W, Half>)
      return narrowed(float(x));
    else
      return x;
  };
  for (int64_t o = 0; o < padded(outs); ++o)
    for (int64_t k = 0; k < ins; ++k)
      panels[(o / LANES * ins + k) * LANES + o % LANES] = stored(o < outs ? weight[o * ins + k] : T(0));
}

template <class T, class W, int R, int P>
inline void tile(const T *x, int64_t ldx, const W *w, int64_t ins, T *y, int64_t ldy) {
  Vec<T> acc[R][P] = {};
  for (int64_t k = 0; k < ins; ++k) {
    Vec<T> panel[P];
    for (int p = 0; p < P; ++p) panel[p] = load_weights<T>(w + (p * ins + k) * LANES);
    for (int r = 0; r < R; ++r)
      for (int p = 0; p < P; ++p) acc[r][p] += panel[p] * x[r * ldx + k];
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) store(y + r * ldy + p * LANES, acc[r][p]);
}

// One tile of `rows` rows, at most R.
template <class T, class W, int R, int P>
inline void up_to(int64_t rows, const T *x, int64_t ldx, const W *w, int64_t ins, T *y, int64_t ldy) {
  if constexpr (R > 1)
    if (rows < R) return up_to<T, W, R - 1, P>(rows, x, ldx, w, ins, y, ldy);
  tile<T, W, R, P>(x, ldx, w, ins, y, ldy);
}

// All rows in tiles of at most R, as equal as possible, for P panels at a time.
template <class T, class W, int R, int P>
void tiled(const T *x, int64_t ldx, int64_t rows, const W *w, int64_t panels, int64_t ins, T *y, int64_t ldy) {
  for (; panels >= P; panels -= P, w += P * ins * LANES, y += P * LANES) {
    int64_t done = 0;
    for (int64_t tiles = (rows + R - 1) / R; tiles > 0; --tiles) {
      const int64_t here = (rows - done + tiles - 1) / tiles;
      up_to<T, W, R, P>(here, x + done * ldx, ldx, w, ins, y + done * ldy, ldy);
      done += here;
    }
  }
  if constexpr (P > 1)
    if (panels) tiled<T, W, R, P - 1>(x, ldx, rows, w, panels, ins, y, ldy);
}

// y[rows, panels * 16] = x[rows, ins] times `panels` consecutive panels. Tiles are as large as the registers hold:
// 24 to 28 accumulators, so that each weight that is read, and widened, serves as many rows as possible.
template <class T, class W>
void product(const T *x, int64_t ldx, int64_t rows, const W *w, int64_t panels, int64_t ins, T *y, int64_t ldy) {
  if (rows <= 6)
    tiled<T, W, 6, 4>(x, ldx, rows, w, panels, ins, y, ldy);
  else if (rows <= 8)
    tiled<T, W, 8, 3>(x, ldx, rows, w, panels, ins, y, ldy);
  else
    tiled<T, W, 14, 2>(x, ldx, rows, w, panels, ins, y, ldy);
}

// y = weight * x / sqrt(mean(x^2) + eps), per row. `weight` may be null.
template <class T>
void rms_norm(const T *x, int64_t rows, int64_t size, const T *weight, T eps, T *y, int64_t ldy) {
  for (int64_t r = 0; r < rows; ++r, x += size, y += ldy) {
    Vec<T> squares = {};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) squares += load(x + i) * load(x + i);
    T total = sum<T>(squares);
    for (; i < size; ++i) total += x[i] * x[i];
    const T factor = 1 / std::sqrt(total / size + eps);
    if (weight)
      for (i = 0; i < size; ++i) y[i] = x[i] * factor * weight[i];
    else
      for (i = 0; i < size; ++i) y[i] = x[i] * factor;
  }
}

} // namespace od
