// SPDX-License-Identifier: Apache-2.0
// Compares sigmoid and tanh with the C library in higher precision: over all of float32's range, in units in the last
// place.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "../kernels/kernel_table.h"
#include "threads.h"

namespace keras_seq {
namespace {

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The distance from `actual` to `expected` in units in the last place of float32 at `expected`.
double UnitsInTheLastPlace(float actual, double expected) {
  const float nearest = static_cast<float>(expected);
  const float above = std::nextafter(std::fabs(nearest), std::numeric_limits<float>::infinity());
  return std::fabs(actual - expected) / (above - std::fabs(nearest));
}

template <class Real>
Real ExactSigmoid(Real x) {
  return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x));
}

template <class Real>
Real ExactTanh(Real x) {
  return std::tanh(x);
}

using Function = void (*)(const void*, void*, int64_t, DataType);

void TestFloat32(const char* name, Function function, double (*exact)(double)) {
  constexpr uint32_t kStride = 1021;  // prime; gives about four million numbers, of both signs and every exponent
  std::vector<float> x;
  for (uint64_t bits = 0; bits <= 0xffffffffu; bits += kStride) {
    const float value = FromBits(static_cast<uint32_t>(bits));
    if (!std::isnan(value)) x.push_back(value);
  }
  for (float value : {0.0f, -0.0f, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    x.push_back(value);
  }
  std::vector<float> y(x.size());
  function(x.data(), y.data(), static_cast<int64_t>(x.size()), DataType::kFloat32);
  double worst = 0;
  float at = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double units = UnitsInTheLastPlace(y[i], exact(x[i]));
    if (!(units <= worst)) worst = units, at = x[i];
  }
  KERAS_SEQ_CHECK(worst < 4, "%s is %g units in the last place off at %g", name, worst, static_cast<double>(at));
  std::printf("%s float32: at most %.2f units in the last place, at %g\n", name, worst, static_cast<double>(at));
}

void TestFloat64(const char* name, Function function, long double (*exact)(long double)) {
  std::vector<double> x, y;
  for (double value = -800; value < 800; value += 0.00317) x.push_back(value);
  for (double value = 1e-300; value < 1; value *= 1.37) x.push_back(value), x.push_back(-value);
  y.resize(x.size());
  function(x.data(), y.data(), static_cast<int64_t>(x.size()), DataType::kFloat64);
  for (size_t i = 0; i < x.size(); ++i) {
    const long double expected = exact(x[i]);
    const long double error = std::fabs(y[i] - expected);
    KERAS_SEQ_CHECK(error <= 1e-15L * std::fabs(expected) + 1e-307L, "%s(%g) is %g", name, x[i], y[i]);
  }
}

void TestNaN(const char* name, Function function) {
  std::vector<float> x(37, 0.5f), y(37);
  x[11] = std::numeric_limits<float>::quiet_NaN();
  x[36] = -std::numeric_limits<float>::quiet_NaN();
  function(x.data(), y.data(), 37, DataType::kFloat32);
  for (size_t i = 0; i < x.size(); ++i) {
    KERAS_SEQ_CHECK(std::isnan(x[i]) == std::isnan(y[i]), "%s(%g) is %g", name, static_cast<double>(x[i]),
                    static_cast<double>(y[i]));
  }
}

}  // namespace
}  // namespace keras_seq

int main() {
  using namespace keras_seq;
  RequireInstructionSet();
  const KernelTable& kernels = *SelectedKernels();
  TestFloat32("sigmoid", kernels.sigmoid, ExactSigmoid<double>);
  TestFloat32("tanh", kernels.tanh, ExactTanh<double>);
  TestFloat64("sigmoid", kernels.sigmoid, ExactSigmoid<long double>);
  TestFloat64("tanh", kernels.tanh, ExactTanh<long double>);
  TestNaN("sigmoid", kernels.sigmoid);
  TestNaN("tanh", kernels.tanh);
  std::printf("activations: passed with %s\n", InstructionSet(nullptr));
}
