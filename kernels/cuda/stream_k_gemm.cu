// targets: sm_80 compute_80
// stream_k_gemm.cu: out[token][feature] = sum over k of weight[feature][k] * x[token][k], for few
// tokens, with cp.async and mma.sync, on GPUs without the wgmma and TMA of sm_90, where
// skinny_gemm_sm90.cu serves.
//
//   weight  T [features][stride], as in the checkpoint; up to 128 tokens, read once from memory
//   x       T [tokens][in_features], small: read for every tile of features, from L2
//   sums    f32; what becomes of them says StreamKGemmParams::epilogue
//
// Output features take the 16-row side of mma.sync and tokens its 8, so that few tokens waste
// little. Stream-K: all tiles' chunks of k are laid end to end, tile by tile, and the blocks share
// this row evenly, whatever the shape: no multiprocessor idles while another has more to do. A
// block's warps copy its chunks through one ring, which runs on from tile to tile. A tile that
// blocks share is added up by the last to arrive, in the order of k: results depend on shape and
// grid alone, and a token's on no other token. Features, tokens and k beyond the end are
// zero-filled on the way in.
//
// GLU: a tile's features are 8 of gate, 8 of up, and so on, and mma.sync gives rows r and r + 8 to
// one thread.
//
// Launch: any grid of at most all chunks of all tiles (as many blocks as run at once is right);
// kThreads threads, kSharedBytes of dynamic shared memory, at most 99 KB so that every GPU from 8.0
// up has it. in_features % 8 == 0, stride % 8 == 0, weight and x aligned to 16 bytes.
#include "stream_k_epilogue.cuh"

namespace stream_k {

template <typename S>
using Accumulators = float[S::kMmasOfN][S::kWarpM / 8][4];

// Adds up a slice.
template <typename T, typename S>
__device__ void mma_slice(uint32_t slice, Accumulators<S>& sums) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t weight = slice + S::row_of(warp) * kRowBytes;
  const uint32_t x = slice + (S::kTileN + S::token_of(warp)) * kRowBytes;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t right[S::kWarpM / 8][4];
#pragma unroll
    for (int n = 0; n < S::kWarpM / 8; ++n) {
      const LdmatrixCoord at = ldmatrix_token(lane, half);
      ptx::load_matrices(right[n], x + n * 8 * kRowBytes + offset(at.row, at.chunk));
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int m = 0; m < S::kMmasOfN; ++m) {
        const LdmatrixCoord at = ldmatrix_weight(lane, 2 * half + step);
        uint32_t left[4];
        ptx::load_matrices(left, weight + m * 16 * kRowBytes + offset(at.row, at.chunk));
#pragma unroll
        for (int n = 0; n < S::kWarpM / 8; ++n) {
          ptx::Mma<T>::run(sums[m][n], left, right[n][2 * step], right[n][2 * step + 1]);
        }
      }
    }
  }
}

// The sums of the tile that `unit` belongs to, so far as this block has them.
template <typename T, typename S>
__device__ void finish_tile(const StreamKGemmParams& p, const Work& work, int unit,
                            Accumulators<S>& sums, float4* shared) {
  auto& fragments = reinterpret_cast<float4(&)[S::kFragments]>(sums);
  reduce_warps<S>(fragments, shared);
  const int first = unit - unit % work.chunks;
  const work_split::Partials partials =
      work_split::partials_of(work.units, first, work.chunks, gridDim.x);
  if (partials.count() > 1 && !fixup<S>(p, partials, fragments)) return;
  if (threadIdx.x < S::kSummers) epilogue<T, S>(p, work.tile(unit), fragments);
}

template <typename T, typename S>
__device__ void run(const StreamKGemmParams& p) {
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t ring = ptx::shared_address(shared);
  const Work work = work_of_block<S>(p);
  if (work.unit == work.end) return;
  Loader<T, S> loader(p, work);
  ptx::wait_for_earlier_kernels();
#pragma unroll
  for (int i = 0; i < S::kStages - 1; ++i) loader.next(ring + i * S::kStageBytes);

  Accumulators<S> sums = {};
  int left = work.chunks - work.unit % work.chunks;  // of the tile
  uint32_t stage = 0, free_stage = (S::kStages - 1) * S::kStageBytes;
  for (int unit = work.unit; unit < work.end; ++unit) {
    ptx::copies_wait<S::kStages - 2>();
    __syncthreads();  // all copies of the stage are there, and nobody reads the one before
    loader.next(ring + free_stage);
    const uint32_t own = ring + stage + S::slice_of(threadIdx.x / 32) * S::kSliceBytes;
#pragma unroll
    for (int slice = 0; slice < S::kSlices; slice += S::kWarpsOfK) {
      mma_slice<T, S>(own + slice * S::kSliceBytes, sums);
    }
    free_stage = stage;
    stage = stage == (S::kStages - 1) * S::kStageBytes ? 0 : stage + S::kStageBytes;
    if (--left > 0 && unit != work.end - 1) continue;
    finish_tile<T, S>(p, work, unit, sums, reinterpret_cast<float4*>(shared + S::kRingBytes));
#pragma unroll
    for (int i = 0; i < 4 * S::kFragments; ++i) (&sums[0][0][0])[i] = 0.0f;
    left = work.chunks;
  }
  ptx::let_next_kernel_start();
}

}  // namespace stream_k

// Blocks of a multiprocessor that registers are to do for; N, tiles of 16 rows a warp, warps by
// rows, by tokens and by slices, slices, stages: see stream_k_gemm.rs, which chooses.
constexpr int kStages = stress::stages(3, 2);
#define STREAM_K_KERNELS(KERNEL)             \
  KERNEL(n8, 2, 8, 1, 1, 1, 8, 8, kStages)   \
  KERNEL(n16, 2, 16, 2, 1, 1, 4, 4, kStages) \
  KERNEL(n32, 2, 32, 2, 2, 1, 2, 2, kStages) \
  KERNEL(n64, 2, 64, 2, 2, 2, 1, 2, kStages) \
  KERNEL(n128, 3, 128, 2, 2, 2, 1, 1, kStages)

#define STREAM_K_GEMM(NAME, T, BLOCKS, ...)                                                    \
  static_assert(stream_k::shape_is_sound<stream_k::Shape<__VA_ARGS__>>(), #NAME);              \
  extern "C" __global__ void __launch_bounds__(stream_k::Shape<__VA_ARGS__>::kThreads, BLOCKS) \
      NAME(const __grid_constant__ StreamKGemmParams p) {                                      \
    stream_k::run<T, stream_k::Shape<__VA_ARGS__>>(p);                                         \
  }
#define STREAM_K_BF16(VARIANT, ...) \
  STREAM_K_GEMM(stream_k_gemm_##VARIANT##_bf16, __nv_bfloat16, __VA_ARGS__)
#define STREAM_K_F16(VARIANT, ...) STREAM_K_GEMM(stream_k_gemm_##VARIANT##_f16, __half, __VA_ARGS__)
STREAM_K_KERNELS(STREAM_K_BF16)
STREAM_K_KERNELS(STREAM_K_F16)
