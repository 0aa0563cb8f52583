// SPDX-License-Identifier: Apache-2.0
// Compares products of random sizes with sums in float64, packed anew and packed before, for one thread and for three.
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "threads.h"

namespace keras_seq {
namespace {

template <class T>
void TestProduct(int64_t rows, int64_t depth, int64_t columns, ThreadPool& pool, std::mt19937_64& engine) {
  std::normal_distribution<double> normal;
  const auto draw = [&](int64_t count) {
    std::vector<T> numbers(count);
    for (T& number : numbers) number = static_cast<T>(normal(engine));
    return numbers;
  };
  const std::vector<T> inputs = draw(rows * depth);
  std::vector<T> kernel = draw(depth * columns);
  std::vector<double> expected(rows * columns), scale(rows * columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t j = 0; j < columns; ++j) {
        const double term = static_cast<double>(inputs[i * depth + k]) * kernel[k * columns + j];
        expected[i * columns + j] += term;
        scale[i * columns + j] += std::fabs(term);
      }
    }
  }
  Product product;
  product.dtype = sizeof(T) == 8 ? DataType::kFloat64 : DataType::kFloat32;
  product.rows = rows, product.depth = depth, product.columns = columns;
  product.inputs = inputs.data(), product.kernel = kernel.data();
  std::vector<T> first;
  for (bool packs : {false, true}) {
    if (packs) {
      product.packed = PackProduct(product);
      kernel.assign(kernel.size(), std::numeric_limits<T>::quiet_NaN());  // nothing reads it
    }
    for (int threads : {1, 3}) {
      std::vector<T> outputs(rows * columns, std::numeric_limits<T>::quiet_NaN());
      product.outputs = outputs.data();
      KERAS_SEQ_CHECK(Multiply(product, pool.WithThreads(threads)), "multiply");
      for (size_t i = 0; i < outputs.size(); ++i) {
        const double error = std::fabs(outputs[i] - expected[i]), allowed = sizeof(T) == 8 ? 1e-14 : 1e-6;
        KERAS_SEQ_CHECK(error <= allowed * (scale[i] + 1), "off by %g of %g", error, expected[i]);
      }
      if (first.empty()) first = outputs;
      KERAS_SEQ_CHECK(first == outputs, "differs with %d threads", threads);
    }
  }
}

}  // namespace
}  // namespace keras_seq

int main() {
  using namespace keras_seq;
  RequireInstructionSet();
  ThreadPool pool(3);
  std::mt19937_64 engine(1);
  const auto size = [&](int64_t largest) { return std::uniform_int_distribution<int64_t>(0, largest)(engine); };
  for (int i = 0; i < 200; ++i) {
    const int64_t rows = size(i % 10 ? 9 : 200), depth = size(70), columns = size(i % 10 ? 140 : 70);
    TestProduct<float>(rows, depth, columns, pool, engine);
    TestProduct<double>(rows, depth, columns, pool, engine);
  }
  TestProduct<float>(70, 1300, 70, pool, engine);  // deeper than a block of the depth
  TestProduct<double>(70, 1300, 70, pool, engine);
  std::printf("product: passed with %s\n", InstructionSet(nullptr));
}
