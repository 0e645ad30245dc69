// skinny_gemm_mainloop.cuh: how a block streams weights and multiplies, tile by tile: the ring's
// producer, and the sums of a tile. What becomes of the sums is skinny_gemm_sm90.cu's and
// lm_head_gemm.cu's.
#pragma once

#include "skinny_gemm_ring.cuh"
#include "wgmma.cuh"

namespace skinny_gemm {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

template <typename S>
__device__ void load_weight(const SkinnyGemmParams& p, const Ring<S>& ring, int row, int chunk,
                            int stage, uint64_t policy) {
  const int slice_bytes = p.tile_n * 128;
  uint8_t* to = ring.weight(stage);
#pragma unroll
  for (int slice = 0; slice < S::kSlices; ++slice, to += slice_bytes) {
    const int k = (chunk * S::kSlices + slice) * 64;
    if (p.epilogue == EPILOGUE_GLU) {
      ptx::tma_load(to, &p.weight, &ring.full[stage], policy, k, 0, 0, row / 16);
    } else {
      ptx::tma_load(to, &p.weight, &ring.full[stage], policy, k, row);
    }
  }
}
template <typename S>
__device__ void load_x(const SkinnyGemmParams& p, const Ring<S>& ring, int token, int chunk,
                       int stage, uint64_t policy) {
  uint8_t* to = ring.x(stage);
#pragma unroll
  for (int slice = 0; slice < S::kSlices; ++slice, to += S::kTileM * 128) {
    ptx::tma_load(to, &p.x, &ring.full[stage], policy, (chunk * S::kSlices + slice) * 64, token);
  }
}

// One thread: weights ahead of the wait, then both.
template <typename S>
__device__ void run_producer(const SkinnyGemmParams& p, const Ring<S>& ring,
                             const BlockWork& work) {
  const uint64_t once = ptx::policy_evict_first(), often = ptx::policy_evict_last();
  const int units = work.units(), ahead = min(ring.count, units);
  int tile = work.cluster, chunk = work.begin;
  TileCoord tile_at = tile_coord<S>(p, work, tile);
  const auto next_weight = [&](int stage) {
    ptx::mbarrier_arrive_expect(&ring.full[stage], ring.bytes);
    load_weight(p, ring, tile_at.row, chunk, stage, once);
    if (++chunk < work.end) return;
    chunk = work.begin, tile += work.clusters;
    tile_at = tile_coord<S>(p, work, tile);
  };
  for (int i = 0; i < ahead; ++i) next_weight(i);
  ptx::wait_for_earlier_kernels();
  for (int i = 0; i < ahead; ++i) {
    const int x_tile = work.cluster + i / work.chunks() * work.clusters;
    load_x(p, ring, tile_coord<S>(p, work, x_tile).token, work.begin + i % work.chunks(), i, often);
  }
  const int start_next = max(ahead, units - p.start_next_ahead);
  PipelineState state;
  for (int unit = ahead; unit < units; ++unit, state.next(ring.count)) {
    if (unit == start_next) ptx::let_next_kernel_start();
    ptx::mbarrier_wait(&ring.empty[state.stage], state.parity);
    const int x_chunk = chunk, token = tile_at.token;
    next_weight(state.stage);
    load_x(p, ring, token, x_chunk, state.stage, often);
  }
  ptx::let_next_kernel_start();
}

template <typename S>
using Accumulators = float[S::kTileM / S::kWidth][S::kWidth / 2];

// Issues the wgmmas of a stage.
template <typename T, typename S>
__device__ void issue_mma(const SkinnyGemmParams& p, const Ring<S>& ring, int stage, int warpgroup,
                         Accumulators<S>& sums) {
  uint32_t weight = ptx::shared_address(ring.weight(stage)) + warpgroup * 8192;
  uint32_t x = ptx::shared_address(ring.x(stage));
  ptx::wgmma_fence();
#pragma unroll
  for (int slice = 0; slice < S::kSlices; ++slice, weight += p.tile_n * 128, x += S::kTileM * 128) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int w = 0; w < S::kTileM / S::kWidth; ++w) {
        ptx::Wgmma<T, S::kWidth>::ss(sums[w], ptx::wgmma_operand(weight + 32 * i),
                                     ptx::wgmma_operand(x + w * S::kWidth * 128 + 32 * i), 1);
      }
    }
  }
  ptx::wgmma_commit();
}

// Where float4 number `quad` of a consumer thread's sums lies: two tokens of two rows 8 apart.
struct FragmentCoord {
  int row, token;
};
__device__ inline FragmentCoord fragment_coord(int thread, int fragment) {
  const fragments::MatrixCoord at = fragments::accumulator(thread, 4 * fragment);
  return {at.row, at.column};
}

// Sums of one tile, over this block's part of k.
template <typename T, typename S>
__device__ __forceinline__ void mainloop(const SkinnyGemmParams& p, const Ring<S>& ring,
                                         const BlockWork& work, PipelineState& state,
                                         Accumulators<S>& sums) {
  const int warpgroup = threadIdx.x / 128;
  const bool signals = threadIdx.x % 32 == 0;
#pragma unroll
  for (int w = 0; w < S::kTileM / S::kWidth; ++w) {
#pragma unroll
    for (int i = 0; i < S::kWidth / 2; ++i) sums[w][i] = 0.0f;
  }
  int done = -1;  // stage whose wgmmas are under way
  for (int chunk = work.begin; chunk < work.end; ++chunk, state.next(ring.count)) {
    ptx::mbarrier_wait(&ring.full[state.stage], state.parity);
    issue_mma<T, S>(p, ring, state.stage, warpgroup, sums);
    if (done >= 0) {
      ptx::wgmma_wait<1>();
      if (signals) ptx::mbarrier_arrive(&ring.empty[done]);
    }
    done = state.stage;
  }
  ptx::wgmma_wait<0>();
  if (signals && done >= 0) ptx::mbarrier_arrive(&ring.empty[done]);
}

// Warpgroups that a tile has use for, in threads.
__device__ inline int consumer_threads(const SkinnyGemmParams& p) {
  return (p.tile_n + 63) / 64 * 128;
}

// What all threads of a block do first.
template <typename S>
__device__ void start(const SkinnyGemmParams& p, const Ring<S>& ring, const BlockWork& work) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < ring.count; ++i) {
      ptx::mbarrier_init(&ring.full[i], 1);
      ptx::mbarrier_init(&ring.empty[i], consumer_threads(p) / 32);
    }
    ptx::mbarrier_init(ring.summed, work.ranks);
    ptx::mbarrier_init(ring.read, work.ranks);
    ptx::mbarrier_init_fence();
  }
  if (work.ranks > 1) {
    ptx::cluster_sync();
  } else {
    __syncthreads();
  }
}

#endif

}  // namespace skinny_gemm
