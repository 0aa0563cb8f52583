// SPDX-License-Identifier: Apache-2.0
// The numbers that depend on the processor: sizes of tiles, blocks and chunks, and from where on threads are worth it.
//
// One row for each instruction set. benchmarks/tune_kernels.py measures candidates. It found the row of avx2, and nothing
// better than that of avx512: on Zen 5 no candidate gained half a percent. The others were chosen by hand. Nothing is
// measured at run time. None depends on the number of threads, and so no order of a sum does.
//
// `KERAS_SEQ_TUNE` replaces values for a search: -DKERAS_SEQ_TUNE=tuning.chunk_rows=256,tuning.depth_block=128
#ifndef KERAS_SEQ_KERNELS_TUNING_H_
#define KERAS_SEQ_KERNELS_TUNING_H_

#include <cstdint>

#ifndef KERAS_SEQ_TUNE
#define KERAS_SEQ_TUNE (void)tuning
#endif

namespace keras_seq {

struct Tuning {
  // Registers for the sums of a tile. The others hold operands: 24 or 20 of 32, 12 of 16.
  int accumulators;
  // Vectors of a panel that a tile multiplies, and vectors of a tile of the gradients of weights, where they divide those
  // of the panel. With fewer a tile has more rows, and a panel is read less often.
  int tile_vectors, outer_vectors;
  // Rows of a tile at most: their addresses must fit the scalar registers.
  int tile_rows;
  // Sequences of an item of work. Their sums, `row_block` rows of a panel, should fit the first-level cache beside the
  // rows of h; fewer make more items for the threads to share.
  int64_t row_block;
  // Rows of a weight that an item of work packs.
  int64_t pack_block;
  // Steps times sequences of a chunk. The slots of a chunk and a panel (`chunk_rows` rows of four vectors) should fit
  // the second-level cache, those of all panels the third-level one. More make fewer passes over the gradients of
  // weights, which each chunk reads and writes. The order of the sums in those gradients depends on it.
  int64_t chunk_rows;
  // Rows of a panel that a product reads at once, so that they stay in a cache for all rows of an item. A part of a panel
  // has this depth to twice as much.
  int64_t depth_block;
  // Tiles of the gradients of weights in an item of work.
  int64_t outer_block;
  // Operations of a step, or of a product outside of a recurrence, that are worth a thread; and those of a call, below
  // which starting the team takes longer than it saves.
  double step_operations, product_operations, call_operations;
};

enum TuningRow { kTuningPortable, kTuningAArch64, kTuningAVX2, kTuningAVX512 };

static constexpr Tuning kTunings[] = {
    // accumulators
    // |   tile_vectors, outer_vectors, tile_rows
    // |   |        row_block, pack_block
    // |   |        |       chunk_rows, depth_block, outer_block
    // |   |        |       |             operations of a step, of a product, of a call
    {12, 4, 4, 8, 64, 32, 512, 512, 32, 4e5, 2e6, 4e6},  // portable
    {20, 4, 4, 8, 64, 32, 512, 512, 32, 4e5, 2e6, 4e6},  // portable on ARM: GCC 12 spills 24 sums; not measured
    {12, 4, 2, 8, 64, 32, 512, 512, 32, 4e5, 2e6, 4e6},  // avx2
    {24, 4, 4, 8, 64, 32, 512, 512, 32, 4e5, 2e6, 4e6},  // avx512, avx512_bf16
};

static constexpr Tuning TuningOf(TuningRow row) {
  Tuning tuning = kTunings[row];
  KERAS_SEQ_TUNE;
  return tuning;
}

// Turns of a loop for which a thread spins before it yields.
constexpr int kSpins = 4096;

// Microseconds for which a thread without a task yields before it sleeps. OpenMP's threads spin for some 10,000.
constexpr int kIdleMicroseconds = 1000;

}  // namespace keras_seq

#endif  // KERAS_SEQ_KERNELS_TUNING_H_
