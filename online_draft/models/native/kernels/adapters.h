// Low-rank changes to the rows of products. Which adapter a row has is its place in a stack; 0 is none.
#pragma once
#include "machine.h"

namespace od {

// The adapters' weights at one site: down [places][groups][rank][ins], up [places][groups][rank][outs].
template <class T> struct Site {
  const T *down, *up;
  int64_t rank, groups, ins, outs;

  // made[rank] = down x
  void narrow(int64_t place, int64_t group, const T *x, T *made) const {
    const T *w = down + (place * groups + group) * rank * ins;
    for (int64_t r = 0; r < rank; ++r, w += ins) {
      Vec<T> products = {};
      int64_t i = 0;
      for (; i + LANES <= ins; i += LANES) products += load(x + i) * load(w + i);
      T total = sum<T>(products);
      for (; i < ins; ++i) total += x[i] * w[i];
      made[r] = total;
    }
  }
  // y[count] += outputs first ... first + count - 1 of up made
  void widen(int64_t place, int64_t group, const T *made, int64_t first, int64_t count, T *__restrict y) const {
    const T *w = up + (place * groups + group) * rank * outs + first;
    for (int64_t r = 0; r < rank; ++r, w += outs)
      for (int64_t o = 0; o < count; ++o) y[o] += made[r] * w[o];
  }
};

// The adapters of one call. Without any every function returns at once.
template <class T, class W> class Adapters {
public:
  explicit Adapters(Machine<T, W> &machine) : m_(machine) {}
  explicit operator bool() const { return places_; }

  // places[sequences], or null for none at all; table: addresses of each site's down and up.
  void begin(const int64_t *places, const void *table, int64_t rank) {
    places_ = places, table_ = static_cast<const T *const *>(table), rank_ = rank;
    sites_.clear(), rows_.clear();
  }
  // The next site of the table.
  void site(int64_t groups, int64_t ins, int64_t outs) {
    sites_.push_back({table_[0], table_[1], rank_, groups, ins, outs}), table_ += 2;
  }
  // Whose rows the following calls are about: sequence(row).
  template <class F> void rows(int64_t rows, const F &sequence) {
    if (!places_) return;
    rows_.resize(rows);
    for (int64_t r = 0; r < rows; ++r) rows_[r] = places_[sequence(r)];
  }
  // Row `to` is what row `from` was.
  void move(int64_t from, int64_t to) {
    if (places_) rows_[to] = rows_[from];
  }

  // y += what a sequence's adapter changes at a site, for one of its groups
  void change(size_t site, int64_t sequence, int64_t group, const T *x, T *y, Scratch<T> &s) const {
    if (places_) change_row(sites_[site], places_[sequence], group, x, y, s);
  }
  // y[rows, outs] += what the rows' adapters change at a site
  void change_rows(size_t site, const T *x, int64_t rows, T *y) const {
    if (!places_) return;
    const Site<T> &w = sites_[site];
    m_.items(rows, [&](int64_t r, Scratch<T> &s) { change_row(w, rows_[r], 0, x + r * w.ins, y + r * w.outs, s); });
  }
  // In two halves: first down of a site on the rows' norms, ...
  void narrow_normed(size_t site, const T *x, int64_t rows, const T *norm, T eps) {
    if (!places_) return;
    const Site<T> &w = sites_[site];
    narrowed_.resize(rows * rank_);
    m_.items(rows, [&](int64_t r, Scratch<T> &s) {
      if (!rows_[r]) return;
      s.narrow.resize(w.ins);
      layer_norm(x + r * w.ins, 1, w.ins, norm, eps, s.narrow.data());
      w.narrow(rows_[r], 0, s.narrow.data(), &narrowed_[r * rank_]);
    });
  }
  // ... then y[count] += outputs of the same site from `first` on, for one row.
  void widen(size_t site, int64_t r, int64_t first, int64_t count, T *y) const {
    if (places_ && rows_[r]) sites_[site].widen(rows_[r], 0, &narrowed_[r * rank_], first, count, y);
  }

private:
  static void change_row(const Site<T> &w, int64_t place, int64_t group, const T *x, T *y, Scratch<T> &s) {
    if (!place) return;
    s.narrow.resize(w.rank);
    w.narrow(place, group, x, s.narrow.data());
    w.widen(place, group, s.narrow.data(), 0, w.outs, y);
  }

  Machine<T, W> &m_;
  const int64_t *places_ = nullptr;
  const T *const *table_ = nullptr;
  int64_t rank_ = 0;
  std::vector<Site<T>> sites_;
  std::vector<int64_t> rows_;
  std::vector<T> narrowed_;
};

} // namespace od
