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
// Launch: any number of blocks, or as many clusters of 2, 4 or 8 as there are tiles; kThreads
// threads; shared_bytes(..) of dynamic shared memory, at least 2 stages. inputs % 8 == 0;
// out_rows % 8 == 0 where T is stored.
#include "stream_finish.cuh"
#include "wgmma.cuh"

namespace stream {

template <int kN_, int kTiles_, int kGroups_, int kSlices_>
struct Shape {
  static constexpr int kN = kN_;            // tokens, padded
  static constexpr int kTiles = kTiles_;    // of 64 rows, a consumer warpgroup
  static constexpr int kGroups = kGroups_;  // consumer warpgroups
  static constexpr int kSlices = kSlices_;  // of 64 k, a stage
  static constexpr int kRows = 64 * kTiles * kGroups;
  static constexpr int kConsumers = 128 * kGroups;
  // Many sums need more registers than a block gets evenly: a warpgroup of its own gives the
  // producer's away, as setmaxnreg counts by warpgroups.
  static constexpr bool kShiftsRegisters = kTiles * kN > 128 && kGroups == 2;
  static constexpr int kThreads = kConsumers + (kShiftsRegisters ? 128 : 32);
  static constexpr int kQuads = kTiles * kN / 8;  // float4 of sums of a consumer thread
};

// Shared memory: barriers, then the ring. A stage holds `slices` tiles of weights, 64 k each, then
// as many of x. Behind the last one may be read, up to a tile, and dropped. A cluster, which takes
// one tile, adds up where the ring was.
constexpr int kBarrierBytes = 1024;
constexpr int kStagesMax = 32;
__host__ __device__ constexpr int stage_bytes(int n, int tile_rows, int slices) {
  return (tile_rows + n) * 128 * slices;
}
__host__ __device__ constexpr int shared_bytes(int n, int rows, int tile_rows, int slices,
                                               int stages, int cluster) {
  const int ring = stages * stage_bytes(n, tile_rows, slices) + (rows - tile_rows) * 128;
  const int sums = cluster > 1 ? rows * n * 4 : 0;
  return kBarrierBytes + (ring > sums ? ring : sums);
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

template <typename S>
struct Ring {
  uint64_t* full;   // [stages]
  uint64_t* empty;  // [stages]
  uint64_t* summed;  // sums are there, of all ranks of the cluster
  uint64_t* read;    // all ranks have read them
  float4* sums;      // [kQuads][kConsumers]
  uint8_t* stages;
  int count;            // of stages
  int x_offset, bytes;  // of a stage

  __device__ Ring(uint8_t* shared, const StreamProductParams& p)
      : full(reinterpret_cast<uint64_t*>(shared)),
        empty(full + kStagesMax),
        summed(empty + kStagesMax),
        read(summed + 1),
        sums(reinterpret_cast<float4*>(shared + kBarrierBytes)),
        stages(shared + kBarrierBytes),
        count(stress::stages(p.stages, 2)),
        x_offset(p.tile_rows * 128 * S::kSlices),
        bytes(stage_bytes(S::kN, p.tile_rows, S::kSlices)) {}
  __device__ uint8_t* weight(int stage) const { return stages + stage * bytes; }
  __device__ uint8_t* x(int stage) const { return weight(stage) + x_offset; }
};

// A place in a ring of stages, with the parity of its turn.
struct Turn {
  int stage = 0, parity = 0;
  __device__ void next(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

// This block's part of the product: every clusters-th tile of rows, from `cluster` on; of each,
// chunks begin .. end of k.
struct Part {
  int tiles, cluster, clusters;
  int rank, ranks;  // in the cluster
  int begin, end;
  __device__ int chunks() const { return end - begin; }
  __device__ int units() const {  // tiles times chunks
    return cluster < tiles ? ((tiles - cluster - 1) / clusters + 1) * chunks() : 0;
  }
};
template <typename S>
__device__ Part part_of_block(const StreamProductParams& p) {
  Part part;
  const int rows = p.store == STREAM_STORE_GLU ? 2 * p.out_rows : p.out_rows;
  const int chunks = (p.inputs + 64 * S::kSlices - 1) / (64 * S::kSlices);
  part.rank = ptx::cluster_rank(), part.ranks = ptx::cluster_size();
  part.tiles = (rows + p.tile_rows - 1) / p.tile_rows;
  part.cluster = blockIdx.x / part.ranks, part.clusters = gridDim.x / part.ranks;
  part.begin = chunks * part.rank / part.ranks, part.end = chunks * (part.rank + 1) / part.ranks;
  return part;
}

template <typename S>
__device__ void load_weight(const StreamProductParams& p, const Ring<S>& ring, int tile, int chunk,
                            int stage, uint64_t policy) {
  const int row = tile * p.tile_rows, slice_bytes = p.tile_rows * 128;
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
__device__ void load_x(const StreamProductParams& p, const Ring<S>& ring, int chunk, int stage,
                       uint64_t policy) {
  uint8_t* to = ring.x(stage);
#pragma unroll
  for (int slice = 0; slice < S::kSlices; ++slice, to += S::kN * 128) {
    ptx::tma_load(to, &p.x, &ring.full[stage], policy, (chunk * S::kSlices + slice) * 64, 0);
  }
}

// One thread: weights ahead of the wait, then both.
template <typename S>
__device__ void produce(const StreamProductParams& p, const Ring<S>& ring, const Part& part) {
  const uint64_t once = ptx::policy_evict_first(), often = ptx::policy_evict_last();
  const int units = part.units(), ahead = min(ring.count, units);
  int tile = part.cluster, chunk = part.begin;
  const auto next_weight = [&](int stage) {
    ptx::mbarrier_arrive_expect(&ring.full[stage], ring.bytes);
    load_weight(p, ring, tile, chunk, stage, once);
    if (++chunk == part.end) chunk = part.begin, tile += part.clusters;
  };
  for (int i = 0; i < ahead; ++i) next_weight(i);
  ptx::wait_for_earlier_kernels();
  for (int i = 0; i < ahead; ++i) {
    load_x(p, ring, part.begin + i % part.chunks(), i, often);
  }
  const int start_next = max(ahead, units - p.start_next_ahead);
  Turn turn;
  for (int unit = ahead; unit < units; ++unit, turn.next(ring.count)) {
    if (unit == start_next) ptx::let_next_kernel_start();
    ptx::mbarrier_wait(&ring.empty[turn.stage], turn.parity);
    const int x_chunk = chunk;
    next_weight(turn.stage);
    load_x(p, ring, x_chunk, turn.stage, often);
  }
  ptx::let_next_kernel_start();
}

template <typename S>
using Sums = float[S::kTiles][S::kN / 2];

// Adds up what lies in a stage.
template <typename T, typename S>
__device__ void multiply(const StreamProductParams& p, const Ring<S>& ring, int stage, int group,
                         Sums<S>& sums) {
  uint32_t weight = ptx::shared_address(ring.weight(stage)) + group * S::kTiles * 8192;
  uint32_t x = ptx::shared_address(ring.x(stage));
  ptx::wgmma_fence();
#pragma unroll
  for (int slice = 0; slice < S::kSlices; ++slice, weight += p.tile_rows * 128, x += S::kN * 128) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int m = 0; m < S::kTiles; ++m) {
        ptx::Wgmma<T, S::kN>::ss(sums[m], ptx::wgmma_operand(weight + m * 8192 + 32 * i),
                                 ptx::wgmma_operand(x + 32 * i), 1);
      }
    }
  }
  ptx::wgmma_commit();
}

// The same for float4 number `quad` of a thread's sums of a tile.
template <typename T, typename S>
__device__ void finish_quad(const StreamProductParams& p, int first_row, int thread, int quad,
                            float4 sum) {
  const int m = quad / (S::kN / 8), group = thread / 128;
  const int r = (group * S::kTiles + m) * 64 + thread % 128 / 32 * 16 + thread % 32 / 4;
  finish<T>(p, first_row, r, quad % (S::kN / 8) * 8 + thread % 4 * 2, sum);
}

// Adds up a tile over the cluster: every rank takes a part of the sums, from all ranks in order.
template <typename T, typename S>
__device__ void finish_together(const StreamProductParams& p, const Ring<S>& ring, const Part& part,
                                int first_row, const float4 (&quads)[S::kQuads]) {
  const int thread = threadIdx.x, share = S::kQuads * S::kConsumers / part.ranks;
  static_assert(S::kQuads * S::kConsumers % 128 == 0, "whole warps take part, of 4 ranks");
  ptx::barrier_sync(1, S::kConsumers);  // nobody multiplies any more
#pragma unroll
  for (int i = 0; i < S::kQuads; ++i) ring.sums[i * S::kConsumers + thread] = quads[i];
  ptx::barrier_sync(1, S::kConsumers);
  if (thread < part.ranks) ptx::mbarrier_arrive_at_rank(ring.summed, thread);
  ptx::mbarrier_wait_for_cluster(ring.summed, 0);
  for (int i = thread; i < share; i += S::kConsumers) {
    const int at = share * part.rank + i;
    float4 sum = {0, 0, 0, 0};
    for (int rank = 0; rank < part.ranks; ++rank) {
      const float4 more = ptx::load_of_rank(ring.sums + at, rank);
      sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
    }
    finish_quad<T, S>(p, first_row, at % S::kConsumers, at / S::kConsumers, sum);
  }
  ptx::barrier_sync(1, S::kConsumers);
  if (thread < part.ranks) ptx::mbarrier_arrive_at_rank(ring.read, thread);
  ptx::mbarrier_wait_for_cluster(ring.read, 0);  // no block ends before
}

// The other warpgroups: multiply, and finish tile after tile.
template <typename T, typename S>
__device__ void consume(const StreamProductParams& p, const Ring<S>& ring, const Part& part) {
  const int thread = threadIdx.x, group = thread / 128;
  const bool signals = thread % 32 == 0;
  ptx::wait_for_earlier_kernels();
  Turn turn;
  for (int tile = part.cluster; tile < part.tiles; tile += part.clusters) {
    Sums<S> sums;
#pragma unroll
    for (int m = 0; m < S::kTiles; ++m) {
#pragma unroll
      for (int i = 0; i < S::kN / 2; ++i) sums[m][i] = 0.0f;
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
    const int first_row = tile * p.tile_rows;
    const auto& quads = reinterpret_cast<const float4(&)[S::kQuads]>(sums);
    if (part.ranks > 1) {
      finish_together<T, S>(p, ring, part, first_row, quads);
      return;
    }
#pragma unroll
    for (int i = 0; i < S::kQuads; ++i) finish_quad<T, S>(p, first_row, thread, i, quads[i]);
  }
}

#endif

template <typename T, typename S>
__device__ void run(const StreamProductParams& p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t shared[];
  const Part part = part_of_block<S>(p);
  const Ring<S> ring(shared, p);
  if (threadIdx.x == 0) {
    for (int i = 0; i < ring.count; ++i) {
      ptx::mbarrier_init(&ring.full[i], 1);
      ptx::mbarrier_init(&ring.empty[i], S::kConsumers / 32);
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
    if constexpr (S::kShiftsRegisters) ptx::registers_take<240>();
    consume<T, S>(p, ring, part);
  } else {
    if constexpr (S::kShiftsRegisters) ptx::registers_give<24>();
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

// N, tiles of 64 rows a warpgroup, warpgroups, slices of 64 k a stage: see stream.rs, which
// chooses.
#define STREAM_PRODUCTS(TYPE, T)                             \
  STREAM_PRODUCT(stream_product_n8_##TYPE, T, 8, 1, 1, 8)    \
  STREAM_PRODUCT(stream_product_n16_##TYPE, T, 16, 1, 1, 4)  \
  STREAM_PRODUCT(stream_product_n32_##TYPE, T, 32, 1, 1, 4)  \
  STREAM_PRODUCT(stream_product_n64_##TYPE, T, 64, 1, 1, 2)  \
  STREAM_PRODUCT(stream_product_n96_##TYPE, T, 96, 1, 2, 1)  \
  STREAM_PRODUCT(stream_product_n128_##TYPE, T, 128, 1, 2, 1)
STREAM_PRODUCTS(bf16, __nv_bfloat16)
STREAM_PRODUCTS(f16, __half)
