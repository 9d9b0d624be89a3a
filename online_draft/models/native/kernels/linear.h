// Products of rows with packed weights. Every output is one sum over k in ascending order, whatever the number
// of rows: a row's result does not depend on what else is in the batch.
#pragma once
#include "vector.h"

namespace od {

// A weight [outs, ins] as panels of 16 outputs: [outs / 16][ins][16], padded with zeros.
template <class T> void pack(const T *weight, int64_t outs, int64_t ins, T *panels) {
  for (int64_t o = 0; o < padded(outs); ++o)
    for (int64_t k = 0; k < ins; ++k)
      panels[(o / LANES * ins + k) * LANES + o % LANES] = o < outs ? weight[o * ins + k] : T(0);
}

template <class T, int R, int P>
inline void tile(const T *x, int64_t ldx, const T *w, int64_t ins, T *y, int64_t ldy) {
  Vec<T> acc[R][P] = {};
  for (int64_t k = 0; k < ins; ++k) {
    Vec<T> panel[P];
    for (int p = 0; p < P; ++p) panel[p] = load(w + (p * ins + k) * LANES);
    for (int r = 0; r < R; ++r)
      for (int p = 0; p < P; ++p) acc[r][p] += panel[p] * x[r * ldx + k];
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) store(y + r * ldy + p * LANES, acc[r][p]);
}

template <class T, int P>
inline void rows_of(const T *x, int64_t ldx, int64_t rows, const T *w, int64_t ins, T *y, int64_t ldy) {
  while (rows >= 6) {
    tile<T, 6, P>(x, ldx, w, ins, y, ldy);
    x += 6 * ldx, y += 6 * ldy, rows -= 6;
  }
  switch (rows) {
  case 5: return tile<T, 5, P>(x, ldx, w, ins, y, ldy);
  case 4: return tile<T, 4, P>(x, ldx, w, ins, y, ldy);
  case 3: return tile<T, 3, P>(x, ldx, w, ins, y, ldy);
  case 2: return tile<T, 2, P>(x, ldx, w, ins, y, ldy);
  case 1: return tile<T, 1, P>(x, ldx, w, ins, y, ldy);
  }
}

// y[rows, panels * 16] = x[rows, ins] times `panels` consecutive panels.
template <class T>
void product(const T *x, int64_t ldx, int64_t rows, const T *w, int64_t panels, int64_t ins, T *y, int64_t ldy) {
  while (panels >= 4) {
    rows_of<T, 4>(x, ldx, rows, w, ins, y, ldy);
    w += 4 * ins * LANES, y += 4 * LANES, panels -= 4;
  }
  switch (panels) {
  case 3: return rows_of<T, 3>(x, ldx, rows, w, ins, y, ldy);
  case 2: return rows_of<T, 2>(x, ldx, rows, w, ins, y, ldy);
  case 1: return rows_of<T, 1>(x, ldx, rows, w, ins, y, ldy);
  }
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
    for (i = 0; i < size; ++i) y[i] = x[i] * factor * (weight ? weight[i] : T(1));
  }
}

} // namespace od
