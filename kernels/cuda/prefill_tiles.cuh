// prefill_tiles.cuh: what a block of prefill_attention_sm90.cu works on, and the way of pages into
// shared memory: the producer warp and the patching warp. Where keys and values lie is a `Source`.
#pragma once

#include "attention_params.h"
#include "ptx.cuh"

namespace prefill {

constexpr int kPage = 64;     // tokens
constexpr int kKeys = 128;    // of a step: two pages
constexpr int kRows = 128;    // queries of a tile
constexpr int kThreads = 384;

template <int kKeyDim_, int kValueDim_, int kStages_>
struct Shape {
  static constexpr int kKeyDim = kKeyDim_, kValueDim = kValueDim_;  // of a key and a query; a value
  static constexpr int kStages = kStages_;
  static constexpr int kKeySides = kKeyDim / 64;  // tiles of 128-byte rows side by side
  static constexpr int kValueSides = kValueDim / 64;
  static constexpr int kSideBytes = kKeys * 128;
  static constexpr int kKeyBytes = kKeySides * kSideBytes;  // of a tile of keys, or of queries
  static constexpr int kValueBytes = kValueSides * kSideBytes;
  static constexpr int kSharedBytes =
      kKeyBytes + kStages * (kKeyBytes + kValueBytes) + (2 + 5 * kStages) * 8;
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
    keys = queries + S::kKeyBytes;
    values = keys + S::kStages * S::kKeyBytes;
    queries_full = reinterpret_cast<uint64_t*>(values + S::kStages * S::kValueBytes);
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
  const int blocks = gridDim.x, heads = p.head_count;
  const int item = n * blocks + (n % 2 == 0 ? int(blockIdx.x) : blocks - 1 - int(blockIdx.x));
  if (item >= int(p.tile_count) * heads) return false;
  const int4 tile = __ldcg(reinterpret_cast<const int4*>(p.tiles) + item / heads);
  const int window = p.attention.window;
  const bool bounded = window > 0 && window <= tile.z;
  work = {tile.x, tile.y, tile.z, tile.w, int(p.first_head) + item % heads, bounded ? tile.z - window + 1 : 0,
          tile.z + tile.y};
  return tile.y > 0;
}

// Where keys and values lie.
struct PagedSource;
struct ExpandedSource;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

// Where the copy engine puts a page, and who is told.
struct PageCopy {
  uint8_t* to;
  uint64_t* barrier;
  uint64_t policy;
  // One side of a page.
  template <typename... Coords>
  __device__ void side(const TensorMap& map, int side, Coords... coords) const {
    ptx::tma_load(to + side * kKeys * 128, &map, barrier, policy, coords...);
  }
};

// Keys and values in the cache, through the block table.
struct PagedSource {
  using Params = PrefillAttentionParams;
  static __device__ const PrefillAttentionParams& prefill(const Params& p) { return p; }

  const Params& p;
  const int* table;
  int head;
  __device__ PagedSource(const Params& p, const Work& work)
      : p(p),
        table(p.attention.table + size_t(work.slot) * p.attention.table_stride),
        head(work.kv_head) {}

  template <typename S>
  __device__ void load_keys(int page, const PageCopy& copy) const {
#pragma unroll
    for (int i = 0; i < S::kKeySides; ++i) copy.side(p.keys, i, 64 * i, 0, head, table[page]);
  }
  template <typename S>
  __device__ void load_values(int page, const PageCopy& copy) const {
#pragma unroll
    for (int i = 0; i < S::kValueSides; ++i) copy.side(p.values, i, 64 * i, 0, head, table[page]);
  }
};

// Keys and values that latent_expand.cu made, by the sequence's pages. The last side of a key,
// which all heads share, is in the cache.
struct ExpandedSource {
  using Params = ExpandedAttentionParams;
  static __device__ const PrefillAttentionParams& prefill(const Params& p) { return p.prefill; }

