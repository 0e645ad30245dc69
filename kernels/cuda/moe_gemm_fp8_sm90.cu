// targets: sm_90a
// moe_gemm_fp8_sm90.cu: the gemms of moe_gemm_sm90.cu with weights in FP8, of experts and of dense
// layers.
//   moe_gemm_sm90_nNwW_fp8:     out = x weight^T + bias, by p.epilogue
//   moe_gemm_sm90_nNwW_fp8_glu: out = act(gate, up), to T
// W is the number of warpgroups: one for matrices with too few rows to go round. For a gemm that is
// no experts' p.tiles is null, and p.tiles_max the tiles of N that p.tokens make.
//
// Weights have tensor maps as MXFP4 has. Launch: as moe_gemm_sm90.cu.
#include "moe_gemm_kernel.cuh"

// Positions of a tile, warpgroups: see src/fp8_gemm.rs and src/moe_gemm.rs, which choose.
#define MOE_GEMMS_FP8(N, WARPGROUPS)                                                              \
  MOE_GEMMS(moe_gemm_sm90_n##N##w##WARPGROUPS##_fp8, , __nv_bfloat16, moe_gemm::Fp8, N, WARPGROUPS, \
            2)
MOE_GEMMS_FP8(8, 1)
MOE_GEMMS_FP8(8, 2)
MOE_GEMMS_FP8(16, 1)
MOE_GEMMS_FP8(16, 2)
MOE_GEMMS_FP8(32, 1)
MOE_GEMMS_FP8(32, 2)
MOE_GEMMS_FP8(64, 1)
MOE_GEMMS_FP8(64, 2)
MOE_GEMMS_FP8(128, 2)
