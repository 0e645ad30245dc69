// prefill_tiles.cuh: what a block of prefill_attention_sm90.cu works on, and the way of pages into
// shared memory: the producer warp and the patching warp.
#pragma once

#include "attention_params.h"
#include "ptx.cuh"

namespace prefill {

constexpr int kPage = 64;     // tokens
constexpr int kKeys = 128;    // of a step: two pages
constexpr int kRows = 128;    // queries of a tile
constexpr int kThreads = 384;

template <int kDim_, int kStages_>
struct Shape {
  static constexpr int kDim = kDim_;
  static constexpr int kStages = kStages_;
  static constexpr int kSides = kDim / 64;             // tiles of 128-byte rows side by side
  static constexpr int kSideBytes = kKeys * 128;
  static constexpr int kTileBytes = kKeys * kDim * 2;  // queries, keys or values
  static constexpr int kSharedBytes = (1 + 2 * kStages) * kTileBytes + (2 + 5 * kStages) * 8;
  static_assert(kRows == kKeys, "one tile size");
};

template <typename S>
struct Shared {
  uint8_t *queries, *keys, *values;             // [1], [kStages], [kStages] tiles
  uint64_t *queries_full, *queries_empty;
  uint64_t *keys_full, *keys_empty;             // [kStages] each
  uint64_t *values_full, *values_empty;
  uint64_t* values_landed;                      // where they must be patched before they are full

  __device__ explicit Shared(uint8_t* memory) {
    queries = memory;
    keys = queries + S::kTileBytes;
    values = keys + S::kStages * S::kTileBytes;
    queries_full = reinterpret_cast<uint64_t*>(values + S::kStages * S::kTileBytes);
    queries_empty = queries_full + 1;
    keys_full = queries_empty + 1;
    keys_empty = keys_full + S::kStages;
    values_full = keys_empty + S::kStages;
    values_empty = values_full + S::kStages;
    values_landed = values_empty + S::kStages;
  }
};

// A place in a ring of stages, with the parity of its turn.
struct PipelineState {
  int stage = 0, parity = 0;
  __device__ void next(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

// A tile of queries for one KV head, and what its rows see, together: positions first .. end, in
// steps of kKeys, last first.
struct Work {
  int token, count, position, slot;  // PrefillTile
  int kv_head, first, end;
  __device__ int steps() const { return (end + kKeys - 1) / kKeys - first / kKeys; }
  __device__ int start(int step) const { return ((end - 1) / kKeys - step) * kKeys; }
  // Whether some position of the step is seen by no row.
  __device__ bool is_ragged(int step) const {
    return start(step) < first || start(step) + kKeys > end;
  }
};
// The block's n-th; false where there is none: tiles without tokens come last. Items are dealt to
// and fro, so that no block always gets the longest.
__device__ inline bool next_work(const PrefillAttentionParams& p, int n, Work& work) {
  const int blocks = gridDim.x, heads = p.attention.kv_heads;
  const int item = n * blocks + (n % 2 == 0 ? int(blockIdx.x) : blocks - 1 - int(blockIdx.x));
  if (item >= int(p.tile_count) * heads) return false;
  const int4 tile = __ldcg(reinterpret_cast<const int4*>(p.tiles) + item / heads);
  const int window = p.attention.window;
  const bool bounded = window > 0 && window <= tile.z;
  work = {tile.x, tile.y, tile.z, tile.w, item % heads, bounded ? tile.z - window + 1 : 0,
          tile.z + tile.y};
  return tile.y > 0;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

// One step's pages of one cache. Pages that nothing is seen of are left out.
template <typename S>
__device__ void load_pages(const TensorMap& map, const Work& work, const int* table, int step,
                           uint8_t* to, uint64_t* barrier, uint64_t policy) {
  const int first = max(work.first, work.start(step)) / kPage;
  const int last = (min(work.end, work.start(step) + kKeys) - 1) / kPage;
  ptx::mbarrier_arrive_expect(barrier, (last - first + 1) * kPage * S::kDim * 2);
  for (int page = first; page <= last; ++page) {
    const int block = table[page], place = page * kPage - work.start(step);
#pragma unroll
    for (int side = 0; side < S::kSides; ++side) {
      ptx::tma_load(to + side * S::kSideBytes + place * 128, &map, barrier, policy, 64 * side, 0,
                    work.kv_head, block);
    }
  }
}

// One thread: queries, then keys and values, last to first.
template <typename S>
__device__ void run_producer(const PrefillAttentionParams& p, const Shared<S>& shared) {
  const int gqa_group = p.attention.heads / p.attention.kv_heads,
            rows = kRows / gqa_group * gqa_group;
  const uint64_t policy = ptx::policy_evict_last();  // other blocks read the same
  PipelineState state;
  Work work;
  for (int n = 0; next_work(p, n, work); ++n) {
    const int* table = p.attention.table + size_t(work.slot) * p.attention.table_stride;
    ptx::mbarrier_wait(shared.queries_empty, n % 2 ^ 1);
    ptx::mbarrier_arrive_expect(shared.queries_full, rows * S::kDim * 2);
#pragma unroll
    for (int side = 0; side < S::kSides; ++side) {
      ptx::tma_load(shared.queries + side * S::kSideBytes, &p.queries, shared.queries_full, policy,
                    64 * side, work.kv_head * gqa_group, work.token);
    }
    for (int step = 0; step < work.steps(); ++step, state.next(S::kStages)) {
      const int stage = state.stage;
      ptx::mbarrier_wait(&shared.keys_empty[stage], state.parity ^ 1);
      load_pages<S>(p.keys, work, table, step, shared.keys + stage * S::kTileBytes,
                    &shared.keys_full[stage], policy);
      ptx::mbarrier_wait(&shared.values_empty[stage], state.parity ^ 1);
      uint64_t* landed =
          work.is_ragged(step) ? &shared.values_landed[stage] : &shared.values_full[stage];
      load_pages<S>(p.values, work, table, step, shared.values + stage * S::kTileBytes, landed,
                    policy);
    }
  }
}

// One warp: zeroes the value rows that no query sees, in a tile's first and last step.
template <typename S>
__device__ void zero_unseen_values(const PrefillAttentionParams& p, const Shared<S>& shared) {
  const int lane = threadIdx.x % 32;
  PipelineState state;
  Work work;
  uint32_t parities = 0;  // a bit a stage
  for (int n = 0; next_work(p, n, work); ++n) {
    for (int step = 0; step < work.steps(); ++step, state.next(S::kStages)) {
      if (!work.is_ragged(step)) continue;
      const int stage = state.stage, start = work.start(step);
      ptx::mbarrier_wait(&shared.values_landed[stage], parities >> stage & 1);
      parities ^= 1u << stage;
      uint8_t* values = shared.values + stage * S::kTileBytes;
      for (int key = 0; key < kKeys; ++key) {
        if (start + key >= work.first && start + key < work.end) continue;
        if (lane < S::kSides * 8) {  // a row is 8 times 16 bytes a side; zero has no order
          uint8_t* row = values + lane / 8 * S::kSideBytes + key * 128;
          reinterpret_cast<uint4*>(row)[lane % 8] = {0, 0, 0, 0};
        }
      }
      ptx::fence_for_async_proxy();
      __syncwarp();
      if (lane == 0) ptx::mbarrier_arrive(&shared.values_full[stage]);
    }
  }
}

#endif

}  // namespace prefill