  const Params& p;
  const int* table;
  int first_page, head;
  __device__ ExpandedSource(const Params& p, const Work& work)
      : p(p),
        table(p.prefill.attention.table + size_t(work.slot) * p.prefill.attention.table_stride),
        first_page(__ldcg(p.first_pages + work.slot)),
        head(work.kv_head - int(p.prefill.first_head)) {}

  template <typename S>
  __device__ void load_keys(int page, const PageCopy& copy) const {
    constexpr int kOwn = S::kKeySides - 1;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      copy.side(p.prefill.keys, i, 64 * i, 0, head, first_page + page);
    }
    copy.side(p.rotated, kOwn, 0, 0, table[page]);
  }
  template <typename S>
  __device__ void load_values(int page, const PageCopy& copy) const {
#pragma unroll
    for (int i = 0; i < S::kValueSides; ++i) {
      copy.side(p.prefill.values, i, 64 * i, 0, head, first_page + page);
    }
  }
};

// One step's pages of keys or values, of `dim` elements. Pages that nothing is seen of are left
// out.
template <typename LoadPage>
__device__ void load_pages(const Work& work, int step, int dim, const PageCopy& copy,
                           LoadPage load_page) {
  const int first = max(work.first, work.start(step)) / kPage;
  const int last = (min(work.end, work.start(step) + kKeys) - 1) / kPage;
  ptx::mbarrier_arrive_expect(copy.barrier, (last - first + 1) * kPage * dim * 2);
  for (int page = first; page <= last; ++page) {
    const int place = page * kPage - work.start(step);
    load_page(page, PageCopy{copy.to + place * 128, copy.barrier, copy.policy});
  }
}

// One thread: queries, then keys and values, last to first.
template <typename S, typename Source>
__device__ void run_producer(const typename Source::Params& params, const Shared<S>& shared) {
  const PrefillAttentionParams& p = Source::prefill(params);
  const int gqa_group = p.attention.heads / p.attention.kv_heads,
            rows = kRows / gqa_group * gqa_group;
  const uint64_t policy = ptx::policy_evict_last();  // other blocks read the same
  PipelineState state;
  Work work;
  for (int n = 0; next_work(p, n, work); ++n) {
    const Source source(params, work);
    ptx::mbarrier_wait(shared.queries_empty, n % 2 ^ 1);
    ptx::mbarrier_arrive_expect(shared.queries_full, rows * S::kKeyDim * 2);
    const PageCopy queries = {shared.queries, shared.queries_full, policy};
#pragma unroll
    for (int i = 0; i < S::kKeySides; ++i) {
      queries.side(p.queries, i, 64 * i, work.kv_head * gqa_group, work.token);
    }
    for (int step = 0; step < work.steps(); ++step, state.next(S::kStages)) {
      const int stage = state.stage;
      ptx::mbarrier_wait(&shared.keys_empty[stage], state.parity ^ 1);
      load_pages(work, step, S::kKeyDim,
                 {shared.keys + stage * S::kKeyBytes, &shared.keys_full[stage], policy},
                 [&](int page, const PageCopy& copy) { source.template load_keys<S>(page, copy); });
      ptx::mbarrier_wait(&shared.values_empty[stage], state.parity ^ 1);
      uint64_t* landed =
          work.is_ragged(step) ? &shared.values_landed[stage] : &shared.values_full[stage];
      load_pages(work, step, S::kValueDim,
                 {shared.values + stage * S::kValueBytes, landed, policy},
                 [&](int page, const PageCopy& copy) { source.template load_values<S>(page, copy); });
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
      uint8_t* values = shared.values + stage * S::kValueBytes;
      for (int key = 0; key < kKeys; ++key) {
        if (start + key >= work.first && start + key < work.end) continue;
        if (lane < S::kValueSides * 8) {  // a row is 8 times 16 bytes a side; zero has no order
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
