// The C interface. Handles are opaque; every array belongs to the caller and outlives the handle.
#include "amphista.h"
#include "commit.h"
#include "medusa.h"
#include "peak.h"
#include "sample.h"
#include "target.h"
#include "tree.h"

using namespace od;

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void *od_pool_new(int64_t threads, int64_t spin_us) { return new Pool(threads, spin_us); }
EXPORT void od_pool_free(void *pool) { delete static_cast<Pool *>(pool); }

// T is computed in, W is how packed weights are stored.
#define FOR_TYPES(T, W, NAME)                                                                                             \
  EXPORT void od_pack_##NAME(const T *weight, int64_t outs, int64_t ins, W *panels) { pack(weight, outs, ins, panels); } \
  EXPORT int64_t od_peak_##NAME(void *pool, int64_t repeats) { return peak<T, W>(static_cast<Pool *>(pool), repeats); } \
  EXPORT void *od_target_new_##NAME(void *pool, const int64_t *sizes, const void *const *weights, double eps) {           \
    return new Target<T, W>(static_cast<Pool *>(pool), *reinterpret_cast<const Sizes *>(sizes), weights, eps);            \
  }                                                                                                                    \
  EXPORT void od_target_free_##NAME(void *target) { delete static_cast<Target<T, W> *>(target); }                         \
  EXPORT void od_target_step_##NAME(void *target, const int64_t *arguments) {                                          \
    static_cast<Target<T, W> *>(target)->step(*reinterpret_cast<const StepArguments *>(arguments));                       \
  }                                                                                                                    \
  EXPORT void od_target_head_##NAME(void *target, const int64_t *arguments) {                                          \
    static_cast<Target<T, W> *>(target)->head(*reinterpret_cast<const StepArguments *>(arguments));                    \
  }                                                                                                                    \
  EXPORT void *od_amphista_new_##NAME(void *pool, const int64_t *sizes, const void *const *weights,                       \
                                      const int64_t *sources, double eps) {                                           \
    return new Amphista<T, W>(static_cast<Pool *>(pool), *reinterpret_cast<const AmphistaSizes *>(sizes), weights,        \
                           sources, eps);                                                                              \
  }                                                                                                                    \
  EXPORT void od_amphista_free_##NAME(void *drafter) { delete static_cast<Amphista<T, W> *>(drafter); }                   \
  EXPORT void od_amphista_draft_##NAME(void *drafter, const int64_t *arguments) {                                      \
    static_cast<Amphista<T, W> *>(drafter)->draft(*reinterpret_cast<const DraftArguments *>(arguments));                  \
  }                                                                                                                    \
  EXPORT void od_amphista_rebuild_##NAME(void *drafter, const int64_t *arguments) {                                    \
    static_cast<Amphista<T, W> *>(drafter)->rebuild(*reinterpret_cast<const DraftArguments *>(arguments));                \
  }                                                                                                                    \
  EXPORT void *od_medusa_new_##NAME(void *pool, const int64_t *sizes, const void *const *weights) {                     \
    return new Medusa<T, W>(static_cast<Pool *>(pool), *reinterpret_cast<const MedusaSizes *>(sizes), weights);         \
  }                                                                                                                     \
  EXPORT void od_medusa_free_##NAME(void *drafter) { delete static_cast<Medusa<T, W> *>(drafter); }                     \
  EXPORT void od_medusa_draft_##NAME(void *drafter, const int64_t *arguments) {                                         \
    static_cast<Medusa<T, W> *>(drafter)->draft(*reinterpret_cast<const MedusaArguments *>(arguments));                 \
  }                                                                                                                     \
  EXPORT void *od_trees_new_##NAME(void *pool) { return new Trees<T, W>(static_cast<Pool *>(pool)); }                     \
  EXPORT void od_trees_free_##NAME(void *trees) { delete static_cast<Trees<T, W> *>(trees); }                             \
  EXPORT void od_trees_build_##NAME(void *trees, const int64_t *arguments) {                                           \
    static_cast<Trees<T, W> *>(trees)->build(*reinterpret_cast<const TreeArguments *>(arguments));                        \
  }

#define FOR_TYPE(T, NAME)                                                                                              \
  EXPORT int64_t od_sample_##NAME(const T *logits, int64_t vocab, double temperature, int64_t key) {                   \
    return sample<T>(logits, vocab, T(temperature), uint64_t(key));                                                    \
  }                                                                                                                    \
  EXPORT void od_commit_##NAME(const int64_t *arguments) {                                                             \
    commit<T>(*reinterpret_cast<const CommitArguments *>(arguments));                                                  \
  }

FOR_TYPES(float, float, f32)
FOR_TYPES(float, Half, f32_bf16)
FOR_TYPES(double, double, f64)
FOR_TYPE(float, f32)
FOR_TYPE(double, f64)
