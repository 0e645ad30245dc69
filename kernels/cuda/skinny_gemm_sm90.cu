// targets: sm_90a
// skinny_gemm_sm90.cu: out[token][feature] = sum over k of weight[feature][k] * x[token][k], for
// few tokens, with TMA and wgmma.
//
//   weight  T [features][stride], as in the checkpoint; read once from memory
//   x       T [tokens][stride], small: read by every cluster of blocks, from L2
//   sums    f32; what becomes of them says SkinnyGemmParams::epilogue
//
// With few tokens a gemm is as fast as its weights come in, so everything serves one end: that
// memory never idles. Output features take the 64-row side of wgmma and tokens its N, so tokens
// cost next to nothing. A block takes `tile_n` features, any multiple of 8 up to kTileN. The other
// rows of wgmma are what lies behind a shorter tile in shared memory, and are dropped. So the tiles
// of a weight go round the multiprocessors evenly. Where x would be read too often so, a cluster of
// blocks shares a larger tile, each a part of k, and adds up over distributed shared memory, in the
// order of k. One warp drives the copy engine through a ring that it fills with weights before it
// waits for the kernel that writes x. It lets the next kernel start a little before it has asked
// for its last chunk, so that the next kernel's first weights stand in line behind ours, and memory
// works on through our last sums, the launch, and whatever small kernel lies between.
//
// GLU: a tensor map with dimensions (k, 8 features, gate or up, groups of 8 features) interleaves
// gate and up by eights, and wgmma gives rows r and r + 8 to one thread: no weight is moved for it.
//
// Launch: any number of blocks, or as many clusters of up to 8 as there are tiles; kThreads
// threads; shared_bytes(..) of dynamic shared memory, at least 2 stages. in_features % 8 == 0;
// out_features % 8 == 0 where T is stored.
#include "skinny_gemm_epilogue.cuh"
#include "skinny_gemm_mainloop.cuh"

