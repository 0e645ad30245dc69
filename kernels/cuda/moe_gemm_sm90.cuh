// moe_gemm_sm90.cuh: the grouped gemm of experts on Hopper: shared memory, work, and how weights of
// each format are streamed and multiplied. Kernels and epilogues are moe_gemm_sm90.cu's.
//
// A block takes every gridDim-th piece of work: 64 rows of weights for each of its warpgroups,
// times the N positions of a tile. Rows take the 64-row side of wgmma, positions its N. One warp
// drives the copy engine through a ring that runs on from one piece into the next. Where gate and
// up are wanted, strips of 8 rows alternate between them, so that a thread's sums of rows r and r +
// 8 are gate and up of one output.
//
// Packed weights become the left operand in registers (moe_gemm_formats.cuh). Where a scale belongs
// to a row's 128 columns and is no power of two, as FP8's, the sums of each such slab get it.
//
// Without a list of tiles all positions are one expert's, tile after tile: a gemm.
#pragma once

#include "fragments.cuh"
#include "moe_gemm_formats.cuh"
#include "moe_params.h"
#include "ptx.cuh"
#include "wgmma.cuh"

namespace moe_gemm {

constexpr int kStagesMax = 16;
constexpr int kHeaderBytes = 1024;
// Tiles of a gemm that are multiplied by the same rows one after the other, while those are in the
// cache.
constexpr uint32_t kBand = 8;
template <typename F_, int kN_, int kWarpgroups_, int kSlices_>
struct Shape {
  using Format = F_;
  static constexpr int kN = kN_, kWarpgroups = kWarpgroups_, kSlices = kSlices_;
  // Many sums and a left operand need more registers than a block gets evenly: a warpgroup of its
  // own gives the producer's away, as setmaxnreg counts by warpgroups.
  static constexpr bool kReallocatesRegisters = kN > (Format::kHasSlabs ? 64 : 128);
  static constexpr int kConsumers = 128 * kWarpgroups;
  static constexpr int kThreads = kConsumers + (kReallocatesRegisters ? 128 : 32);
  static constexpr int kStrips = kStripsOfWarpgroup * kWarpgroups;
  static constexpr int kRows = 64 * kWarpgroups;  // of a piece of work
  static constexpr int kXBytes = kSlices * kN * 128;
  static constexpr int kWeightBytes = kSlices * kWarpgroups * Format::kWarpgroupBytes;
  static constexpr int kStripBytes = kWeightBytes / kStrips;
  static constexpr int kStageBytes = (kXBytes + kWeightBytes + 1023) / 1024 * 1024;
  static_assert(kN % 8 == 0 && kXBytes % 1024 == 0, "operands lie at multiples of 1,024");
};

__host__ __device__ constexpr int shared_bytes(int stage_bytes, int stages) {
  return kHeaderBytes + stages * stage_bytes;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

template <typename S>
struct Ring {
  uint64_t *full, *empty;
  uint8_t* stages;
  int count;
  __device__ Ring(uint8_t* shared, uint32_t stages_wanted)
      : full(reinterpret_cast<uint64_t*>(shared)),
        empty(full + kStagesMax),
        stages(shared + kHeaderBytes),
        count(stress::stages(stages_wanted, 2)) {}
  __device__ uint8_t* x(int stage) const { return stages + stage * S::kStageBytes; }
  __device__ uint8_t* weight(int stage) const { return x(stage) + S::kXBytes; }
  // The first of the two strips that a warp multiplies.
  __device__ uint8_t* strip(int stage) const {
    return weight(stage) + threadIdx.x / 32 * 2 * S::kStripBytes;
  }
};

struct PipelineState {
  int stage = 0, parity = 0;
  __device__ void next(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

// A block's pieces of work, one after the other.
template <typename S, bool kIsGlu>
struct Work {
  const MoeGemmSm90Params& p;
  uint32_t item, row_tiles;
  MoeTile tile;
  uint32_t row_tile;
  __device__ explicit Work(const MoeGemmSm90Params& params) : p(params), item(blockIdx.x) {
    constexpr uint32_t outputs = S::kRows / (kIsGlu ? 2 : 1);
    row_tiles = (p.out_features + outputs - 1) / outputs;
    look();
  }
  __device__ bool is_there() const { return tile.count > 0; }
  __device__ void next() {
    item += gridDim.x;
    look();
  }
  __device__ void look() {
    if (p.tiles == nullptr) return look_at_tokens();
    const uint32_t at = item / row_tiles;
    row_tile = item % row_tiles;
    tile.count = 0;
    if (at < p.tiles_max) tile = p.tiles[at];
  }
  __device__ void look_at_tokens() {
    const uint32_t band = item / (row_tiles * kBand) * kBand;
    tile.count = 0;
    if (band >= p.tiles_max) return;
    const uint32_t tiles = min(kBand, p.tiles_max - band), within = item - band * row_tiles;
    row_tile = within / tiles;
    const uint32_t first = (band + within % tiles) * S::kN;
    if (row_tile < row_tiles) tile = {0, first, min(uint32_t(S::kN), p.tokens - first), 0};
  }
};

// ---- the producer: one warp ----

template <typename S, bool kIsGlu>
__device__ void load_dense(const MoeGemmSm90Params& p, const Work<S, kIsGlu>& work, uint8_t* to,
                           uint64_t* barrier, uint64_t policy, int k) {
  const int expert = work.tile.expert;
  if constexpr (kIsGlu) {
    ptx::tma_load(to, &p.weight, barrier, policy, k, 0, 0, work.row_tile * (S::kRows / 16), expert);
  } else {
    ptx::tma_load(to, &p.weight, barrier, policy, k, work.row_tile * S::kRows, expert);
  }
}

// One copy for all strips of a stage: copies of a strip each, of a kilobyte, were measured to bring
// a third of what memory gives.
template <typename S, bool kIsGlu>
__device__ void load_packed(const MoeGemmSm90Params& p, const Work<S, kIsGlu>& work, uint8_t* to,
                            uint64_t* barrier, uint64_t policy, int slice) {
  const int word = slice * (S::Format::kSliceBytes / 8), expert = work.tile.expert;
  if constexpr (kIsGlu) {
    ptx::tma_load(to, &p.weight, barrier, policy, word, 0, work.row_tile * (S::kStrips / 2),
                  expert);
  } else {
    ptx::tma_load(to, &p.weight, barrier, policy, word, work.row_tile * S::kStrips, expert);
  }
}

template <typename S, bool kIsGlu>
__device__ void run_producer(const MoeGemmSm90Params& p, const Ring<S>& ring) {
  const uint64_t once = ptx::policy_evict_first(), often = ptx::policy_evict_last();
  const int lane = threadIdx.x % 32;
  const uint32_t slices = (p.in_features + kSlice - 1) / kSlice;
  PipelineState state;
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_start();
  state.parity = 1;  // the ring is empty
  for (Work<S, kIsGlu> work(p); work.is_there(); work.next()) {
    for (uint32_t slice = 0; slice < slices; slice += S::kSlices, state.next(ring.count)) {
      uint64_t* barrier = &ring.full[state.stage];
      if (lane == 0) {
        ptx::mbarrier_wait(&ring.empty[state.stage], state.parity);
        ptx::mbarrier_arrive_expect(barrier, S::kXBytes + S::kWeightBytes);
        if constexpr (S::Format::kIsPacked) {
          load_packed<S, kIsGlu>(p, work, ring.weight(state.stage), barrier, once, slice);
        }
      }
      __syncwarp();
      if (lane < S::kSlices) {  // what lies behind the last k comes as zeros
        const int k = (slice + lane) * kSlice;
        ptx::tma_load(ring.x(state.stage) + lane * S::kN * 128, &p.x, barrier, often, k,
                      work.tile.first);
        if constexpr (!S::Format::kIsPacked) {
          load_dense<S, kIsGlu>(
              p, work, ring.weight(state.stage) + lane * S::kWarpgroups * Dense::kWarpgroupBytes,
              barrier, once, k);
        }
      }
    }
  }
}

// ---- consumers ----

template <typename T, typename S>
__device__ __forceinline__ void multiply_slice(const Ring<S>& ring, int stage, int slice,
                                               float (&sums)[S::kN / 2]) {
  const int warpgroup = threadIdx.x / 128;
  const uint32_t x = ptx::shared_address(ring.x(stage)) + slice * S::kN * 128;
  if constexpr (!S::Format::kIsPacked) {
    const uint32_t weight = ptx::shared_address(ring.weight(stage)) +
                            (slice * S::kWarpgroups + warpgroup) * Dense::kWarpgroupBytes;
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      ptx::Wgmma<T, S::kN>::ss(sums, ptx::wgmma_operand(weight + 32 * i),
                               ptx::wgmma_operand(x + 32 * i), 1);
    }
  } else {
    const uint8_t* strip = ring.strip(stage);
    uint32_t a[4][4];
    left_operands(typename S::Format{}, strip, strip + S::kStripBytes, slice, a);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      ptx::wgmma_rs(static_cast<T*>(nullptr), sums, a[i], ptx::wgmma_operand(x + 32 * i));
    }
  }
  ptx::wgmma_commit();
}

// Sums of one piece of work.
template <typename T, typename S>
__device__ __forceinline__ void mainloop(const Ring<S>& ring, uint32_t slices,
                                         PipelineState& state, float (&sums)[S::kN / 2]) {
  const bool signals = threadIdx.x % 32 == 0;
#pragma unroll
  for (int i = 0; i < S::kN / 2; ++i) sums[i] = 0.0f;
  int done = -1;
  for (uint32_t slice = 0; slice < slices; slice += S::kSlices, state.next(ring.count)) {
    ptx::mbarrier_wait(&ring.full[state.stage], state.parity);
#pragma unroll
    for (int i = 0; i < S::kSlices; ++i) {
      if (slice + i < slices) {
        multiply_slice<T, S>(ring, state.stage, i, sums);
        ptx::wgmma_wait<1>();
      }
      if (i == 0 && done >= 0 && signals) ptx::mbarrier_arrive(&ring.empty[done]);
    }
    done = state.stage;
  }
  ptx::wgmma_wait<0>();
  ptx::wgmma_pin(sums);
  if (signals) ptx::mbarrier_arrive(&ring.empty[done]);
}

// The same where sums of a slab, which a stage is, are scaled row by row.
template <typename T, typename S>
__device__ __forceinline__ void mainloop_of_slabs(const Ring<S>& ring, uint32_t slices,
                                                  PipelineState& state, float (&sums)[S::kN / 2]) {
  static_assert(S::kSlices * kSlice == packed::Fp8::kScaleCols, "a stage is a slab");
#pragma unroll
  for (int i = 0; i < S::kN / 2; ++i) sums[i] = 0.0f;
  for (uint32_t slice = 0; slice < slices; slice += S::kSlices, state.next(ring.count)) {
    ptx::mbarrier_wait(&ring.full[state.stage], state.parity);
    const uint8_t* strip = ring.strip(state.stage);
    const float scales[2] = {row_scale(strip), row_scale(strip + S::kStripBytes)};
    float slab[S::kN / 2];
#pragma unroll
    for (int i = 0; i < S::kN / 2; ++i) slab[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < S::kSlices; ++i) {
      if (slice + i < slices) multiply_slice<T, S>(ring, state.stage, i, slab);
    }
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(slab);
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(&ring.empty[state.stage]);
#pragma unroll
    for (int i = 0; i < S::kN / 2; ++i) sums[i] += slab[i] * scales[i % 4 / 2];
  }
}

#endif

}  // namespace moe_gemm
