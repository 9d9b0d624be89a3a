// The C interface. Handles are opaque; every array belongs to the caller and outlives the handle.
#include "target.h"

using namespace od;

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int64_t od_version() { return 1; }
EXPORT void *od_pool_new(int64_t threads, int64_t spin_us) { return new Pool(threads, spin_us); }
EXPORT void od_pool_free(void *pool) { delete static_cast<Pool *>(pool); }

#define FOR_TYPE(T, NAME)                                                                                              \
  EXPORT void od_pack_##NAME(const T *weight, int64_t outs, int64_t ins, T *panels) { pack(weight, outs, ins, panels); } \
  EXPORT void *od_target_new_##NAME(void *pool, const int64_t *sizes, const T *const *weights, double eps) {           \
    return new Target<T>(static_cast<Pool *>(pool), *reinterpret_cast<const Sizes *>(sizes), weights, eps);            \
  }                                                                                                                    \
  EXPORT void od_target_free_##NAME(void *target) { delete static_cast<Target<T> *>(target); }                         \
  EXPORT void od_target_step_##NAME(void *target, const int64_t *arguments) {                                          \
    static_cast<Target<T> *>(target)->step(*reinterpret_cast<const StepArguments *>(arguments));                       \
  }

FOR_TYPE(float, f32)
FOR_TYPE(double, f64)
