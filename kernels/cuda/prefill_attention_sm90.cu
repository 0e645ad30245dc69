// targets: sm_90a
// prefill_attention_sm90.cu: causal attention of chunks of tokens over a paged cache that holds
// their keys and values already.
//
//   queries  T [tokens][heads][key dim], normed and rotated
//   cache    T [blocks][kv_heads][64][dim], keys and values apart; a block is a page
//   out      T [tokens][heads][value dim]
//
// A block takes tile after tile: for one KV head up to 128 rows, which are the query heads of that
// KV head for consecutive tokens of one sequence (row = token * group + head): so keys and values
// are read once for all of them, and little lies beyond the diagonal. After Flash Attention 3: a
// producer warp drives the copy engine, page by page through the block table; two warpgroups of 64
// rows multiply, scores of the next keys while the last weights meet their values, and take turns
// so that one multiplies while the other exponentiates. Keys come last to first, 128 at a time;
// the next tile's are on their way before the last tile's sums are out.
//
// Weights of what a row does not see are zero, but 0 * NaN is NaN, and a page may hold anything
// where its sequence has not written. So a second warp zeroes, in shared memory, the value rows
// that no row of the tile sees; consumers learn of such a tile only then.
//
// Latent attention (MLA) of chunks is the same with keys and values that latent_expand.cu expanded:
// a KV head for each query head, keys of 128 + 64 elements and values of 128.
//
// Launch: a block a multiprocessor, kThreads threads, Shape::kSharedBytes of dynamic shared memory.
// Blocks of 64 tokens; heads of 64 or 128 elements; heads / kv_heads <= 128.
#include "fragments.cuh"
#include "prefill_tiles.cuh"
#include "wgmma.cuh"

namespace prefill {

constexpr float kLog2E = 1.4426950408889634f;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

// A consumer thread's two rows of the tile, 8 apart.
struct SoftmaxState {
  int position[2];
  float row_max[2], sum[2];  // of scores as they come; the sum is this thread's part
};
using Scores = float[kKeys / 2];
using Weights = uint32_t[kKeys / 16][4];

template <typename T, typename S>
__device__ void mma_scores(const Shared<S>& shared, int stage, int warpgroup, Scores& scores) {
  const uint32_t q = ptx::shared_address(shared.queries) + warpgroup * 64 * 128;
  const uint32_t k = ptx::shared_address(shared.keys + stage * S::kKeyBytes);
  ptx::wgmma_fence();
#pragma unroll
  for (int i = 0; i < S::kKeyDim / 16; ++i) {
    const int at = i / 4 * S::kSideBytes + i % 4 * 32;
    ptx::Wgmma<T, kKeys>::ss(scores, ptx::wgmma_operand(q + at), ptx::wgmma_operand(k + at), i > 0);
  }
  ptx::wgmma_commit();
}
template <typename T, typename S>
__device__ void mma_values(const Shared<S>& shared, int stage, const Weights& weights,
                                float (&out)[S::kValueDim / 2]) {
  const uint32_t v = ptx::shared_address(shared.values + stage * S::kValueBytes);
  ptx::wgmma_fence();
#pragma unroll
  for (int i = 0; i < kKeys / 16; ++i) {
    ptx::wgmma_rs_transposed(static_cast<T*>(nullptr), out, weights[i],
                             ptx::wgmma_operand(v + i * 16 * 128, 1024, S::kSideBytes));
  }
  ptx::wgmma_commit();
}

// Scores become weights relative to the row's largest so far; `factors`: by how much what was
// summed before shrinks.
template <bool kMasked>
__device__ void online_softmax(Scores& scores, SoftmaxState& rows, float scale, int start,
                               int window, float (&factors)[2]) {
  const int column = fragments::accumulator(threadIdx.x, 0).column;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int end = rows.position[half] + 1 - start - column;
    const int first = window > 0 ? end - window : -kKeys;
    float row_max = rows.row_max[half];
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) {
      float& score = scores[i / 2 * 4 + half * 2 + i % 2];
      const int key = fragments::accumulator(0, i / 2 * 4 + i % 2).column;
      if (kMasked && (key < first || key >= end)) score = -INFINITY;
      row_max = fmaxf(row_max, score);
    }
    row_max = fmaxf(row_max, __shfl_xor_sync(~0u, row_max, 1));
    row_max = fmaxf(row_max, __shfl_xor_sync(~0u, row_max, 2));
    const float base = row_max == -INFINITY ? 0.0f : row_max * scale;  // nothing seen yet
    factors[half] = ptx::exp2_approximate(rows.row_max[half] * scale - base);
    rows.row_max[half] = row_max;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) {
      float& score = scores[i / 2 * 4 + half * 2 + i % 2];
      score = ptx::exp2_approximate(score * scale - base);
      sum += score;
    }
    rows.sum[half] = rows.sum[half] * factors[half] + sum;
  }
}
template <typename T>
__device__ void convert_weights(const Scores& scores, Weights& weights) {
#pragma unroll
  for (int i = 0; i < kKeys / 4; ++i) {
    weights[i / 4][i % 4] = ptx::pack<T>(scores[2 * i], scores[2 * i + 1]);
  }
}

