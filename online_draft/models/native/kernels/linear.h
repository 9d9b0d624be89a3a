// Products of rows with packed weights. Every output is one sum over k in ascending order, whatever the number
// of rows: a row's result does not depend on what else is in the batch.
#pragma once
#include <type_traits>
#include "vector.h"

namespace od {

// A weight [outs, ins] as panels of 16 outputs: [outs / 16][ins][16], padded with zeros. Bfloat16 weights of a float
// product lie in pairs, [outs / 16][ins / 2][16][2] and the odd last input behind: one load and one operation each
// make sixteen floats.
template <class T, class W> void pack(const T *weight, int64_t outs, int64_t ins, W *panels) {
  for (int64_t o = 0; o < padded(outs); ++o) {
    W *panel = panels + o / LANES * ins * LANES;
    for (int64_t k = 0; k < ins; ++k) {
      const T x = o < outs ? weight[o * ins + k] : T(0);
      if constexpr (std::is_same_v<W, Half>) {
        const bool paired = k < ins / 2 * 2;
        panel[paired ? k / 2 * 2 * LANES + o % LANES * 2 + k % 2 : k * LANES + o % LANES] = narrowed(float(x));
      } else
        panel[k * LANES + o % LANES] = x;
    }
  }
}

// Where a product takes its weights from: at<PLACE>(panel, k) are the sixteen of input k.
template <class T, class W> struct Panels {
  const W *weights;
  int64_t ins;
  template <Place PLACE> Vec<T> at(int64_t panel, int64_t k) const {
    const W *from = weights + (panel * ins + k) * LANES;
    if constexpr (std::is_same_v<W, Half>)
      return widened<PLACE>(PLACE == HIGH ? from - LANES : from);
    else
      return load(from);
  }
};

template <Place PLACE, class T, int R, int P, class Source>
__attribute__((always_inline)) inline void add(const T *x, int64_t ldx, const Source &w, int64_t panel, int64_t k,
                                               Vec<T> (&acc)[R][P]) {
  Vec<T> column[P];
  for (int p = 0; p < P; ++p) column[p] = w.template at<PLACE>(panel + p, k);
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) acc[r][p] += column[p] * x[r * ldx + k];
}

template <class T, int R, int P, class Source>
inline void tile(const T *x, int64_t ldx, const Source &w, int64_t panel, int64_t ins, T *y, int64_t ldy) {
  Vec<T> acc[R][P] = {};
  int64_t k = 0;
  for (; k + 1 < ins; k += 2) {
    add<LOW, T, R, P>(x, ldx, w, panel, k, acc);
    add<HIGH, T, R, P>(x, ldx, w, panel, k + 1, acc);
  }
  if (k < ins) add<ALONE, T, R, P>(x, ldx, w, panel, k, acc);
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) store(y + r * ldy + p * LANES, acc[r][p]);
}

// One tile of `rows` rows, at most R.
template <class T, int R, int P, class Source>
inline void up_to(int64_t rows, const T *x, int64_t ldx, const Source &w, int64_t panel, int64_t ins, T *y,
                  int64_t ldy) {
  if constexpr (R > 1)
    if (rows < R) return up_to<T, R - 1, P>(rows, x, ldx, w, panel, ins, y, ldy);
  tile<T, R, P>(x, ldx, w, panel, ins, y, ldy);
}

// All rows in tiles of at most R, as equal as possible, for P panels at a time, from `panel` on.
template <class T, int R, int P, class Source>
void tiled(const T *x, int64_t ldx, int64_t rows, const Source &w, int64_t panel, int64_t panels, int64_t ins, T *y,
           int64_t ldy) {
  for (; panel + P <= panels; panel += P) {
    int64_t done = 0;
    for (int64_t tiles = (rows + R - 1) / R; tiles > 0; --tiles) {
      const int64_t here = (rows - done + tiles - 1) / tiles;
      up_to<T, R, P>(here, x + done * ldx, ldx, w, panel, ins, y + done * ldy + panel * LANES, ldy);
      done += here;
    }
  }
  if constexpr (P > 1)
    if (panel < panels) tiled<T, R, P - 1>(x, ldx, rows, w, panel, panels, ins, y, ldy);
}

// y[rows, panels * 16] = x[rows, ins] times panels of a source. Tiles are
// as large as the registers hold: 24 to 28 accumulators, so that each weight that is read, and widened, serves as
// many rows as possible.
template <class T, class Source>
void product_of(const T *x, int64_t ldx, int64_t rows, const Source &w, int64_t panels, int64_t ins, T *y,
                int64_t ldy) {
  if (rows <= 6)
    tiled<T, 6, 4>(x, ldx, rows, w, 0, panels, ins, y, ldy);
  else if (rows <= 8)
    tiled<T, 8, 3>(x, ldx, rows, w, 0, panels, ins, y, ldy);
  else
    tiled<T, 14, 2>(x, ldx, rows, w, 0, panels, ins, y, ldy);
}

template <class T, class W>
void product(const T *x, int64_t ldx, int64_t rows, const W *w, int64_t panels, int64_t ins, T *y, int64_t ldy) {
  product_of(x, ldx, rows, Panels<T, W>{w, ins}, panels, ins, y, ldy);
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
