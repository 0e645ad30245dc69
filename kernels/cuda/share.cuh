// share.cuh: how the blocks of a grid share a row of units evenly. All parts differ by one at most.
#pragma once

#include <cstdint>

namespace share {

// First unit of a block; its last is the next block's first, less one.
__host__ __device__ constexpr int first_unit(int units, int block, int blocks) {
  return static_cast<int>(static_cast<int64_t>(units) * block / blocks);
}
// The block that a unit belongs to.
__host__ __device__ constexpr int block_of_unit(int units, int unit, int blocks) {
  return static_cast<int>((static_cast<int64_t>(unit + 1) * blocks - 1) / units);
}
// The blocks that units first .. first + count belong to. Each keeps what it has of them, its
// piece, in one of two slots of its own: a block shares at most the item that it begins with and
// the item that it ends in.
struct Pieces {
  int first, last;        // blocks
  bool begins_with_item;  // the first block's first unit is the item's
  __host__ __device__ constexpr int count() const { return last - first + 1; }
  __host__ __device__ constexpr int slot(int block) const {
    return 2 * block + (block == first && !begins_with_item ? 1 : 0);
  }
};
// Needs units >= blocks, or blocks without units between the pieces are counted in.
__host__ __device__ constexpr Pieces pieces_of(int units, int first, int count, int blocks) {
  const int block = block_of_unit(units, first, blocks);
  return {block, block_of_unit(units, first + count - 1, blocks),
          first_unit(units, block, blocks) == first};
}

}  // namespace share
