// Sixteen lanes of float or double, by the compiler's vector extensions: any CPU, no intrinsics.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace od {

constexpr int64_t LANES = 16;

template <class T> struct Lanes;
template <> struct Lanes<float> {
  typedef float V __attribute__((vector_size(LANES * 4), aligned(4)));
  typedef int32_t I __attribute__((vector_size(LANES * 4), aligned(4)));
};
template <> struct Lanes<double> {
  typedef double V __attribute__((vector_size(LANES * 8), aligned(8)));
  typedef int64_t I __attribute__((vector_size(LANES * 8), aligned(8)));
};
template <class T> using Vec = typename Lanes<T>::V;

// Memory for vectors that never straddle two cache lines.
template <class T> struct Aligned {
  typedef T value_type;
  Aligned() = default;
  template <class U> Aligned(const Aligned<U> &) {}
  T *allocate(size_t count) { return static_cast<T *>(::operator new(count * sizeof(T), std::align_val_t(64))); }
  void deallocate(T *p, size_t) { ::operator delete(p, std::align_val_t(64)); }
  bool operator==(const Aligned &) const { return true; }
};
template <class T> using Array = std::vector<T, Aligned<T>>;

inline int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

template <class T> inline Vec<T> load(const T *p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
// A bfloat16 as stored: the upper half of a float.
typedef uint16_t Half;
// Rounded to nearest, ties to even. Not for NaN.
inline Half narrowed(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return Half((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Sixteen bfloat16 as floats: the first or the second ones of sixteen pairs, or sixteen in a row.
enum Place { LOW, HIGH, ALONE };
template <Place PLACE> inline Vec<float> widened(const Half *p) {
  typedef uint16_t H __attribute__((vector_size(LANES * 2)));
  typedef uint32_t U __attribute__((vector_size(LANES * 4)));
  U bits;
  if constexpr (PLACE == ALONE) {
    H h;
    std::memcpy(&h, p, sizeof h);
    bits = __builtin_convertvector(h, U) << 16;
  } else {
    std::memcpy(&bits, p, sizeof bits);
    bits = PLACE == LOW ? bits << 16 : bits & 0xffff0000u;
  }
  Vec<float> v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

template <class T> inline void store(T *p, Vec<T> v) { std::memcpy(p, &v, sizeof v); }
template <class T> inline Vec<T> splat(T x) { return Vec<T>{} + x; }

template <class T> inline Vec<T> larger(Vec<T> a, Vec<T> b) { return a > b ? a : b; }

// One stage of transposing 16 x 16: exchanges the blocks of width W that lie off the diagonal.
template <class T, int W> inline void exchange(Vec<T> &a, Vec<T> &b) {
  constexpr auto low = [](int i) { return i & W ? LANES + i - W : i; };
  constexpr auto high = [](int i) { return i & W ? LANES + i : i + W; };
  const Vec<T> x = __builtin_shufflevector(a, b, low(0), low(1), low(2), low(3), low(4), low(5), low(6), low(7), low(8),
                                           low(9), low(10), low(11), low(12), low(13), low(14), low(15));
  b = __builtin_shufflevector(a, b, high(0), high(1), high(2), high(3), high(4), high(5), high(6), high(7), high(8),
                              high(9), high(10), high(11), high(12), high(13), high(14), high(15));
  a = x;
}
template <class T, int W> inline void exchange_all(Vec<T> *v) {
  for (int i = 0; i < LANES; ++i)
    if (!(i & W)) exchange<T, W>(v[i], v[i + W]);
}
template <class T> inline void transpose(Vec<T> *v) {
  exchange_all<T, 8>(v), exchange_all<T, 4>(v), exchange_all<T, 2>(v), exchange_all<T, 1>(v);
}

// Lanes 0 .. W-1 joined with lanes W .. 2W-1.
template <class T, int W> inline Vec<T> upper(Vec<T> v) {
  constexpr auto at = [](int i) { return (i + W) % LANES; };
  return __builtin_shufflevector(v, v, at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10),
                                 at(11), at(12), at(13), at(14), at(15));
}
// Both reductions go through the lanes in one fixed order.
template <class T> inline T sum(Vec<T> v) {
  v += upper<T, 8>(v), v += upper<T, 4>(v), v += upper<T, 2>(v);
  return v[0] + v[1];
}
template <class T> inline T maximum(Vec<T> v) {
  v = larger<T>(v, upper<T, 8>(v)), v = larger<T>(v, upper<T, 4>(v)), v = larger<T>(v, upper<T, 2>(v));
  return v[0] > v[1] ? v[0] : v[1];
}

// e^x; exactly 0 for -inf and whatever underflows. Relative error of the float form below 3e-7.
inline Vec<float> exponential(Vec<float> x) {
  typedef Lanes<float>::I I;
  const Vec<float> lowest = splat(-87.0f), highest = splat(88.0f);
  const I vanishes = x < lowest;
  x = x < lowest ? lowest : x;
  x = x > highest ? highest : x;
  const float shifter = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer
  const Vec<float> n = (x * 1.44269504088896341f + shifter) - shifter;
  const Vec<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const I power = (__builtin_convertvector(n, I) + 127) << 23;
  Vec<float> scale;
  std::memcpy(&scale, &power, sizeof scale);
  return vanishes ? Vec<float>{} : p * scale;
}
inline Vec<double> exponential(Vec<double> x) {
  Vec<double> y;
  for (int64_t i = 0; i < LANES; ++i) y[i] = std::exp(x[i]);
  return y;
}

// 2^x for x <= 0; exactly 0 for whatever underflows. Relative error of the float form below 3e-7.
inline Vec<float> power_of_two(Vec<float> x) {
  typedef Lanes<float>::I I;
  const float shifter = 12582912.0f + 127.0f; // adding it leaves the rounded integer plus 127 in the lowest bits
  const Vec<float> t = x + shifter, r = x - (t - shifter);
  Vec<float> p = splat(1.5353362e-4f);
  p = p * r + 1.3398874e-3f;
  p = p * r + 9.6184373e-3f;
  p = p * r + 5.5503324e-2f;
  p = p * r + 2.4022648e-1f;
  p = p * r + 6.9314720e-1f;
  p = p * r + 1.0f;
  I power;
  std::memcpy(&power, &t, sizeof t);
  power <<= 23;
  Vec<float> scale;
  std::memcpy(&scale, &power, sizeof scale);
  return x < -126.0f ? Vec<float>{} : p * scale;
}
inline Vec<double> power_of_two(Vec<double> x) {
  Vec<double> y;
  for (int64_t i = 0; i < LANES; ++i) y[i] = std::exp2(x[i]);
  return y;
}

template <class T> inline Vec<T> silu(Vec<T> x) { return x / (1 + exponential(-x)); }

} // namespace od
