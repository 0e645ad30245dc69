// targets: sm_90a
// stream_product.cu: out[token][row] = sum over k of weight[row][k] * x[token][k], for few tokens.
//
//   weight  T [rows][stride], as in the checkpoint; read once from memory
//   x       T [tokens][stride], small: read by every cluster of blocks, from L2
//   sums    f32; what becomes of them says StreamProductParams::store
//
// With few tokens a product is as fast as its weights come in, so everything serves one end: that
// memory never idles. Weight rows take the 64-row side of wgmma and tokens its N, so tokens cost
// next to nothing. A block takes `tile_rows` rows (any multiple of 8 up to kRows: of a shorter
// tile wgmma's other rows are what lies behind it in shared memory, and are dropped), so that the
// tiles of a weight go round the multiprocessors evenly; where x would be read too often so, a
// cluster of blocks shares a larger tile, each a part of k, and adds up over distributed shared
// memory, in the order of k. One warp drives the copy engine through a ring that it fills with
// weights before it waits for the kernel that writes x. It lets the next kernel start a little
// before it has asked for its last chunk, so that the next kernel's first weights stand in line
// behind ours, and memory works on through our last sums, the launch, and whatever small kernel
// lies between.
//
// GLU: a tensor map with dimensions (k, 8 rows, gate or up, groups of 8 rows) interleaves gate and
// up rows by eights, and wgmma gives rows r and r + 8 to one thread: no weight is moved for it.
//
// Launch: any number of blocks, or as many clusters of up to 8 as there are tiles; kThreads
// threads; shared_bytes(..) of dynamic shared memory, at least 2 stages. inputs % 8 == 0;
// out_rows % 8 == 0 where T is stored.
#include "stream_finish.cuh"
#include "stream_tile.cuh"

namespace stream {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

// Adds up a tile over the cluster: every rank takes a part of the sums, from all ranks in order.
template <typename T, typename S>
__device__ void finish_together(const StreamProductParams& p, const Ring<S>& ring, const Part& part,
                                int consumers, const Way<T, S::kN>& way,
                                const float4 (&quads)[S::kQuads]) {
  const int thread = threadIdx.x, warps = S::kQuads * consumers / 32;
  const int begin = warps * part.rank / part.ranks * 32;
  const int end = warps * (part.rank + 1) / part.ranks * 32;
  ptx::barrier_sync(1, consumers);  // nobody multiplies any more
#pragma unroll
  for (int i = 0; i < S::kQuads; ++i) ring.sums[i * consumers + thread] = quads[i];
  ptx::barrier_sync(1, consumers);
  if (thread < part.ranks) ptx::mbarrier_arrive_at_rank(ring.summed, thread);
  ptx::mbarrier_wait_for_cluster(ring.summed, 0);
  for (int first = begin + thread; first < end; first += S::kBatch * consumers) {
    float4 sums[S::kBatch] = {}, before[S::kBatch];
    if constexpr (S::kFoldsNorms) {
      const Spot spot = spot_of(first % consumers, first / consumers);
      before[0] = way.before(spot.row, spot.token);
    }
#pragma unroll 4
    for (int rank = 0; rank < part.ranks; ++rank) {
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
      const Spot spot = spot_of(at % consumers, at / consumers);
      way.out(spot.row, spot.token, sums[i], before[i]);
    }
  }
  ptx::barrier_sync(1, consumers);
  if (thread < part.ranks) ptx::mbarrier_arrive_at_rank(ring.read, thread);
  ptx::mbarrier_wait_for_cluster(ring.read, 0);  // no block ends before
}

// The other warpgroups, as many as a tile has use for: multiply, and finish tile after tile.
template <typename T, typename S>
__device__ void consume(const StreamProductParams& p, const Ring<S>& ring, const Part& part) {
  const int thread = threadIdx.x, consumers = consumer_threads(p);
  ptx::wait_for_earlier_kernels();
  if (thread >= consumers) return;
  const Corner first = corner_of<S>(p, part, part.cluster);
  Way<T, S::kN> way(p, ring.norm, first.row, first.token);
  float4 before[S::kFoldsNorms ? S::kQuads : 1];
  if constexpr (S::kFoldsNorms) {
    if (part.ranks == 1) {
#pragma unroll
      for (int i = 0; i < S::kQuads; ++i) {
        const Spot spot = spot_of(thread, i);
        before[i] = way.before(spot.row, spot.token);
      }
    }
    way.norm_before();
  }
  Turn turn;
  for (int tile = part.cluster; tile < part.tiles; tile += part.clusters) {
    Sums<S> sums;
    sum_tile<T, S>(p, ring, part, turn, sums);
    const Corner corner = corner_of<S>(p, part, tile);
    way.first_row = corner.row, way.first_token = corner.token;
    const auto& quads = reinterpret_cast<const float4(&)[S::kQuads]>(sums);
    if (part.ranks > 1) {
      finish_together<T, S>(p, ring, part, consumers, way, quads);
      break;
    }
#pragma unroll
    for (int i = 0; i < S::kQuads; ++i) {
      const Spot spot = spot_of(thread, i);
      way.out(spot.row, spot.token, quads[i], before[S::kFoldsNorms ? i : 0]);
    }
  }
  if constexpr (S::kFoldsNorms) way.norm_behind(part.cluster * part.ranks + part.rank);
}

#endif

template <typename T, typename S>
__device__ void run(const StreamProductParams& p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t shared[];
  const Part part = part_of_block<S>(p);
  const Ring<S> ring(shared, p);
  start(p, ring, part);
  if (threadIdx.x < S::kConsumers) {
    if constexpr (S::kShiftsRegisters) ptx::registers_take<160>();
    consume<T, S>(p, ring, part);
  } else {
    if constexpr (S::kShiftsRegisters) ptx::registers_give<32>();
    if (threadIdx.x == S::kConsumers) produce<S>(p, ring, part);
  }
#else
  __trap();
#endif
}

}  // namespace stream

#define STREAM_PRODUCT(NAME, T, ...)                                                          \
  extern "C" __global__ void __launch_bounds__(stream::Shape<__VA_ARGS__>::kThreads, 1)       \
      NAME(const __grid_constant__ StreamProductParams p) {                                   \
    stream::run<T, stream::Shape<__VA_ARGS__>>(p);                                            \
  }

// N, warpgroups, slices of 64 k a stage: see stream.rs, which chooses.
#define STREAM_PRODUCTS(TYPE, T)                             \
  STREAM_PRODUCT(stream_product_n8s8_##TYPE, T, 8, 1, 8)     \
  STREAM_PRODUCT(stream_product_n8s4_##TYPE, T, 8, 1, 4)     \
  STREAM_PRODUCT(stream_product_n16s8_##TYPE, T, 16, 1, 8)   \
  STREAM_PRODUCT(stream_product_n16s4_##TYPE, T, 16, 1, 4)   \
  STREAM_PRODUCT(stream_product_n32_##TYPE, T, 32, 1, 4)     \
  STREAM_PRODUCT(stream_product_n64_##TYPE, T, 64, 1, 2)     \
  STREAM_PRODUCT(stream_product_n96_##TYPE, T, 96, 3, 1)     \
  STREAM_PRODUCT(stream_product_n128_##TYPE, T, 128, 3, 1)   \
  STREAM_PRODUCT(stream_product_n192_##TYPE, T, 192, 3, 1)   \
  STREAM_PRODUCT(stream_product_n256_##TYPE, T, 256, 3, 1)
STREAM_PRODUCTS(bf16, __nv_bfloat16)
STREAM_PRODUCTS(f16, __half)
