// How many operations a second the product reaches when nothing has to come from memory: the ceiling of a step.
#pragma once
#include "machine.h"

namespace od {

// Multiplications and additions done by `repeats` products in every chunk, several chunks a thread.
template <class T, class W> int64_t peak(Pool *pool, int64_t repeats) {
  constexpr int64_t rows = 12, panels = 4, ins = 192;
  const int64_t chunks = 4 * pool->threads();
  pool->run(chunks, [&](int64_t, int64_t) {
    std::vector<T> x(rows * ins, T(0.5)), y(rows * panels * LANES);
    std::vector<W> w(panels * ins * LANES, W(1));
    for (int64_t i = 0; i < repeats; ++i) product(x.data(), ins, rows, w.data(), panels, ins, y.data(), panels * LANES);
    *static_cast<volatile T *>(y.data());
  });
  return 2 * chunks * repeats * rows * panels * LANES * ins;
}

} // namespace od
