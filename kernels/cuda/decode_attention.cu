// decode_attention.cu: attention of the decode rows of a step, one token each, over a paged cache.
//
//   qkv     T [tokens][heads + 2 kv_heads][head_dim], as the gemm left it: this kernel norms
//           (where asked) and rotates queries and keys, and writes the token's key and value
//   cache   T [blocks][kv_heads][64][head_dim], keys and values apart; a block is a page
//   out     T [tokens][heads][head_dim]
//
// The time is that of reading the cache once, so the (row, KV head) pairs are laid end to end, page
// by page, and the blocks share this row of pages evenly, whatever the lengths. A pair that blocks
// share is merged by the last to arrive, in the order of its pages: results depend on the lengths
// and the grid alone. Launched in clusters of up to 8 blocks, one of them a pair, blocks share the
// pages of their pair alone and merge over distributed shared memory: faster where pairs are few.
// Of a page each of four warps takes 16 tokens, through a ring of its own: no warp waits for
// another until a pair ends. The query heads of a KV head are the rows of mma.sync, padded to 16; 2
// to 16 of them cost the same. Tokens that the row does not see, from a page's earlier owner too,
// are zero-filled on the way in: 0 * NaN never happens.
//
// Before the wait for earlier kernels it reads the step's tables and the first pages: all kernels
// let their successor start only after their own wait, so all but the last one have ended by then,
// and the last one must not write these.
//
// Launch: any grid (a little under 2 blocks a multiprocessor is right), or rows * kv_heads clusters
// (sm_90a); 128 threads, Layout::bytes(..) of dynamic shared memory. Blocks of 64 tokens; head_dim
// 64 or 128, all of it rotated; heads / kv_heads <= 16.
#include "decode_merge.cuh"
#include "decode_pages.cuh"
#include "decode_slice.cuh"
#include "work_split.cuh"

