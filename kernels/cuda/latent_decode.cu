// latent_decode.cu: latent attention of the decode rows of a step, one token each, over entries of
// 512 + 64 elements; see latent_page.cuh.
//
// The time is that of reading the cache once for each 16 heads. As in decode_attention.cu, pairs of
// a row and a tile of heads are laid end to end, page by page, and blocks share this row of pages
// evenly; a pair that blocks share is merged by the last to arrive, in an order that follows from
// lengths and grid alone.
//
// Before the wait for the earlier kernel, k_b's gemm, it reads the step's tables and pages: what
// wrote these, latent_prepare the newest entry, came before that gemm and has ended (see
// decode_attention.cu).
//
// Launch: any grid of up to kBlocksMax blocks, one a multiprocessor is right; 256 threads, Tile's
// bytes of shared memory and 4 (rows + 1) more. Blocks of 64 tokens; any number of heads.
#include "decode_pages.cuh"
#include "latent_page.cuh"
#include "work_split.cuh"

namespace latent_decode {

using decode::PageCursor;
using namespace latent;
using L = Tile<1>;

constexpr int kPartialFloats = kHeads * (kLatent + 2);  // sums, then maximum and sum of weights
constexpr int kBlocksMax = 256;
static_assert(kBlocksMax * kHeads * 4 <= L::kWeights - L::kQueries, "merge's factors lie there");

// How many blocks share the pages. To merge six partial results takes as long as a page; and a
// block for less than two pages costs more to add up than it saves.
__device__ inline int block_count(int units, int pairs) {
  const int balanced = int(sqrtf(6.0f * float(units) * float(pairs)));
  return max(1, min(min(int(gridDim.x), (units + 1) / 2), balanced));
}

// The last block of a pair adds up its parts.
template <typename T>
__device__ void merge(const LatentDecodeParams& p, const PageCursor& at,
                      const work_split::Partials& partials, uint8_t* shared) {
  constexpr int kLanes = kThreads / kHeads, kEach = kHeads * kLatent / 4 / kThreads;
  const int count = partials.count();
  const auto partial = [&](int i) {
    return p.partials + size_t(partials.slot(partials.first + i)) * kPartialFloats;
  };
  auto* factors = reinterpret_cast<float*>(shared + L::kQueries);  // [part][head]
  {
    const int head = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
    const auto state = [&](int i) {
      return __ldcg(reinterpret_cast<const float2*>(partial(i) + kHeads * kLatent) + head);
    };
    float row_max = -INFINITY, sum = 0.0f;
    for (int i = lane; i < count; i += kLanes) row_max = fmaxf(row_max, state(i).x);
#pragma unroll
    for (int s = kLanes / 2; s > 0; s /= 2) {
      row_max = fmaxf(row_max, __shfl_xor_sync(~0u, row_max, s));
    }
    for (int i = lane; i < count; i += kLanes) {
      const float2 part = state(i);
      const float factor = ptx::exp2_approximate(part.x - row_max);
      factors[i * kHeads + head] = factor;
      sum += factor * part.y;
    }
#pragma unroll
    for (int s = kLanes / 2; s > 0; s /= 2) sum += __shfl_xor_sync(~0u, sum, s);
    for (int i = lane; i < count; i += kLanes) factors[i * kHeads + head] /= sum;
  }
  __syncthreads();
  float4 out[kEach] = {};
#pragma unroll 2
  for (int i = 0; i < count; ++i) {
    const auto* from = reinterpret_cast<const float4*>(partial(i));
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int index = e * kThreads + threadIdx.x;
      const float4 x = __ldcg(from + index);
      const float factor = factors[i * kHeads + index / (kLatent / 4)];
      out[e] = {out[e].x + factor * x.x, out[e].y + factor * x.y, out[e].z + factor * x.z,
                out[e].w + factor * x.w};
    }
  }
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int index = e * kThreads + threadIdx.x;
    const uint32_t head = at.head * kHeads + index / (kLatent / 4);
    if (head >= p.latent.heads) continue;
    const size_t place = size_t(at.token - p.latent.first_token) * p.latent.heads + head;
    T* to = static_cast<T*>(p.latent.sums) + place * kLatent;
    reinterpret_cast<uint2*>(to)[index % (kLatent / 4)] = {ptx::pack<T>(out[e].x, out[e].y),
                                                           ptx::pack<T>(out[e].z, out[e].w)};
  }
  __syncthreads();  // queries come to where the factors were
}

