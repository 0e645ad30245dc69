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
#include "stream_ring.cuh"
#include "wgmma.cuh"

namespace stream {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

template <typename S>
__device__ void load_weight(const StreamProductParams& p, const Ring<S>& ring, int row, int chunk,
                            int stage, uint64_t policy) {
  const int slice_bytes = p.tile_rows * 128;
  uint8_t* to = ring.weight(stage);
#pragma unroll
  for (int slice = 0; slice < S::kSlices; ++slice, to += slice_bytes) {
    const int k = (chunk * S::kSlices + slice) * 64;
    if (p.store == STREAM_STORE_GLU) {
      ptx::tma_load(to, &p.weight, &ring.full[stage], policy, k, 0, 0, row / 16);
    } else {
      ptx::tma_load(to, &p.weight, &ring.full[stage], policy, k, row);
    }
  }
}
template <typename S>
__device__ void load_x(const StreamProductParams& p, const Ring<S>& ring, int token, int chunk,
                       int stage, uint64_t policy) {
  uint8_t* to = ring.x(stage);
#pragma unroll
  for (int slice = 0; slice < S::kSlices; ++slice, to += S::kN * 128) {
    ptx::tma_load(to, &p.x, &ring.full[stage], policy, (chunk * S::kSlices + slice) * 64, token);
  }
}

// One thread: weights ahead of the wait, then both.
template <typename S>
__device__ void produce(const StreamProductParams& p, const Ring<S>& ring, const Part& part) {
  const uint64_t once = ptx::policy_evict_first(), often = ptx::policy_evict_last();
  const int units = part.units(), ahead = min(ring.count, units);
  int tile = part.cluster, chunk = part.begin;
  Corner corner = corner_of<S>(p, part, tile);
  const auto next_weight = [&](int stage) {
    ptx::mbarrier_arrive_expect(&ring.full[stage], ring.bytes);
    load_weight(p, ring, corner.row, chunk, stage, once);
    if (++chunk < part.end) return;
    chunk = part.begin, tile += part.clusters;
    corner = corner_of<S>(p, part, tile);
  };
  for (int i = 0; i < ahead; ++i) next_weight(i);
  ptx::wait_for_earlier_kernels();
  for (int i = 0; i < ahead; ++i) {
    const int x_tile = part.cluster + i / part.chunks() * part.clusters;
    load_x(p, ring, corner_of<S>(p, part, x_tile).token, part.begin + i % part.chunks(), i, often);
  }
  const int start_next = max(ahead, units - p.start_next_ahead);
  Turn turn;
  for (int unit = ahead; unit < units; ++unit, turn.next(ring.count)) {
    if (unit == start_next) ptx::let_next_kernel_start();
    ptx::mbarrier_wait(&ring.empty[turn.stage], turn.parity);
    const int x_chunk = chunk, token = corner.token;
    next_weight(turn.stage);
    load_x(p, ring, token, x_chunk, turn.stage, often);
  }
  ptx::let_next_kernel_start();
}

template <typename S>
using Sums = float[S::kN / S::kWidth][S::kWidth / 2];

// Adds up what lies in a stage.
template <typename T, typename S>
__device__ void multiply(const StreamProductParams& p, const Ring<S>& ring, int stage, int group,
                         Sums<S>& sums) {
  uint32_t weight = ptx::shared_address(ring.weight(stage)) + group * 8192;
  uint32_t x = ptx::shared_address(ring.x(stage));
  ptx::wgmma_fence();
#pragma unroll
  for (int slice = 0; slice < S::kSlices; ++slice, weight += p.tile_rows * 128, x += S::kN * 128) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int w = 0; w < S::kN / S::kWidth; ++w) {
        ptx::Wgmma<T, S::kWidth>::ss(sums[w], ptx::wgmma_operand(weight + 32 * i),
                                     ptx::wgmma_operand(x + w * S::kWidth * 128 + 32 * i), 1);
      }
    }
  }
  ptx::wgmma_commit();
}

// Where float4 number `quad` of a consumer thread's sums lies: two tokens of two rows 8 apart.
struct Spot {
  int row, token;
};
__device__ inline Spot spot_of(int thread, int quad) {
  const layouts::Place at = layouts::sum(thread, 4 * quad);
  return {at.row, at.column};
}

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
__device__ void consume(const StreamProductParams& p, const Ring<S>& ring, const Part& part,
                        int consumers) {
  const int thread = threadIdx.x, group = thread / 128;
  const bool signals = thread % 32 == 0;
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
#pragma unroll
    for (int w = 0; w < S::kN / S::kWidth; ++w) {
#pragma unroll
      for (int i = 0; i < S::kWidth / 2; ++i) sums[w][i] = 0.0f;
    }
    int done = -1;  // stage whose products are under way
    for (int chunk = part.begin; chunk < part.end; ++chunk, turn.next(ring.count)) {
      ptx::mbarrier_wait(&ring.full[turn.stage], turn.parity);
      multiply<T, S>(p, ring, turn.stage, group, sums);
      if (done >= 0) {
        ptx::wgmma_wait<1>();
        if (signals) ptx::mbarrier_arrive(&ring.empty[done]);
      }
      done = turn.stage;
    }
    ptx::wgmma_wait<0>();
    if (signals && done >= 0) ptx::mbarrier_arrive(&ring.empty[done]);
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
  const int consumers = (p.tile_rows + 63) / 64 * 128;
  if (threadIdx.x == 0) {
    for (int i = 0; i < ring.count; ++i) {
      ptx::mbarrier_init(&ring.full[i], 1);
      ptx::mbarrier_init(&ring.empty[i], consumers / 32);
    }
    ptx::mbarrier_init(ring.summed, part.ranks);
    ptx::mbarrier_init(ring.read, part.ranks);
    ptx::mbarrier_init_fence();
  }
  if (part.ranks > 1) {
    ptx::cluster_sync();
  } else {
    __syncthreads();
  }
  if (threadIdx.x < S::kConsumers) {
    if constexpr (S::kShiftsRegisters) ptx::registers_take<160>();
    consume<T, S>(p, ring, part, consumers);
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
