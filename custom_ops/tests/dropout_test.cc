// SPDX-License-Identifier: Apache-2.0
// Compares masks with the definition of Philox 4x32-10, word by word, for one thread and for three.
#include <array>
#include <cstring>
#include <random>
#include <vector>

#include "../kernels/dropout.h"
#include "threads.h"

namespace keras_seq {
namespace {

using Block = std::array<uint32_t, 4>;

Block Philox(Block counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xd2511f53} * counter[0], second = uint64_t{0xcd9e8d57} * counter[2];
    counter = {static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(second),
               static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(first)};
    key = {key[0] + 0x9e3779b9u, key[1] + 0xbb67ae85u};
  }
  return counter;
}

// The answers that Salmon et al. publish with their code.
void TestPhilox() {
  const uint32_t ones = 0xffffffffu;
  KERAS_SEQ_CHECK((Philox({0, 0, 0, 0}, {0, 0}) == Block{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}), "zeros");
  KERAS_SEQ_CHECK((Philox({ones, ones, ones, ones}, {ones, ones}) ==
                   Block{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}),
                  "ones");
}

// The 16 bits of entry `entry`.
uint16_t Bits(const int64_t seed[2], int64_t entry) {
  Block mixed;
  for (int i = 0; i < 4; ++i) mixed[i] = static_cast<uint32_t>(static_cast<uint64_t>(seed[i / 2]) >> (i % 2 * 32));
  mixed = Philox(mixed, {0x3ec8f720u, 0x02461e29u});
  const uint64_t block = entry / 8;
  const Block words = Philox({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), mixed[2], mixed[3]},
                             {mixed[0], mixed[1]});
  return static_cast<uint16_t>(words[entry % 8 / 2] >> (entry % 2 * 16));
}

// T is the type of an entry.
template <class T>
void TestDropout(int64_t size, uint32_t threshold, bool multiplies, ThreadPool& pool, std::mt19937_64& engine) {
  Dropout dropout;
  for (int64_t& word : dropout.seed) word = static_cast<int64_t>(engine());
  const T values[2] = {T(multiplies ? 0 : 3), T(2)};
  std::vector<T> inputs(size), expected(size);
  for (int64_t i = 0; i < size; ++i) {
    inputs[i] = T(static_cast<int64_t>(engine() % 1000) - 500);
    expected[i] = values[Bits(dropout.seed, i) >= threshold];
    if (multiplies) expected[i] *= inputs[i];
  }
  dropout.threshold = threshold;
  dropout.size = size;
  dropout.entry_bytes = sizeof(T);
  dropout.values = values;
  for (int threads : {1, 3}) {
    std::vector<T> outputs(size + 1, T(7));
    dropout.outputs = outputs.data();
    dropout.inputs = multiplies ? inputs.data() : nullptr;
    DrawMask(dropout, pool.WithThreads(threads));
    KERAS_SEQ_CHECK(outputs[size] == T(7), "writes beyond %lld entries", static_cast<long long>(size));
    outputs.resize(size);
    KERAS_SEQ_CHECK(outputs == expected, "differs with %d threads", threads);
  }
  if (!multiplies) return;
  dropout.outputs = inputs.data();  // in place
  DrawMask(dropout, pool.WithThreads(3));
  KERAS_SEQ_CHECK(inputs == expected, "differs in place");
}

}  // namespace
}  // namespace keras_seq

int main() {
  using namespace keras_seq;
  RequireInstructionSet();
  TestPhilox();
  ThreadPool pool(3);
  std::mt19937_64 engine(1);
  const auto draw = [&](int64_t largest) { return std::uniform_int_distribution<int64_t>(0, largest)(engine); };
  for (int i = 0; i < 40; ++i) {
    const int64_t size = draw(i == 0 ? 0 : i % 20 ? 300 : 100000);
    const uint32_t threshold = i % 10 == 0 ? 0 : i % 10 == 1 ? 65535 : static_cast<uint32_t>(draw(65535));
    TestDropout<uint16_t>(size, threshold, false, pool, engine);
    TestDropout<float>(size, threshold, i % 2, pool, engine);
    TestDropout<double>(size, threshold, i % 2, pool, engine);
  }
  std::printf("dropout: passed with %s\n", InstructionSet(nullptr));
}
