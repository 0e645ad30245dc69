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
#include "moe_gemm_kernel.cuh"

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
