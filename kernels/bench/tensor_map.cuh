// tensor_map.cuh: tensor maps for benches of kernels that use the copy engine.
#pragma once

#include <cudaTypedefs.h>

#include <cstring>

#include "bench.cuh"

namespace bench {

// Elements are halves, swizzled, or words of eight bytes as they lie.
inline TensorMap tensor_map(void* at, std::vector<cuuint64_t> sizes, std::vector<cuuint64_t> strides,
                     std::vector<cuuint32_t> box, bool is_packed = false) {
  static auto encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                           cudaEnableDefault, &result));
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
  }();
  for (auto& stride : strides) stride *= is_packed ? 8 : 2;
  const std::vector<cuuint32_t> ones(sizes.size(), 1);
  CUtensorMap map;
  const CUresult status =
      encode(&map, is_packed ? CU_TENSOR_MAP_DATA_TYPE_FLOAT64 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
             cuuint32_t(sizes.size()), at, sizes.data(), strides.data(), box.data(), ones.data(),
             CU_TENSOR_MAP_INTERLEAVE_NONE,
             is_packed ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) check(cudaErrorInvalidValue, "cuTensorMapEncodeTiled");
  TensorMap copy;
  memcpy(&copy, &map, sizeof copy);
  return copy;
}

}  // namespace bench
