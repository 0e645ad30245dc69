// work_split.cuh: how the blocks of a grid share a row of units evenly, as stream-K does. All
// shares differ by one at most.
#pragma once

#include <cstdint>

namespace work_split {

// First unit of a block; its last is the next block's first, less one.
__host__ __device__ constexpr int first_unit(int units, int block, int blocks) {
  return static_cast<int>(static_cast<int64_t>(units) * block / blocks);
}
// The block that a unit belongs to.
__host__ __device__ constexpr int block_of_unit(int units, int unit, int blocks) {
  return static_cast<int>((static_cast<int64_t>(unit + 1) * blocks - 1) / units);
}
// The blocks that units first .. first + count belong to. Each keeps what it has of them, its
// partial result, in one of two slots of its own: a block shares at most the item that it begins
// with and the item that it ends in.
struct Partials {
  int first, last;        // blocks
  bool begins_with_item;  // the first block's first unit is the item's
  __host__ __device__ constexpr int count() const { return last - first + 1; }
  __host__ __device__ constexpr int slot(int block) const {
    return 2 * block + (block == first && !begins_with_item ? 1 : 0);
  }
};
// Needs units >= blocks, or blocks without units between the others are counted in.
__host__ __device__ constexpr Partials partials_of(int units, int first, int count, int blocks) {
  const int block = block_of_unit(units, first, blocks);
  return {block, block_of_unit(units, first + count - 1, blocks),
          first_unit(units, block, blocks) == first};
}

// Proofs for whoever compiles this: each unit belongs to the block in whose share it lies, shares
// differ by one at most, and no two partial results share a slot.
constexpr bool shares_are_even(int units, int blocks) {
  int unit = 0;
  for (int block = 0; block < blocks; ++block) {
    const int end = first_unit(units, block + 1, blocks), size = end - unit;
    if (first_unit(units, block, blocks) != unit) return false;
    if (size != units / blocks && size != units / blocks + 1) return false;
    for (; unit < end; ++unit) {
      if (block_of_unit(units, unit, blocks) != block) return false;
    }
  }
  return unit == units;
}
template <int kBlocks>
constexpr bool slots_are_apart(int units, int item) {
  bool taken[2 * kBlocks] = {};
  for (int first = 0; first < units; first += item) {
    const int count = units - first < item ? units - first : item;
    const Partials partials = partials_of(units, first, count, kBlocks);
    for (int block = partials.first; partials.count() > 1 && block <= partials.last; ++block) {
      if (taken[partials.slot(block)]) return false;
      taken[partials.slot(block)] = true;
    }
  }
  return true;
}
static_assert(shares_are_even(1, 1) && shares_are_even(7, 3) && shares_are_even(136, 68), "shares");
static_assert(shares_are_even(1089, 256) && shares_are_even(512, 256), "shares");
static_assert(slots_are_apart<68>(136, 17) && slots_are_apart<7>(100, 9), "slots");
static_assert(slots_are_apart<256>(1089, 33) && slots_are_apart<256>(300, 1), "slots");

}  // namespace work_split
