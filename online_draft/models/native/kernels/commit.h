// What a step leaves behind: accepted rows move together in the cache, new rows enter the feature ring.
#pragma once
#include <vector>
#include "vector.h"

namespace od {

struct CommitArguments {
  int64_t kv, layers, kv_slots, width, moves, source, destination; // slots to slots, in all layers
  int64_t hidden, size, rows, row, place, token, ring_hidden, ring_tokens;
};

template <class T> void commit(const CommitArguments &a) {
  const auto *source = reinterpret_cast<const int64_t *>(a.source);
  const auto *destination = reinterpret_cast<const int64_t *>(a.destination);
  std::vector<T> held(a.moves * a.width);
  for (int64_t layer = 0; layer < a.layers && a.moves; ++layer) {
    T *kv = reinterpret_cast<T *>(a.kv) + layer * a.kv_slots * a.width;
    for (int64_t i = 0; i < a.moves; ++i)
      std::memcpy(&held[i * a.width], kv + source[i] * a.width, a.width * sizeof(T));
    for (int64_t i = 0; i < a.moves; ++i)
      std::memcpy(kv + destination[i] * a.width, &held[i * a.width], a.width * sizeof(T));
  }
  const auto *row = reinterpret_cast<const int64_t *>(a.row), *place = reinterpret_cast<const int64_t *>(a.place);
  const auto *token = reinterpret_cast<const int64_t *>(a.token);
  const T *hidden = reinterpret_cast<const T *>(a.hidden);
  T *ring_hidden = reinterpret_cast<T *>(a.ring_hidden);
  auto *ring_tokens = reinterpret_cast<int64_t *>(a.ring_tokens);
  for (int64_t i = 0; i < a.rows; ++i) {
    std::memcpy(ring_hidden + place[i] * a.size, hidden + row[i] * a.size, a.size * sizeof(T));
    ring_tokens[place[i]] = token[i];
  }
}

} // namespace od