namespace decode {

using heads::Factors;
using heads::Head;

// Shared memory, in bytes; `group`: query heads of a KV head.
template <int kDim, int kStages>
struct Layout {
  static constexpr int kTile = kSlice * kDim * 2;  // keys or values of a warp's slice
  static constexpr int kQueries = kWarps * kStages * 2 * kTile;
  static constexpr int kStates = kQueries + kGqaGroup * kDim * 2;
  static constexpr int kSums = kStates + kWarps * kGqaGroup * 8;
  static constexpr int kSumStride = kDim + 8;  // floats: rows of a fragment in different banks
  __host__ __device__ static constexpr int pages(int gqa_group) {
    return kSums + kWarps * gqa_group * kSumStride * 4;
  }
  __host__ __device__ static constexpr int bytes(int gqa_group, int rows) {
    return pages(gqa_group) + (rows + 1) * 4;
  }
};

// Adds up the warps' sums of a pair, in order: to the output where the block had all of the pair,
// or to its partial sums.
template <typename T, typename L, int kDim>
__device__ void reduce_warps(const AttentionParams& a, const PageCursor& at, bool whole,
                             SoftmaxState<kDim>& state, uint8_t* shared, float* partial) {
  const int gqa_group = a.heads / a.kv_heads, warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  auto* states = reinterpret_cast<float2*>(shared + L::kStates);
  auto* sums = reinterpret_cast<float*>(shared + L::kSums);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int head = lane / 4 + 8 * half;
    float sum = state.sum[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (head >= gqa_group) continue;
    if (lane % 4 == 0) states[warp * kGqaGroup + head] = {state.row_max[half], sum};
    auto* to =
        reinterpret_cast<float2*>(sums + (warp * gqa_group + head) * L::kSumStride) + lane % 4;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      to[4 * n] = {state.out[n][2 * half], state.out[n][2 * half + 1]};
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < gqa_group * kDim / 2; i += kThreads) {  // the warps' sums in order
    const int head = i / (kDim / 2), pair = i % (kDim / 2);
    float row_max = -INFINITY, sum = 0;
    float2 out = {0, 0};
    for (int w = 0; w < kWarps; ++w) row_max = fmaxf(row_max, states[w * kGqaGroup + head].x);
    for (int w = 0; w < kWarps; ++w) {
      const float2 of_warp = states[w * kGqaGroup + head];
      const float weight = ptx::exp2_approximate(of_warp.x - row_max);
      const float2 x =
          reinterpret_cast<const float2*>(sums + (w * gqa_group + head) * L::kSumStride)[pair];
      sum += weight * of_warp.y;
      out = {out.x + weight * x.x, out.y + weight * x.y};
    }
    if (whole) {
      sum += sink_weight(a, at, head, row_max);
      store_out<T, kDim>(a, at, head, pair, {out.x / sum, out.y / sum});
      continue;
    }
    reinterpret_cast<float2*>(partial)[i] = out;
    if (pair == 0) reinterpret_cast<float2*>(partial + gqa_group * kDim)[head] = {row_max, sum};
  }
}

// Ends a pair, or this block's part of it; the last block merges.
template <typename T, typename L, int kDim>
__device__ void finish_pair(const DecodeAttentionParams& p, const PageCursor& at,
                            const work_split::Partials& partials, SoftmaxState<kDim>& state,
                            uint8_t* shared) {
  const int gqa_group = p.attention.heads / p.attention.kv_heads;
  const bool whole = partials.count() == 1;
  float* partial = p.partials + size_t(partials.slot(blockIdx.x)) * gqa_group * (kDim + 2);
  reduce_warps<T, L, kDim>(p.attention, at, whole, state, shared, partial);
  if (whole) return;
  __syncthreads();
  bool is_last = false;
  if (threadIdx.x == 0) {
    uint32_t* arrivals = &p.arrivals[at.row * p.attention.kv_heads + at.head];
    is_last = ptx::add_acquire_release(arrivals, 1) == uint32_t(partials.count() - 1);
    if (is_last) *arrivals = 0;
  }
  if (__syncthreads_or(is_last)) merge<T, kDim>(p, at, partials);
}

// Queries of a pair to the tensor cores; the new key and value into the cache, by the warp whose
// slice they belong to, which also keeps them. All loads go out before the first is used.
template <typename T, typename L, int kDim>
__device__ void load_queries(const AttentionParams& a, const PageCursor& at, bool keeps_new,
                             Head& key, Head& value, uint8_t* shared,
                             uint32_t (&queries)[kDim / 16][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, gqa_group = a.heads / a.kv_heads;
  const T* qkv = static_cast<const T*>(a.qkv) +
                 size_t(at.token) * (a.heads + 2 * a.kv_heads) * kDim;
  Head own[kGqaGroup / kWarps];
#pragma unroll
  for (int i = 0; i < kGqaGroup / kWarps; ++i) {
    const int head = warp + kWarps * i;
    if (head >= gqa_group) continue;
    own[i] = heads::read_head<T, kDim>(qkv + (at.head * gqa_group + head) * kDim);
  }
  const Factors turn = heads::read_factors<kDim>(a.rope + size_t(at.token) * kDim);
  const Factors q_scale = heads::read_factors<kDim>(a.q_norm);
  if (keeps_new) {
    const T* new_key = qkv + (a.heads + at.head) * kDim;
    key = heads::read_head<T, kDim>(new_key);
    value = heads::read_head<T, kDim>(new_key + a.kv_heads * kDim);
    const Factors k_scale = heads::read_factors<kDim>(a.k_norm);
    const size_t place =
        page_element(a, at, at.page_end - 1, kDim) + at.position % kPage * kDim;
    key = heads::norm_and_rotate<T, kDim>(key, a.k_norm != nullptr, a.eps, k_scale, turn);
    heads::write_head<T, kDim>(static_cast<T*>(a.keys) + place, key);
    heads::write_head<T, kDim>(static_cast<T*>(a.values) + place, value);
  }
#pragma unroll
  for (int i = 0; i < kGqaGroup / kWarps; ++i) {
    const int head = warp + kWarps * i;
    if (head >= gqa_group) continue;
    own[i] = heads::norm_and_rotate<T, kDim>(own[i], a.q_norm != nullptr, a.eps, q_scale, turn);
    heads::put_head<kDim>(shared + L::kQueries, head, own[i]);
  }
  __syncthreads();
  const uint32_t tile = ptx::shared_address(shared + L::kQueries);
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    ptx::load_matrices(queries[k], tile + heads::tile_offset<kDim>(lane % 16, 2 * k + lane / 16));
  }
}

template <typename T, int kDim, int kStages>
__device__ void run(const DecodeAttentionParams& p) {
  using L = Layout<kDim, kStages>;
  extern __shared__ __align__(128) uint8_t shared[];
  const AttentionParams& a = p.attention;
  const int warp = threadIdx.x / 32, rows = p.rows, kv_heads = a.kv_heads;
  auto* pages = reinterpret_cast<int*>(shared + L::pages(a.heads / kv_heads));
  for (int i = threadIdx.x; i <= rows; i += kThreads) pages[i] = __ldcg(p.pages + i);
  for (int i = threadIdx.x; i < kGqaGroup * kDim / 8; i += kThreads) {  // heads that pad
    reinterpret_cast<uint4*>(shared + L::kQueries)[i] = {0, 0, 0, 0};
  }
  __syncthreads();
  const int ranks = ptx::cluster_size(), pair = blockIdx.x / ranks;
  int units = pages[rows] * kv_heads, first = 0, block = blockIdx.x, blocks;
  if (ranks > 1) {  // the units of a pair
    const int row = pair / kv_heads;
    units = pages[row + 1] - pages[row];
    first = pages[row] * kv_heads + pair % kv_heads * units;
    block = ptx::cluster_rank(), blocks = min(ranks, units);
  } else {  // A block for less than two pages costs more to add up than it saves.
    blocks = min(int(gridDim.x), (units + 1) / 2);
  }
  int unit = block < blocks ? first + work_split::first_unit(units, block, blocks) : 0;
  const int end = block < blocks ? first + work_split::first_unit(units, block + 1, blocks) : 0;
  uint8_t* ring = shared + warp * kStages * 2 * L::kTile;
  const uint32_t ring_address = ptx::shared_address(ring);

  PageCursor at, ahead;
  if (unit < end) at = ahead = cursor_of(a, pages, rows, unit);
  int loaded = unit;
  const auto load_next = [&](int stage) {
    if (loaded < end) {
      load_page<T, kDim>(a, ahead, ring_address + stage * 2 * L::kTile, warp);
      if (++loaded < end) advance(a, pages, ahead);
    }
    ptx::copies_commit();
  };
  for (int stage = 0; stage < kStages; ++stage) load_next(stage);
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_start();

  int stage = 0;
  while (unit < end) {
    const int count = min(at.page_end - at.page, end - unit), last = at.page_end - 1;
    const bool keeps_new = at.page + count > last && at.position % kPage / kSlice == warp;
    const Span visible = visible_before(a, at.position);
    Head key, value;
    uint32_t queries[kDim / 16][4];
    load_queries<T, L, kDim>(a, at, keeps_new, key, value, shared, queries);
    SoftmaxState<kDim> state = {{-INFINITY, -INFINITY}, {0, 0}, {}};
    for (int page = at.page; page < at.page + count; ++page) {
      ptx::copies_wait<kStages - 1>();
      uint8_t* tile = ring + stage * 2 * L::kTile;
      if (keeps_new && page == last) {
        __syncwarp();  // other lanes' zeros are in the tile: a lane waits for its own copies alone
        heads::put_head<kDim>(tile, at.position % kSlice, key);
        heads::put_head<kDim>(tile + L::kTile, at.position % kSlice, value);
      }
      __syncwarp();
      const int start = page * kPage + warp * kSlice;
      attention_slice<T, kDim>(state, queries, ptx::shared_address(tile),
                            ptx::shared_address(tile + L::kTile), a.scale * kLog2E,
                            {visible.first - start, visible.end + 1 - start});
      __syncwarp();
      load_next(stage);
      if (++stage == kStages) stage = 0;
    }
    if (ranks > 1) {
      reduce_warps<T, L, kDim>(a, at, false, state, shared, reinterpret_cast<float*>(shared));
      break;
    }
    const int own = at.page_end - at.first_page;
    const auto partials =
        work_split::partials_of(units, pages[at.row] * kv_heads + at.head * own, own, blocks);
    finish_pair<T, L, kDim>(p, at, partials, state, shared);
    unit += count;
    at.page += count - 1;
    if (unit < end) advance(a, pages, at);
  }
  if (ranks > 1) {
    ptx::cluster_sync();  // the partial sums lie where the rings were
    if (block < blocks) merge_in_cluster<T, kDim>(a, at, blocks, reinterpret_cast<float2*>(shared));
    ptx::cluster_sync();  // no block ends before all have read
  }
}

}  // namespace decode

#define DECODE_ATTENTION(NAME, T, ...)                                                     \
  extern "C" __global__ void __launch_bounds__(decode::kThreads, 2)                      \
      NAME(const __grid_constant__ DecodeAttentionParams p) {                              \
    decode::run<T, __VA_ARGS__>(p);                                                     \
  }

DECODE_ATTENTION(decode_attention_d64_bf16, __nv_bfloat16, 64, stress::stages(3, 1))
DECODE_ATTENTION(decode_attention_d64_f16, __half, 64, stress::stages(3, 1))
DECODE_ATTENTION(decode_attention_d128_bf16, __nv_bfloat16, 128, stress::stages(2, 1))
DECODE_ATTENTION(decode_attention_d128_f16, __half, 128, stress::stages(2, 1))
