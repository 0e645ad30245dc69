// targets: sm_90a
// lm_head_gemm.cu: skinny_gemm_sm90.cu for the model's head: logits[output][token id] of few
// outputs, and from the sums what sampling wants to know of them (logit_statistics.cuh), for each
// block's tiles together:
//
//   tiles[output][block]  statistics of all outputs that they are enough for, see sample_needs.cuh
//   logits                written for the outputs that need more, and for no others
//
// So most logits never go to memory. Which outputs those are stands in the step's tables, not in
// the launch: a CUDA graph serves all steps. Several ranks, whose parts of the vocabulary must be
// brought together first, do not use this kernel.
//
// Launch: any number of blocks, without clusters; kThreads threads; shared memory as for
// skinny_gemm_sm90.cu, and head_bytes(..) behind that. tile_n % 16 == 0.
#include "logit_statistics.cuh"

namespace skinny_gemm {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

template <typename T, typename S>
__device__ void run_consumer(const LmHeadGemmParams& head, const Ring<S>& ring,
                             const BlockWork& work) {
  const SkinnyGemmParams& p = head.gemm;
  const int consumers = consumer_threads(p);
  ptx::wait_for_earlier_kernels();
  if (threadIdx.x >= consumers) return;
  const LogitStatistics<S> statistics(head, ring, consumers);
  statistics.begin();
  PipelineState state;
  for (int tile = work.cluster; tile < work.tiles; tile += work.clusters) {
    Accumulators<S> sums;
    mainloop<T, S>(p, ring, work, state, sums);
    statistics.add(tile_coord<S>(p, work, tile), sums);
  }
  statistics.end(work.cluster);
}

#endif

template <typename T, typename S>
__device__ void run(const LmHeadGemmParams& head) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t shared[];
  const BlockWork work = block_work<S>(head.gemm);
  const Ring<S> ring(shared, head.gemm);
  start(head.gemm, ring, work);
  if (threadIdx.x < S::kConsumers) {
    if constexpr (S::kReallocatesRegisters) ptx::registers_take<160>();
    run_consumer<T, S>(head, ring, work);
  } else {
    if constexpr (S::kReallocatesRegisters) ptx::registers_give<32>();
    if (threadIdx.x == S::kConsumers) run_producer<S>(head.gemm, ring, work);
  }
#else
  __trap();
#endif
}

}  // namespace skinny_gemm

#define LM_HEAD_GEMM(NAME, T, ...)                                                      \
  extern "C" __global__ void __launch_bounds__(skinny_gemm::Shape<__VA_ARGS__>::kThreads, 1) \
      NAME(const __grid_constant__ LmHeadGemmParams p) {                               \
    skinny_gemm::run<T, skinny_gemm::Shape<__VA_ARGS__>>(p);                                      \
  }

// Those of skinny_gemm_sm90.cu that have registers left for statistics and, of equals, the better
// ones.
#define LM_HEAD_GEMMS(TYPE, T)                         \
  LM_HEAD_GEMM(lm_head_gemm_n8s8_##TYPE, T, 8, 1, 8)   \
  LM_HEAD_GEMM(lm_head_gemm_n16s4_##TYPE, T, 16, 1, 4) \
  LM_HEAD_GEMM(lm_head_gemm_n32_##TYPE, T, 32, 1, 4)   \
  LM_HEAD_GEMM(lm_head_gemm_n64_##TYPE, T, 64, 1, 2)   \
  LM_HEAD_GEMM(lm_head_gemm_n96_##TYPE, T, 96, 3, 1)   \
  LM_HEAD_GEMM(lm_head_gemm_n128_##TYPE, T, 128, 3, 1)
LM_HEAD_GEMMS(bf16, __nv_bfloat16)
LM_HEAD_GEMMS(f16, __half)
