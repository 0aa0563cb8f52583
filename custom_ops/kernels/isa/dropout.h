// SPDX-License-Identifier: Apache-2.0
// Masks from the random numbers of Philox 4x32-10 (Salmon et al. 2011), 8 entries from each block of 128 bits.
#ifndef KERAS_SEQ_KERNELS_ISA_DROPOUT_H_
#define KERAS_SEQ_KERNELS_ISA_DROPOUT_H_

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "../dropout.h"
#include "../team.h"
#include "simd.h"

namespace keras_seq {
namespace KERAS_SEQ_ISA_NAME {

// One word of each of `kBlocks` blocks, in the low half of a lane. The high halves are arbitrary.
using Words = Bits<double>;
constexpr int kBlocks = kLanes<double>;
constexpr int kBlockEntries = 8;

inline Words LowHalves(Words words) { return words & uint64_t{0xffffffff}; }

// The products of 64 bits of the low halves with a constant. The vectors' own product is that of the whole lanes, which
// takes several instructions.
inline Words MultiplyLowHalves(Words words, uint32_t factor) {
#if defined(__AVX512F__)
  return (Words)_mm512_maskz_mul_epu32(0xff, (__m512i)words, _mm512_set1_epi64(factor));
#elif defined(__AVX2__)
  return (Words)_mm256_mul_epu32((__m256i)words, _mm256_set1_epi64x(factor));
#elif defined(__SSE2__)
  return (Words)_mm_mul_epu32((__m128i)words, _mm_set1_epi64x(factor));
#else
  return LowHalves(words) * uint64_t{factor};
#endif
}

struct PhiloxKey {
  uint32_t words[2];
};

// Replaces the four words of each counter by four random words.
inline void RunPhilox(PhiloxKey key, Words counter[4]) {
  for (int round = 0; round < 10; ++round) {
    const Words first = MultiplyLowHalves(counter[0], 0xd2511f53u), second = MultiplyLowHalves(counter[2], 0xcd9e8d57u);
    counter[0] = (second >> 32) ^ counter[1] ^ uint64_t{key.words[0]};
    counter[1] = second;
    counter[2] = (first >> 32) ^ counter[3] ^ uint64_t{key.words[1]};
    counter[3] = first;
    key.words[0] += 0x9e3779b9u;
    key.words[1] += 0xbb67ae85u;
  }
}

// The numbers that TensorFlow's stateless_uniform draws as uint64 with alg="philox".
class RandomBits {
 public:
  // As TensorFlow's GenerateKey.
  explicit RandomBits(const int64_t seed[2]) {
    Words words[4];
    for (int i = 0; i < 4; ++i) words[i] = Words{} + (static_cast<uint64_t>(seed[i / 2]) >> (i % 2 * 32));
    RunPhilox({{0x3ec8f720u, 0x02461e29u}}, words);
    key_ = {{static_cast<uint32_t>(words[0][0]), static_cast<uint32_t>(words[1][0])}};
    for (int i = 0; i < 2; ++i) stream_[i] = static_cast<uint32_t>(words[i + 2][0]);
  }

  // Writes the bits of `kBlocks` blocks.
  void Write(uint64_t first_block, uint16_t bits[kBlocks * kBlockEntries]) const {
    Words lane{};
    for (int i = 0; i < kBlocks; ++i) lane[i] = i;  // a constant
    const Words block = lane + first_block;
    Words words[4] = {block, block >> 32, Words{} + stream_[0], Words{} + stream_[1]};
    RunPhilox(key_, words);
    const Words low = LowHalves(words[0]) | (words[1] << 32), high = LowHalves(words[2]) | (words[3] << 32);
    uint64_t pairs[2 * kBlocks];
    for (int i = 0; i < kBlocks; ++i) {
      pairs[2 * i] = low[i];
      pairs[2 * i + 1] = high[i];
    }
    memcpy(bits, pairs, sizeof pairs);
  }

 private:
  PhiloxKey key_;
  uint64_t stream_[2];
};

// Entry is an integer with the size of an entry, Number the type of the inputs, if there are any.
template <class Entry, class Number = Entry>
class DropoutPass {
  static constexpr int kEntries = kBlocks * kBlockEntries;
  static constexpr int64_t kItem = 4096;  // entries

 public:
  explicit DropoutPass(const Dropout& dropout) : dropout_(dropout), random_(dropout.seed) {
    memcpy(values_, dropout.values, sizeof values_);
  }

  // The program of every worker.
  void Run(Worker& worker) const {
    worker.ForEach((dropout_.size + kItem - 1) / kItem, [&](int64_t item) {
      const int64_t end = Smaller(dropout_.size, (item + 1) * kItem);
      int64_t entry = item * kItem;
      for (; entry + kEntries <= end; entry += kEntries) Write(entry, kEntries);
      if (entry < end) Write(entry, end - entry);
    });
  }

 private:
  void Write(int64_t entry, int64_t count) const {
    uint16_t bits[kEntries];
    Entry mask[kEntries];
    random_.Write(static_cast<uint64_t>(entry) / kBlockEntries, bits);
    const Entry dropped = values_[0], difference = values_[0] ^ values_[1];
    for (int i = 0; i < kEntries; ++i) {  // not `?:`, of which some compilers make jumps, which no CPU can predict
      mask[i] = dropped ^ (difference & -static_cast<Entry>(bits[i] >= dropout_.threshold));
    }
    Number* outputs = static_cast<Number*>(dropout_.outputs) + entry;
    if (dropout_.inputs == nullptr) {
      memcpy(outputs, mask, count * sizeof(Entry));
      return;
    }
    Number factors[kEntries], products[kEntries];
    memcpy(factors, mask, sizeof mask);
    memcpy(products, static_cast<const Number*>(dropout_.inputs) + entry, count * sizeof(Number));
    for (int64_t i = 0; i < count; ++i) products[i] *= factors[i];
    memcpy(outputs, products, count * sizeof(Number));
  }

  const Dropout dropout_;
  const RandomBits random_;
  Entry values_[2];
};

template <class Entry, class Number = Entry>
void RunDropout(const Dropout& dropout, const Executor& executor) {
  constexpr int64_t kEntries = 1 << 15;  // worth a thread
  const int64_t workers = Smaller<int64_t>(dropout.size / kEntries + 1, executor.threads);
  const DropoutPass<Entry, Number> pass(dropout);
  RunTeam(executor, static_cast<int>(workers), [&pass](Worker& worker) { pass.Run(worker); });
}

inline void DrawDropout(const Dropout& dropout, const Executor& executor) {
  const bool multiplies = dropout.inputs != nullptr;
  if (dropout.entry_bytes == 2) {
    RunDropout<uint16_t>(dropout, executor);
  } else if (dropout.entry_bytes == 4) {
    (multiplies ? RunDropout<uint32_t, float> : RunDropout<uint32_t>)(dropout, executor);
  } else {
    (multiplies ? RunDropout<uint64_t, double> : RunDropout<uint64_t>)(dropout, executor);
  }
}

}  // namespace KERAS_SEQ_ISA_NAME
}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_ISA_DROPOUT_H_