// The two consumer warpgroups issue in turns. Both take as many.
struct WarpgroupOrder {
  int warpgroup;
  __device__ explicit WarpgroupOrder(int mine) : warpgroup(mine) {
    if (mine == 1) ptx::barrier_arrive(1, 256);  // the first turn is the other's
  }
  __device__ void wait() const { ptx::barrier_sync(1 + warpgroup, 256); }
  __device__ void arrive() const { ptx::barrier_arrive(2 - warpgroup, 256); }
  __device__ void end() const {
    if (warpgroup == 0) ptx::barrier_sync(1, 256);  // the last turn given is nobody's
  }
};

template <typename T, typename S>
__device__ void store(const PrefillAttentionParams& p, const Work& work, int first_row,
                      const SoftmaxState& rows, const float (&out)[S::kValueDim / 2]) {
  const int gqa_group = int(p.attention.heads / p.attention.kv_heads);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = rows.sum[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const int row = first_row + 8 * half, token = row / gqa_group, head = row % gqa_group;
    if (token >= work.count || row >= kRows / gqa_group * gqa_group) continue;
    const int query = work.kv_head * gqa_group + head;
    if (p.attention.sinks != nullptr) {
      const float row_max = rows.row_max[half] * p.attention.scale;
      sum += ptx::exp2_approximate((p.attention.sinks[query] - row_max) * kLog2E);
    }
    const size_t at = size_t(work.token + token) * p.attention.heads + query;
    auto* to = reinterpret_cast<uint32_t*>(static_cast<T*>(p.attention.out) + at * S::kValueDim);
    const float factor = 1.0f / sum;
#pragma unroll
    for (int j = 0; j < S::kValueDim / 8; ++j) {
      to[4 * j + threadIdx.x % 4] =
          ptx::pack<T>(out[4 * j + 2 * half] * factor, out[4 * j + 2 * half + 1] * factor);
    }
  }
}

// One tile: `keys` and `values` are places in the rings, `n` counts tiles.
template <typename T, typename S>
__device__ void run_consumer(const PrefillAttentionParams& p, const Work& work,
                             const Shared<S>& shared, const WarpgroupOrder& order, int n,
                             PipelineState& keys, PipelineState& values) {
  const int thread = threadIdx.x - 128, gqa_group = p.attention.heads / p.attention.kv_heads;
  const int first_row = fragments::accumulator(thread, 0).row, steps = work.steps();
  const bool signals = thread % 32 == 0;
  SoftmaxState rows = {
      {work.position + first_row / gqa_group, work.position + (first_row + 8) / gqa_group},
      {-INFINITY, -INFINITY},
      {0, 0}};
  Scores scores;
  Weights weights;
  float out[S::kValueDim / 2], factors[2];
#pragma unroll
  for (int i = 0; i < S::kValueDim / 2; ++i) out[i] = 0.0f;
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) scores[i] = 0.0f;
  const auto softmax_step = [&](int step) {
    const int start = work.start(step), window = p.attention.window;
    const float scale = p.attention.scale * kLog2E;
    if (start + kKeys - 1 > work.position || (window > 0 && start < work.end - window)) {
      online_softmax<true>(scores, rows, scale, start, window, factors);
    } else {
      online_softmax<false>(scores, rows, scale, start, window, factors);
    }
  };
  const auto release_keys = [&](bool last) {
    if (signals) ptx::mbarrier_arrive(&shared.keys_empty[keys.stage]);
    if (signals && last) ptx::mbarrier_arrive(shared.queries_empty);
    keys.next(S::kStages);
  };
  const auto release_values = [&] {
    if (signals) ptx::mbarrier_arrive(&shared.values_empty[values.stage]);
    values.next(S::kStages);
  };
  ptx::mbarrier_wait(shared.queries_full, n % 2);
  ptx::mbarrier_wait(&shared.keys_full[keys.stage], keys.parity);
  order.wait();
  mma_scores<T, S>(shared, keys.stage, order.warpgroup, scores);
  order.arrive();
  ptx::wgmma_wait<0>();
  ptx::wgmma_pin(scores);
  release_keys(steps == 1);
  softmax_step(0);
  convert_weights<T>(scores, weights);
  for (int step = 1; step < steps; ++step) {
    ptx::mbarrier_wait(&shared.keys_full[keys.stage], keys.parity);
    order.wait();
    mma_scores<T, S>(shared, keys.stage, order.warpgroup, scores);
    ptx::mbarrier_wait(&shared.values_full[values.stage], values.parity);
    mma_values<T, S>(shared, values.stage, weights, out);
    order.arrive();
    ptx::wgmma_wait<1>();
    ptx::wgmma_pin(scores);
    release_keys(step == steps - 1);
    softmax_step(step);
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(out);
    release_values();
#pragma unroll
    for (int i = 0; i < S::kValueDim / 2; ++i) out[i] *= factors[i / 2 % 2];
    convert_weights<T>(scores, weights);
  }
  ptx::mbarrier_wait(&shared.values_full[values.stage], values.parity);
  mma_values<T, S>(shared, values.stage, weights, out);
  ptx::wgmma_wait<0>();
  ptx::wgmma_pin(out);
  release_values();
  store<T, S>(p, work, first_row, rows, out);
}

