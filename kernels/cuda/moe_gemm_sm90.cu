// targets: sm_90a
// moe_gemm_sm90.cu: grouped gemms of experts, with the copy engine and wgmma. See
// moe_gemm_sm90.cuh.
//   moe_gemm_sm90_nN_F:     out = x weight^T + bias, to T
//   moe_gemm_sm90_nN_F_glu: out = act(gate, up), see MoeGemmParams, to T
// F is the format of weights. Dense weights have a tensor map of [expert][row][k], boxes of 64 k by
// rows of a block; where gated, of [expert][8 rows][gate or up][row][k]. Packed ones have one of
// words of 8 bytes, not swizzled: [expert][strip][word of the strip], boxes of a stage by strips of
// a block; where gated, [expert][strip][gate or up][word].
//
// Launch: any number of blocks, kThreads threads; shared_bytes(..) of dynamic shared memory, at
// least 2 stages. in_features % 8 == 0 where T is dense; out_features % 8 == 0.
#include "common.cuh"
#include "moe_gemm_sm90.cuh"

namespace moe_gemm {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

__device__ __forceinline__ float gated(const MoeGemmSm90Params& p, float gate, float up) {
  gate = gate > p.limit ? p.limit : gate;  // what is no number stays none
  up = up > p.limit ? p.limit : up < -p.limit ? -p.limit : up;
  return gate / (1.0f + __expf(-p.alpha * gate)) * (up + p.up_offset);
}

// Sums to out: rows r and r + 8 of the warpgroup, two positions each.
template <typename T, typename S, bool kIsGlu>
__device__ void store(const MoeGemmSm90Params& p, const Work<S, kIsGlu>& work,
                      const float (&sums)[S::kN / 2]) {
  constexpr float kRest = std::is_same<typename S::Format, Mxfp4>::value ? kMxfp4Rest : 1.0f;
  const fragments::MatrixCoord at = fragments::accumulator(threadIdx.x % 128, 0);
  const int row = threadIdx.x / 128 * 64 + at.row;  // of the piece; the other one is 8 further
  const uint32_t output = kIsGlu ? work.row_tile * (S::kRows / 2) + row / 16 * 8 + row % 8
                                 : work.row_tile * S::kRows + row;
  const uint32_t other = kIsGlu ? p.out_features + output : output + 8;
  const bool has_row = output < p.out_features, has_other = other < p.out_features;
  const size_t rows = static_cast<size_t>(kIsGlu ? 2 : 1) * p.out_features;
  const float* bias = p.bias == nullptr ? nullptr : p.bias + work.tile.expert * rows;
  const float bias_row = bias != nullptr && has_row ? bias[output] : 0.0f;
  const float bias_other = bias != nullptr && has_row && (kIsGlu || has_other) ? bias[other] : 0.0f;
  T* out = static_cast<T*>(p.out) + static_cast<size_t>(work.tile.first) * p.out_features;
#pragma unroll
  for (int i = 0; i < S::kN / 2; i += 4) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const uint32_t position = i * 2 + at.column + e;
      if (position >= work.tile.count) continue;
      const float one = sums[i + e] * kRest + bias_row;
      const float two = sums[i + 2 + e] * kRest + bias_other;
      T* to = out + static_cast<size_t>(position) * p.out_features;
      if constexpr (kIsGlu) {
        if (has_row) to[output] = binfer::from_float<T>(gated(p, one, two));
      } else {
        if (has_row) to[output] = binfer::from_float<T>(one);
        if (has_other) to[other] = binfer::from_float<T>(two);
      }
    }
  }
}

template <typename T, typename S, bool kIsGlu>
__device__ void run_consumer(const MoeGemmSm90Params& p, const Ring<S>& ring) {
  ptx::wait_for_earlier_kernels();
  const uint32_t slices = (p.in_features + kSlice - 1) / kSlice;
  PipelineState state;
  for (Work<S, kIsGlu> work(p); work.is_there(); work.next()) {
    float sums[S::kN / 2];
    mainloop<T, S>(ring, slices, state, sums);
    store<T, S, kIsGlu>(p, work, sums);
  }
}

#endif

template <typename T, typename S, bool kIsGlu>
__device__ void run(const MoeGemmSm90Params& p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t shared[];
  const Ring<S> ring(shared, p.stages);
  if (threadIdx.x == 0) {
    for (int i = 0; i < ring.count; ++i) {
      ptx::mbarrier_init(&ring.full[i], 1);
      ptx::mbarrier_init(&ring.empty[i], S::kConsumers / 32);
    }
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < S::kConsumers) {
    if constexpr (S::kReallocatesRegisters) ptx::registers_take<216>();
    run_consumer<T, S, kIsGlu>(p, ring);
  } else {
    if constexpr (S::kReallocatesRegisters) ptx::registers_give<40>();
    if (threadIdx.x < S::kConsumers + 32) run_producer<S, kIsGlu>(p, ring);
  }
#else
  __trap();
#endif
}

}  // namespace moe_gemm

#define MOE_GEMM(NAME, T, IS_GLU, ...)                                                   \
  extern "C" __global__ void __launch_bounds__(moe_gemm::Shape<__VA_ARGS__>::kThreads, 1) \
      NAME(const __grid_constant__ MoeGemmSm90Params p) {                                \
    moe_gemm::run<T, moe_gemm::Shape<__VA_ARGS__>, IS_GLU>(p);                           \
  }
#define MOE_GEMMS(NAME, SUFFIX, T, ...)                       \
  MOE_GEMM(NAME##SUFFIX, T, false, __VA_ARGS__)               \
  MOE_GEMM(NAME##_glu##SUFFIX, T, true, __VA_ARGS__)
// Positions of a tile, warpgroups, slices of 64 k a stage: see src/moe_gemm.rs, which chooses.
#define MOE_GEMMS_MXFP4(N, WARPGROUPS, SLICES) \
  MOE_GEMMS(moe_gemm_sm90_n##N##_mxfp4, , __nv_bfloat16, moe_gemm::Mxfp4, N, WARPGROUPS, SLICES)
MOE_GEMMS_MXFP4(8, 2, 4)
MOE_GEMMS_MXFP4(16, 2, 4)
MOE_GEMMS_MXFP4(32, 2, 4)
MOE_GEMMS_MXFP4(64, 2, 4)
MOE_GEMMS_MXFP4(128, 2, 2)
MOE_GEMMS_MXFP4(256, 2, 2)
#define MOE_GEMMS_DENSE(N, WARPGROUPS, SLICES)                                                  \
  MOE_GEMMS(moe_gemm_sm90_n##N##_dense, _bf16, __nv_bfloat16, moe_gemm::Dense, N, WARPGROUPS,   \
            SLICES)                                                                             \
  MOE_GEMMS(moe_gemm_sm90_n##N##_dense, _f16, __half, moe_gemm::Dense, N, WARPGROUPS, SLICES)
MOE_GEMMS_DENSE(8, 2, 2)
MOE_GEMMS_DENSE(16, 2, 2)
MOE_GEMMS_DENSE(32, 2, 2)
MOE_GEMMS_DENSE(64, 2, 2)
MOE_GEMMS_DENSE(128, 2, 2)
MOE_GEMMS_DENSE(256, 2, 1)
