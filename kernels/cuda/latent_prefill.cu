// latent_prefill.cu: latent attention of tokens of chunks over entries of 512 + 64 elements, which
// the cache holds; see latent_page.cuh.
//
// A block takes 16 heads of kTokens tokens that lie side by side in the step, those that see most
// first. Tokens of several sequences are done one sequence after the other, so any step will do.
//
// Grid: (tokens / kTokens, heads / 16), rounded up; 256 threads, Tile's bytes of shared memory.
// Blocks of 64 tokens.
#include "latent_page.cuh"

namespace latent_prefill {

using namespace latent;

// The tile's tokens of one sequence over its pages, up to position `end`. `visible`: positions that
// each token of the warp sees.
template <typename T, typename L>
__device__ void attend_sequence(const LatentPrefillParams& p, State<L>& state, uint32_t slot,
                                int end, const int (&visible)[L::kRowTiles], uint8_t* shared) {
  const int pages = (end + kPage - 1) / kPage, stages = stress::stages(p.stages, 1);
  const uint32_t ring = ptx::shared_address(shared + L::kRing);
  const auto load = [&](int page, int stage) {
    if (page < pages) load_page<T>(p.latent, slot, page, end, ring + stage * kPageBytes);
    ptx::copies_commit();
  };
  for (int stage = 0; stage < stages; ++stage) load(stage, stage);
  int stage = 0;
  for (int page = 0; page < pages; ++page) {
    if (stages == 1) {
      ptx::copies_wait<0>();
    } else {
      ptx::copies_wait<1>();
    }
    __syncthreads();
    int in_page[L::kRowTiles];
#pragma unroll
    for (int m = 0; m < L::kRowTiles; ++m) in_page[m] = visible[m] - page * kPage;
    attend_page<T, L>(state, ring + stage * kPageBytes, in_page, p.latent.scale * kLog2E, shared);
    __syncthreads();  // all have left the page
    load(page + stages, stage);
    if (++stage == stages) stage = 0;
  }
}

template <typename T, int kTokens>
__device__ void run(const LatentPrefillParams& p) {
  using L = Tile<kTokens>;
  extern __shared__ __align__(128) uint8_t shared[];
  const LatentAttentionParams& a = p.latent;
  const uint32_t token = p.first_token + (gridDim.x - 1 - blockIdx.x) * kTokens;
  const int count = min(int(a.first_token + a.tokens - token), kTokens);
  const int32_t* row_of = a.step.row_of + token;
  const uint32_t* positions = a.step.positions + token;
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_start();
  load_queries<T, L>(a, token - a.first_token, count, blockIdx.y, shared);
  State<L> state;
  clear<L>(state);
  const Place<L> at;
  for (int first = 0, last; first < count; first = last) {
    const int32_t row = __ldcg(row_of + first);
    for (last = first + 1; last < count && __ldcg(row_of + last) == row;) ++last;
    if (row < 0) continue;
    int visible[L::kRowTiles];
#pragma unroll
    for (int m = 0; m < L::kRowTiles; ++m) {
      const int own = at.first_token + m;
      visible[m] = own >= first && own < last ? int(__ldcg(positions + own)) + 1 : 0;
    }
    const int end = __ldcg(positions + last - 1) + 1;
    attend_sequence<T, L>(p, state, __ldcg(&a.step.rows[row].slot), end, visible, shared);
  }
  total<L>(state, shared);
  store<T, L>(a, state, token - a.first_token, count, blockIdx.y);
}

}  // namespace latent_prefill

#define LATENT_PREFILL(NAME, T, TOKENS)                             \
  extern "C" __global__ void __launch_bounds__(latent::kThreads, 1) \
      NAME(const __grid_constant__ LatentPrefillParams p) {         \
    latent_prefill::run<T, TOKENS>(p);                              \
  }

LATENT_PREFILL(latent_prefill_t1_bf16, __nv_bfloat16, 1)
LATENT_PREFILL(latent_prefill_t1_f16, __half, 1)
LATENT_PREFILL(latent_prefill_t4_bf16, __nv_bfloat16, 4)
LATENT_PREFILL(latent_prefill_t4_f16, __half, 4)