// Ends a pair, or this block's part of it; the last block merges.
template <typename T>
__device__ void finish_pair(const LatentDecodeParams& p, int head_tiles, const PageCursor& at,
                            const work_split::Partials& partials, State<L>& state,
                            uint8_t* shared) {
  total<L>(state, shared);
  if (partials.count() == 1) {
    store<T, L>(p.latent, state, at.token - p.latent.first_token, 1, at.head);
    return;
  }
  const Place<L> place;
  float* partial = p.partials + size_t(partials.slot(blockIdx.x)) * kPartialFloats;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = place.row(0, half);
    float* to = partial + row * kLatent + place.column * L::kDims;
#pragma unroll
    for (int n = 0; n < L::kDims / 8; ++n) {
      const float(&x)[4] = state.out[0][n];
      reinterpret_cast<float2*>(to)[n * 4 + place.lane % 4] = {x[2 * half], x[2 * half + 1]};
    }
    if (place.column == 0 && place.lane % 4 == 0) {
      reinterpret_cast<float2*>(partial + kHeads * kLatent)[row] = {state.row_max[0][half],
                                                                   state.sum[0][half]};
    }
  }
  __syncthreads();
  bool is_last = false;
  if (threadIdx.x == 0) {
    uint32_t* arrivals = &p.arrivals[at.row * head_tiles + at.head];
    is_last = ptx::add_acquire_release(arrivals, 1) == uint32_t(partials.count() - 1);
    if (is_last) *arrivals = 0;
  }
  if (__syncthreads_or(is_last)) merge<T>(p, at, partials, shared);
}

template <typename T>
__device__ void run(const LatentDecodeParams& p) {
  extern __shared__ __align__(128) uint8_t shared[];
  const int rows = p.rows, stages = stress::stages(p.stages, 1);
  auto* pages = reinterpret_cast<int*>(shared + L::bytes(p.stages));
  for (int i = threadIdx.x; i <= rows; i += kThreads) pages[i] = __ldcg(p.pages + i);
  const uint32_t live = __ldcg(&p.latent.step.state->decode_rows) - p.latent.first_token;
  __syncthreads();
  // The row of pages as decode_pages.cuh has it, a tile of heads for a KV head.
  AttentionParams a = {};
  a.step = p.latent.step;
  a.kv_heads = (p.latent.heads + kHeads - 1) / kHeads;
  const int head_tiles = a.kv_heads, units = (pages[rows] - pages[0]) * head_tiles;
  const int blocks = block_count(units, min(int(live), rows) * head_tiles), block = blockIdx.x;
  const int before = pages[0] * head_tiles;  // units of rows of an earlier launch
  int unit = block < blocks ? work_split::first_unit(units, block, blocks) : 0;
  const int end = block < blocks ? work_split::first_unit(units, block + 1, blocks) : 0;

  PageCursor at, ahead;
  if (unit < end) at = ahead = decode::cursor_of(a, pages, rows, before + unit);
  const uint32_t ring = ptx::shared_address(shared + L::kRing);
  int loaded = unit;
  const auto load_next = [&](int stage) {
    if (loaded < end) {
      load_page<T>(p.latent, ahead.slot, ahead.page, ahead.position + 1, ring + stage * kPageBytes);
      if (++loaded < end) decode::advance(a, pages, ahead);
    }
    ptx::copies_commit();
  };
  for (int stage = 0; stage < stages; ++stage) load_next(stage);
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_start();

  int stage = 0;
  State<L> state;
  while (unit < end) {
    const int count = min(at.page_end - at.page, end - unit);
    load_queries<T, L>(p.latent, at.token - p.latent.first_token, 1, at.head, shared);
    clear<L>(state);
    for (int page = at.page; page < at.page + count; ++page) {
      if (stages == 1) {
        ptx::copies_wait<0>();
      } else {
        ptx::copies_wait<1>();
      }
      __syncthreads();
      const int visible[] = {at.position + 1 - page * kPage};
      attend_page<T, L>(state, ring + stage * kPageBytes, visible, p.latent.scale * kLog2E, shared);
      __syncthreads();  // all have left the page
      load_next(stage);
      if (++stage == stages) stage = 0;
    }
    const int own = at.page_end - at.first_page;
    const int first = (pages[at.row] - pages[0]) * head_tiles + at.head * own;
    finish_pair<T>(p, head_tiles, at, work_split::partials_of(units, first, own, blocks), state,
                   shared);
    unit += count;
    at.page += count - 1;
    if (unit < end) decode::advance(a, pages, at);
  }
}

}  // namespace latent_decode

extern "C" __global__ void __launch_bounds__(latent::kThreads, 1)
    latent_decode_bf16(const __grid_constant__ LatentDecodeParams p) {
  latent_decode::run<__nv_bfloat16>(p);
}
extern "C" __global__ void __launch_bounds__(latent::kThreads, 1)
    latent_decode_f16(const __grid_constant__ LatentDecodeParams p) {
  latent_decode::run<__half>(p);
}