#endif

template <typename T, typename S, typename Source, typename Params>
__device__ void run(const Params& params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t memory[];
  const PrefillAttentionParams& p = Source::prefill(params);
  const Shared<S> shared(memory);
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(shared.queries_full, 1);
    ptx::mbarrier_init(shared.queries_empty, 8);  // consumer warps
    for (int i = 0; i < S::kStages; ++i) {
      ptx::mbarrier_init(&shared.keys_full[i], 1);
      ptx::mbarrier_init(&shared.keys_empty[i], 8);
      ptx::mbarrier_init(&shared.values_full[i], 1);
      ptx::mbarrier_init(&shared.values_empty[i], 8);
      ptx::mbarrier_init(&shared.values_landed[i], 1);
    }
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_start();
  if (threadIdx.x >= 128) {
    ptx::registers_take<224>();
    const WarpgroupOrder order(threadIdx.x / 128 - 1);
    PipelineState keys, values;
    Work work;
    for (int n = 0; next_work(p, n, work); ++n) {
      run_consumer<T, S>(p, work, shared, order, n, keys, values);
    }
    order.end();
  } else {
    ptx::registers_give<56>();
    if (threadIdx.x == 0) run_producer<S, Source>(params, shared);
    if (threadIdx.x / 32 == 1) zero_unseen_values<S>(p, shared);
  }
#else
  __trap();
#endif
}

}  // namespace prefill

#define PREFILL_ATTENTION(NAME, T, PARAMS, SOURCE, ...)              \
  extern "C" __global__ void __launch_bounds__(prefill::kThreads, 1) \
      NAME(const __grid_constant__ PARAMS p) {                       \
    prefill::run<T, prefill::Shape<__VA_ARGS__>, prefill::SOURCE>(p); \
  }
#define PREFILL_ATTENTION_PAGED(NAME, T, DIM, STAGES) \
  PREFILL_ATTENTION(NAME, T, PrefillAttentionParams, PagedSource, DIM, DIM, STAGES)
#define PREFILL_ATTENTION_EXPANDED(NAME, T) \
  PREFILL_ATTENTION(NAME, T, ExpandedAttentionParams, ExpandedSource, 192, 128, stress::stages(2, 1))

PREFILL_ATTENTION_PAGED(prefill_attention_d64_bf16, __nv_bfloat16, 64, stress::stages(4, 1))
PREFILL_ATTENTION_PAGED(prefill_attention_d64_f16, __half, 64, stress::stages(4, 1))
PREFILL_ATTENTION_PAGED(prefill_attention_d128_bf16, __nv_bfloat16, 128, stress::stages(2, 1))
PREFILL_ATTENTION_PAGED(prefill_attention_d128_f16, __half, 128, stress::stages(2, 1))
PREFILL_ATTENTION_EXPANDED(prefill_attention_expanded_bf16, __nv_bfloat16)
PREFILL_ATTENTION_EXPANDED(prefill_attention_expanded_f16, __half)
