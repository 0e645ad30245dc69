// targets: sm_90a
// head_product.cu: stream_product.cu for the model's head: logits[output][row] of few outputs, and
// from the sums what sampling wants to know of them (head_race.cuh), for each block's tiles together:
//
//   tiles[output][block]  statistics of all outputs that they are enough for, see sample_needs.cuh
//   logits                written for the outputs that need more, and for no others
//
// So most logits never go to memory. Which outputs those are stands in the step's tables, not in the
// launch: recordings serve all steps. Sums over ranks' parts of the vocabulary are not done here.
//
// Launch: any number of blocks, without clusters; kThreads threads; shared memory as for
// stream_product.cu, and head_bytes(..) behind that. tile_rows % 16 == 0.
#include "head_race.cuh"

namespace stream {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

template <typename T, typename S>
__device__ void consume(const HeadProductParams& head, const Ring<S>& ring, const Part& part) {
  const StreamProductParams& p = head.product;
  const int consumers = consumer_threads(p);
  ptx::wait_for_earlier_kernels();
  if (threadIdx.x >= consumers) return;
  const HeadRace<S> race(head, ring, consumers);
  race.begin();
  Turn turn;
  for (int tile = part.cluster; tile < part.tiles; tile += part.clusters) {
    Sums<S> sums;
    sum_tile<T, S>(p, ring, part, turn, sums);
    race.enter(corner_of<S>(p, part, tile), sums);
  }
  race.end(part.cluster);
}

#endif

template <typename T, typename S>
__device__ void run(const HeadProductParams& head) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t shared[];
  const Part part = part_of_block<S>(head.product);
  const Ring<S> ring(shared, head.product);
  start(head.product, ring, part);
  if (threadIdx.x < S::kConsumers) {
    if constexpr (S::kShiftsRegisters) ptx::registers_take<160>();
    consume<T, S>(head, ring, part);
  } else {
    if constexpr (S::kShiftsRegisters) ptx::registers_give<32>();
    if (threadIdx.x == S::kConsumers) produce<S>(head.product, ring, part);
  }
#else
  __trap();
#endif
}

}  // namespace stream

#define HEAD_PRODUCT(NAME, T, ...)                                                      \
  extern "C" __global__ void __launch_bounds__(stream::Shape<__VA_ARGS__>::kThreads, 1) \
      NAME(const __grid_constant__ HeadProductParams p) {                               \
    stream::run<T, stream::Shape<__VA_ARGS__>>(p);                                      \
  }

// Those of stream_product.cu that have registers left for statistics and, of equals, the better ones.
#define HEAD_PRODUCTS(TYPE, T)                         \
  HEAD_PRODUCT(head_product_n8s8_##TYPE, T, 8, 1, 8)   \
  HEAD_PRODUCT(head_product_n16s4_##TYPE, T, 16, 1, 4) \
  HEAD_PRODUCT(head_product_n32_##TYPE, T, 32, 1, 4)   \
  HEAD_PRODUCT(head_product_n64_##TYPE, T, 64, 1, 2)   \
  HEAD_PRODUCT(head_product_n96_##TYPE, T, 96, 3, 1)   \
  HEAD_PRODUCT(head_product_n128_##TYPE, T, 128, 3, 1)
HEAD_PRODUCTS(bf16, __nv_bfloat16)
HEAD_PRODUCTS(f16, __half)