namespace skinny_gemm {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

// Adds up a tile over the cluster: every rank takes a share of the sums, from all ranks in order.
template <typename T, typename S>
__device__ void reduce_cluster(const SkinnyGemmParams& p, const Ring<S>& ring,
                               const BlockWork& work, int consumers,
                               const TileEpilogue<T, S::kTileM>& epilogue,
                               const float4 (&fragments)[S::kFragments]) {
  const int thread = threadIdx.x, warps = S::kFragments * consumers / 32;
  const int begin = warps * work.rank / work.ranks * 32;
  const int end = warps * (work.rank + 1) / work.ranks * 32;
  ptx::barrier_sync(1, consumers);  // nobody multiplies any more
#pragma unroll
  for (int i = 0; i < S::kFragments; ++i) ring.sums[i * consumers + thread] = fragments[i];
  ptx::barrier_sync(1, consumers);
  if (thread < work.ranks) ptx::mbarrier_arrive_at_rank(ring.summed, thread);
  ptx::mbarrier_wait_for_cluster(ring.summed, 0);
  for (int first = begin + thread; first < end; first += S::kBatch * consumers) {
    float4 sums[S::kBatch] = {}, before[S::kBatch];
    if constexpr (S::kFusesNorms) {
      const FragmentCoord coord = fragment_coord(first % consumers, first / consumers);
      before[0] = epilogue.before(coord.row, coord.token);
    }
#pragma unroll 4
    for (int rank = 0; rank < work.ranks; ++rank) {
#pragma unroll
      for (int i = 0; i < S::kBatch; ++i) {
        const int at = first + i * consumers;
        if (at >= end) continue;
        const float4 more = ptx::load_of_rank(ring.sums + at, rank);
        sums[i] = {sums[i].x + more.x, sums[i].y + more.y, sums[i].z + more.z,
                   sums[i].w + more.w};
      }
    }
#pragma unroll
    for (int i = 0; i < S::kBatch; ++i) {
      const int at = first + i * consumers;
      if (at >= end) continue;
      const FragmentCoord coord = fragment_coord(at % consumers, at / consumers);
      epilogue.out(coord.row, coord.token, sums[i], before[i]);
    }
  }
  ptx::barrier_sync(1, consumers);
  if (thread < work.ranks) ptx::mbarrier_arrive_at_rank(ring.read, thread);
  ptx::mbarrier_wait_for_cluster(ring.read, 0);  // no block ends before
}

// The consumer warpgroups, as many as a tile has use for: mainloop and epilogue, tile after tile.
template <typename T, typename S>
__device__ void run_consumer(const SkinnyGemmParams& p, const Ring<S>& ring,
                             const BlockWork& work) {
  const int thread = threadIdx.x, consumers = consumer_threads(p);
  ptx::wait_for_earlier_kernels();
  if (thread >= consumers) return;
  const TileCoord first = tile_coord<S>(p, work, work.cluster);
  TileEpilogue<T, S::kTileM> epilogue(p, ring.norm, first.row, first.token);
  float4 before[S::kFusesNorms ? S::kFragments : 1];
  if constexpr (S::kFusesNorms) {
    if (work.ranks == 1) {
#pragma unroll
      for (int i = 0; i < S::kFragments; ++i) {
        const FragmentCoord coord = fragment_coord(thread, i);
        before[i] = epilogue.before(coord.row, coord.token);
      }
    }
    epilogue.norm_before();
  }
  PipelineState state;
  for (int tile = work.cluster; tile < work.tiles; tile += work.clusters) {
    Accumulators<S> sums;
    mainloop<T, S>(p, ring, work, state, sums);
    const TileCoord tile_at = tile_coord<S>(p, work, tile);
    epilogue.first_row = tile_at.row, epilogue.first_token = tile_at.token;
    const auto& fragments = reinterpret_cast<const float4(&)[S::kFragments]>(sums);
    if (work.ranks > 1) {
      reduce_cluster<T, S>(p, ring, work, consumers, epilogue, fragments);
      break;
    }
#pragma unroll
    for (int i = 0; i < S::kFragments; ++i) {
      const FragmentCoord coord = fragment_coord(thread, i);
      epilogue.out(coord.row, coord.token, fragments[i], before[S::kFusesNorms ? i : 0]);
    }
  }
  if constexpr (S::kFusesNorms) epilogue.norm_behind(work.cluster * work.ranks + work.rank);
}

#endif

template <typename T, typename S>
__device__ void run(const SkinnyGemmParams& p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t shared[];
  const BlockWork work = block_work<S>(p);
  const Ring<S> ring(shared, p);
  start(p, ring, work);
  if (threadIdx.x < S::kConsumers) {
    if constexpr (S::kReallocatesRegisters) ptx::registers_take<160>();
    run_consumer<T, S>(p, ring, work);
  } else {
    if constexpr (S::kReallocatesRegisters) ptx::registers_give<32>();
    if (threadIdx.x == S::kConsumers) run_producer<S>(p, ring, work);
  }
#else
  __trap();
#endif
}

}  // namespace skinny_gemm

#define SKINNY_GEMM(NAME, T, ...)                                                            \
  extern "C" __global__ void __launch_bounds__(skinny_gemm::Shape<__VA_ARGS__>::kThreads, 1) \
      NAME(const __grid_constant__ SkinnyGemmParams p) {                                     \
    skinny_gemm::run<T, skinny_gemm::Shape<__VA_ARGS__>>(p);                                 \
  }

// Tokens of a tile, warpgroups, slices of 64 k a stage: see src/skinny_gemm.rs, which chooses.
#define SKINNY_GEMMS(TYPE, T)                             \
  SKINNY_GEMM(skinny_gemm_sm90_n8s8_##TYPE, T, 8, 1, 8)     \
  SKINNY_GEMM(skinny_gemm_sm90_n8s4_##TYPE, T, 8, 1, 4)     \
  SKINNY_GEMM(skinny_gemm_sm90_n16s8_##TYPE, T, 16, 1, 8)   \
  SKINNY_GEMM(skinny_gemm_sm90_n16s4_##TYPE, T, 16, 1, 4)   \
  SKINNY_GEMM(skinny_gemm_sm90_n32_##TYPE, T, 32, 1, 4)     \
  SKINNY_GEMM(skinny_gemm_sm90_n64_##TYPE, T, 64, 1, 2)     \
  SKINNY_GEMM(skinny_gemm_sm90_n96_##TYPE, T, 96, 3, 1)     \
  SKINNY_GEMM(skinny_gemm_sm90_n128_##TYPE, T, 128, 3, 1)   \
  SKINNY_GEMM(skinny_gemm_sm90_n192_##TYPE, T, 192, 3, 1)   \
  SKINNY_GEMM(skinny_gemm_sm90_n256_##TYPE, T, 256, 3, 1)
SKINNY_GEMMS(bf16, __nv_bfloat16)
SKINNY_GEMMS(f16, __half)
