// stream_tile.cuh: how a block streams weights and multiplies, tile by tile: the ring's producer, and
// the sums of a tile. What becomes of the sums is stream_product.cu's and head_product.cu's.
#pragma once

#include "stream_ring.cuh"
#include "wgmma.cuh"

namespace stream {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

template <typename S>
__device__ void load_weight(const StreamProductParams& p, const Ring<S>& ring, int row, int chunk,
                            int stage, uint64_t policy) {
  const int slice_bytes = p.tile_rows * 128;
  uint8_t* to = ring.weight(stage);
#pragma unroll
  for (int slice = 0; slice < S::kSlices; ++slice, to += slice_bytes) {
    const int k = (chunk * S::kSlices + slice) * 64;
    if (p.store == STREAM_STORE_GLU) {
      ptx::tma_load(to, &p.weight, &ring.full[stage], policy, k, 0, 0, row / 16);
    } else {
      ptx::tma_load(to, &p.weight, &ring.full[stage], policy, k, row);
    }
  }
}
template <typename S>
__device__ void load_x(const StreamProductParams& p, const Ring<S>& ring, int token, int chunk,
                       int stage, uint64_t policy) {
  uint8_t* to = ring.x(stage);
#pragma unroll
  for (int slice = 0; slice < S::kSlices; ++slice, to += S::kN * 128) {
    ptx::tma_load(to, &p.x, &ring.full[stage], policy, (chunk * S::kSlices + slice) * 64, token);
  }
}

// One thread: weights ahead of the wait, then both.
template <typename S>
__device__ void produce(const StreamProductParams& p, const Ring<S>& ring, const Part& part) {
  const uint64_t once = ptx::policy_evict_first(), often = ptx::policy_evict_last();
  const int units = part.units(), ahead = min(ring.count, units);
  int tile = part.cluster, chunk = part.begin;
  Corner corner = corner_of<S>(p, part, tile);
  const auto next_weight = [&](int stage) {
    ptx::mbarrier_arrive_expect(&ring.full[stage], ring.bytes);
    load_weight(p, ring, corner.row, chunk, stage, once);
    if (++chunk < part.end) return;
    chunk = part.begin, tile += part.clusters;
    corner = corner_of<S>(p, part, tile);
  };
  for (int i = 0; i < ahead; ++i) next_weight(i);
  ptx::wait_for_earlier_kernels();
  for (int i = 0; i < ahead; ++i) {
    const int x_tile = part.cluster + i / part.chunks() * part.clusters;
    load_x(p, ring, corner_of<S>(p, part, x_tile).token, part.begin + i % part.chunks(), i, often);
  }
  const int start_next = max(ahead, units - p.start_next_ahead);
  Turn turn;
  for (int unit = ahead; unit < units; ++unit, turn.next(ring.count)) {
    if (unit == start_next) ptx::let_next_kernel_start();
    ptx::mbarrier_wait(&ring.empty[turn.stage], turn.parity);
    const int x_chunk = chunk, token = corner.token;
    next_weight(turn.stage);
    load_x(p, ring, token, x_chunk, turn.stage, often);
  }
  ptx::let_next_kernel_start();
}

template <typename S>
using Sums = float[S::kN / S::kWidth][S::kWidth / 2];

// Adds up what lies in a stage.
template <typename T, typename S>
__device__ void multiply(const StreamProductParams& p, const Ring<S>& ring, int stage, int group,
                         Sums<S>& sums) {
  uint32_t weight = ptx::shared_address(ring.weight(stage)) + group * 8192;
  uint32_t x = ptx::shared_address(ring.x(stage));
  ptx::wgmma_fence();
#pragma unroll
  for (int slice = 0; slice < S::kSlices; ++slice, weight += p.tile_rows * 128, x += S::kN * 128) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int w = 0; w < S::kN / S::kWidth; ++w) {
        ptx::Wgmma<T, S::kWidth>::ss(sums[w], ptx::wgmma_operand(weight + 32 * i),
                                     ptx::wgmma_operand(x + w * S::kWidth * 128 + 32 * i), 1);
      }
    }
  }
  ptx::wgmma_commit();
}

// Where float4 number `quad` of a consumer thread's sums lies: two tokens of two rows 8 apart.
struct Spot {
  int row, token;
};
__device__ inline Spot spot_of(int thread, int quad) {
  const layouts::Place at = layouts::sum(thread, 4 * quad);
  return {at.row, at.column};
}

// Sums of one tile, over this block's part of k.
template <typename T, typename S>
__device__ __forceinline__ void sum_tile(const StreamProductParams& p, const Ring<S>& ring,
                                         const Part& part, Turn& turn, Sums<S>& sums) {
  const int group = threadIdx.x / 128;
  const bool signals = threadIdx.x % 32 == 0;
#pragma unroll
  for (int w = 0; w < S::kN / S::kWidth; ++w) {
#pragma unroll
    for (int i = 0; i < S::kWidth / 2; ++i) sums[w][i] = 0.0f;
  }
  int done = -1;  // stage whose products are under way
  for (int chunk = part.begin; chunk < part.end; ++chunk, turn.next(ring.count)) {
    ptx::mbarrier_wait(&ring.full[turn.stage], turn.parity);
    multiply<T, S>(p, ring, turn.stage, group, sums);
    if (done >= 0) {
      ptx::wgmma_wait<1>();
      if (signals) ptx::mbarrier_arrive(&ring.empty[done]);
    }
    done = turn.stage;
  }
  ptx::wgmma_wait<0>();
  if (signals && done >= 0) ptx::mbarrier_arrive(&ring.empty[done]);
}

// Warpgroups that a tile has use for, in threads.
__device__ inline int consumer_threads(const StreamProductParams& p) {
  return (p.tile_rows + 63) / 64 * 128;
}

// What all threads of a block do first.
template <typename S>
__device__ void start(const StreamProductParams& p, const Ring<S>& ring, const Part& part) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < ring.count; ++i) {
      ptx::mbarrier_init(&ring.full[i], 1);
      ptx::mbarrier_init(&ring.empty[i], consumer_threads(p) / 32);
    }
    ptx::mbarrier_init(ring.summed, part.ranks);
    ptx::mbarrier_init(ring.read, part.ranks);
    ptx::mbarrier_init_fence();
  }
  if (part.ranks > 1) {
    ptx::cluster_sync();
  } else {
    __syncthreads();
  }
}

#endif

}  // namespace stream
