// targets: sm_90a
// latent_expand.cu: keys and values of heads out of the latents that the cache holds, for latent
// attention (MLA) of chunks: what prefill_attention_sm90.cu attends over.
//
//   entries       T [blocks][64][512 + 64], of which the first 512 are the normed latent
//   k_b           T [heads * 512][128]        v_b  T [heads * 128][512]
//   keys, values  T [pages][heads of the launch][64][128]
//
// A block makes the keys or the values of one head for one page: 64 tokens x 128 features over 512
// latents, by mma.sync from a ring of three stages of 64 latents, a warp 32 x 64. Pages are those
// of all sequences with chunks, one sequence after the other, up to the chunk's end; what lies
// behind is zero. The block of a sequence's first page writes down where it begins. Weights, which
// no kernel writes, are asked for before the wait for earlier kernels.
//
// Grid: (pages, heads of the launch, 2: keys and values); 128 threads; kSharedBytes.
#include "attention_params.h"
#include "fragments.cuh"
#include "heads.cuh"

namespace latent_expand {

using heads::tile_offset;

constexpr int kPage = 64, kEntry = 576, kLatent = 512, kDim = 128;
constexpr int kThreads = 128, kWarpTokens = 32, kWarpFeatures = 64;
constexpr int kDepth = 64, kSteps = kLatent / kDepth, kStages = 3;
constexpr int kLatentBytes = kPage * kDepth * 2, kWeightBytes = kDim * kDepth * 2;
constexpr int kStageBytes = kLatentBytes + kWeightBytes;
constexpr int kSharedBytes = kStages * kStageBytes;

using Sums = float[kWarpTokens / 16][kWarpFeatures / 8][4];

// A page of a sequence.
struct Page {
  uint32_t slot, index;
  int tokens;  // that are there
};
// The launch's page `page`; false where there is none.
__device__ inline bool find_page(const LatentExpandParams& p, uint32_t page, Page& found) {
  const StepTables& step = p.latent.step;
  for (uint32_t row = step.state->decode_rows; row < p.rows; ++row) {
    const StepRow at = step.rows[row];
    const uint32_t end = at.start + at.count, pages = (end + kPage - 1) / kPage;
    if (page < pages) {
      found = {at.slot, page, int(min(end - page * kPage, uint32_t(kPage)))};
      return true;
    }
    page -= pages;
  }
  return false;
}

// A stage of latents: [64 tokens][64].
template <typename T>
__device__ void load_latents(const T* entries, int tokens, int step, uint8_t* stage) {
#pragma unroll
  for (int i = 0; i < kPage * kDepth / 8 / kThreads; ++i) {
    const int index = i * kThreads + threadIdx.x, token = index / 8, chunk = index % 8;
    const T* from = entries + size_t(token) * kEntry + step * kDepth + chunk * 8;
    ptx::copy16_or_zero(ptx::shared_address(stage + tile_offset<kDepth>(token, chunk)),
                        token < tokens ? from : entries, token < tokens);
  }
}

// A stage of a head's weights: of k_b [64 latents][128 features], of v_b [128 features][64].
template <typename T, bool kIsKey>
__device__ void load_weights(const T* weights, uint32_t stride, int step, uint8_t* stage) {
  constexpr int kCols = kIsKey ? kDim : kDepth, kChunks = kCols / 8;
  const T* first = weights + (kIsKey ? size_t(step) * kDepth * stride : size_t(step) * kDepth);
  uint8_t* tile = stage + kLatentBytes;
#pragma unroll
  for (int i = 0; i < kWeightBytes / 16 / kThreads; ++i) {
    const int index = i * kThreads + threadIdx.x, row = index / kChunks, chunk = index % kChunks;
    ptx::copy16_or_zero(ptx::shared_address(tile + tile_offset<kCols>(row, chunk)),
                        first + size_t(row) * stride + chunk * 8, true);
  }
}

// The right operand of 16 latents x 16 features.
template <bool kIsKey>
__device__ void load_operand(uint32_t (&b)[4], uint32_t tile, int latent, int feature) {
  const int lane = threadIdx.x % 32, matrix = lane / 8;
  if (kIsKey) {
    const int row = latent + matrix % 2 * 8 + lane % 8;
    ptx::load_matrices_transposed(b, tile + tile_offset<kDim>(row, feature / 8 + matrix / 2));
  } else {
    const int row = feature + matrix / 2 * 8 + lane % 8;
    ptx::load_matrices(b, tile + tile_offset<kDepth>(row, latent / 8 + matrix % 2));
  }
}

template <typename T, bool kIsKey>
__device__ void multiply(Sums& sums, uint32_t stage) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int token = warp / 2 * kWarpTokens, feature = warp % 2 * kWarpFeatures;
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) {
    uint32_t a[kWarpTokens / 16][4];
#pragma unroll
    for (int m = 0; m < kWarpTokens / 16; ++m) {
      const int row = token + m * 16 + lane % 16;
      ptx::load_matrices(a[m], stage + tile_offset<kDepth>(row, 2 * k + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < kWarpFeatures / 16; ++n) {
      uint32_t b[4];
      load_operand<kIsKey>(b, stage + kLatentBytes, 16 * k, feature + 16 * n);
#pragma unroll
      for (int m = 0; m < kWarpTokens / 16; ++m) {
        ptx::Mma<T>::run(sums[m][2 * n], a[m], b[0], b[1]);
        ptx::Mma<T>::run(sums[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

template <typename T>
__device__ void store(T* out, const Sums& sums) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int m = 0; m < kWarpTokens / 16; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const fragments::MatrixCoord at = fragments::accumulator(lane, 2 * half);
      const int token = warp / 2 * kWarpTokens + m * 16 + at.row;
      T* row = out + token * kDim + warp % 2 * kWarpFeatures + at.column;
#pragma unroll
      for (int n = 0; n < kWarpFeatures / 8; ++n) {
        *reinterpret_cast<uint32_t*>(row + 8 * n) =
            ptx::pack<T>(sums[m][n][2 * half], sums[m][n][2 * half + 1]);
      }
    }
  }
}

template <typename T, bool kIsKey>
__device__ void run(const LatentExpandParams& p, uint8_t* ring) {
  const size_t head = p.first_head + blockIdx.y;
  const uint32_t stride = kIsKey ? p.k_b_stride : p.v_b_stride;
  const T* weights = static_cast<const T*>(kIsKey ? p.k_b : p.v_b) +
                     head * (kIsKey ? kLatent : kDim) * stride;
  const auto stage = [&](int step) { return ring + step % kStages * kStageBytes; };
  for (int step = 0; step < kStages - 1; ++step) {
    load_weights<T, kIsKey>(weights, stride, step, stage(step));
  }
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_start();
  Page page;
  if (!find_page(p, blockIdx.x, page)) return;
  if (kIsKey && page.index == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    p.first_pages[page.slot] = blockIdx.x;
  }
  const int block = __ldcg(p.latent.table + size_t(page.slot) * p.latent.table_stride + page.index);
  const T* entries = static_cast<const T*>(p.latent.entries) + size_t(block) * kPage * kEntry;
  for (int step = 0; step < kStages - 1; ++step) {
    load_latents(entries, page.tokens, step, stage(step));
    ptx::copies_commit();
  }
  Sums sums = {};
  for (int step = 0; step < kSteps; ++step) {
    ptx::copies_wait<kStages - 2>();
    __syncthreads();  // the stage is there, and all have left the one that is filled next
    const int next = step + kStages - 1;
    if (next < kSteps) {
      load_weights<T, kIsKey>(weights, stride, next, stage(next));
      load_latents(entries, page.tokens, next, stage(next));
    }
    ptx::copies_commit();
    multiply<T, kIsKey>(sums, ptx::shared_address(stage(step)));
  }
  const size_t place = size_t(blockIdx.x) * gridDim.y + blockIdx.y;
  store(static_cast<T*>(kIsKey ? p.keys : p.values) + place * kPage * kDim, sums);
}

template <typename T>
__device__ void run(const LatentExpandParams& p) {
  extern __shared__ __align__(128) uint8_t ring[];
  if (blockIdx.z == 0) {
    run<T, true>(p, ring);
  } else {
    run<T, false>(p, ring);
  }
}

}  // namespace latent_expand

extern "C" __global__ void __launch_bounds__(latent_expand::kThreads)
    latent_expand_bf16(const __grid_constant__ LatentExpandParams p) {
  latent_expand::run<__nv_bfloat16>(p);
}
extern "C" __global__ void __launch_bounds__(latent_expand::kThreads)
    latent_expand_f16(const __grid_constant__ LatentExpandParams p) {
  latent_expand::run<__half>(p);
}
