// skinny_gemm.cu: a sweep over the ways to launch skinny_gemm_sm90.cu, for whoever fits the
// estimate of ../src/skinny_gemm.rs: all tiles, clusters and rings for the gemms of a model, each
// timed in a graph whose launches depend on each other and take turns with weights that do not fit
// into the cache.
//
// `make kernel-bench`, then on a Hopper GPU: target/skinny-gemm-bench [hidden inner heads kv_heads
// [tokens ..]] > sweep.jsonl. One line of JSON a variant, `floor_us` beside `us`: the time in which
// memory delivers the weights. The best of every gemm goes to stderr. Deliberately absent: whether
// results are right, which the worker's tests say.
#include <cudaTypedefs.h>

#include <cmath>
#include <cstring>

#include "../cuda/skinny_gemm_sm90.cu"
#include "bench.cuh"

namespace bench {

constexpr int kSharedMax = 227 * 1024;
constexpr int kRings[] = {113 * 1024, kSharedMax};

struct Kernel {
  const char* name;
  int tile_m, tile_n_max, slices, threads;
  void (*run)(SkinnyGemmParams);
};
template <typename S>
Kernel kernel(const char* name, void (*run)(SkinnyGemmParams)) {
  return {name, S::kTileM, S::kTileN, S::kSlices, S::kThreads, run};
}
#define KERNEL(NAME, ...) \
  kernel<skinny_gemm::Shape<__VA_ARGS__>>(#NAME, skinny_gemm_sm90_##NAME##_bf16)
const std::vector<Kernel> kernels = {
    KERNEL(n8s8, 8, 1, 8),   KERNEL(n8s4, 8, 1, 4),   KERNEL(n16s8, 16, 1, 8),
    KERNEL(n16s4, 16, 1, 4), KERNEL(n32, 32, 1, 4),   KERNEL(n64, 64, 1, 2),
    KERNEL(n96, 96, 3, 1),   KERNEL(n128, 128, 3, 1), KERNEL(n192, 192, 3, 1),
    KERNEL(n256, 256, 3, 1)};

// A way to launch it.
struct Config {
  int tokens;  // of the gemm
  int tile_n, cluster, stages, blocks, shared_bytes;
};

// Not all numbers of blocks fill a chip: clusters do not span its parts.
int clusters_at_once(const Kernel& kernel, const Config& config) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {unsigned(config.cluster), 1, 1};
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(132 / config.cluster * config.cluster);
  launch.blockDim = dim3(kernel.threads);
  launch.dynamicSmemBytes = config.shared_bytes;
  launch.attrs = &attribute, launch.numAttrs = 1;
  int clusters = 0;
  const auto* run = reinterpret_cast<const void*>(kernel.run);
  CHECK(cudaOccupancyMaxActiveClusters(&clusters, run, &launch));
  return std::min(clusters, 132 / config.cluster);
}

// Those that have the tokens in one tile, and those that have them in two.
bool takes(const Kernel& kernel, int tokens) {
  int least = kTokensMax;
  for (const Kernel& other : kernels) {
    if (other.tile_m >= tokens) least = std::min(least, other.tile_m);
  }
  const bool in_two = kernel.tile_m >= skinny_gemm::kTiledTokensMin && kernel.tile_m < tokens;
  return kernel.tile_m == least || (in_two && 2 * kernel.tile_m >= tokens);
}

std::vector<Config> configs(const Kernel& kernel, const Gemm& gemm, int tokens) {
  std::vector<Config> found;
  const auto bytes = [&](const Config& config) {
    return skinny_gemm::shared_bytes(kernel.tile_m, config.tile_n, kernel.slices, config.stages,
                                config.cluster);
  };
  for (int cluster = 1; cluster <= 4; ++cluster) {
    for (int tile_n = 16; tile_n <= kernel.tile_n_max; tile_n += 16) {
      for (const int ring : kRings) {
        Config config = {tokens, tile_n, cluster, skinny_gemm::kStagesMax, 0, 0};
        while (config.stages > 1 && bytes(config) > ring) --config.stages;
        config.shared_bytes = bytes(config);
        if (config.stages < 2 || config.shared_bytes > kSharedMax) continue;
        const int m_tiles = (tokens + kernel.tile_m - 1) / kernel.tile_m;
        const int tiles = (gemm.n + tile_n - 1) / tile_n * m_tiles;
        const int at_once = clusters_at_once(kernel, config);
        if (at_once == 0 || (cluster > 1 && tiles > at_once)) continue;
        const int rounds = (tiles + at_once - 1) / at_once;
        if (tiles < at_once * rounds * 6 / 10) continue;  // most of the chip idles
        config.blocks = (tiles + rounds - 1) / rounds * cluster;
        found.push_back(config);
      }
    }
  }
  return found;
}

using Encode = PFN_cuTensorMapEncodeTiled_v12000;
TensorMap tensor_map(void* at, std::vector<cuuint64_t> sizes, std::vector<cuuint64_t> strides,
                     std::vector<cuuint32_t> box) {
  static Encode encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                           cudaEnableDefault, &result));
    return reinterpret_cast<Encode>(found);
  }();
  for (auto& stride : strides) stride *= 2;
  const std::vector<cuuint32_t> ones(sizes.size(), 1);
  CUtensorMap map;
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, cuuint32_t(sizes.size()), at, sizes.data(),
             strides.data(), box.data(), ones.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) check(cudaErrorInvalidValue, "cuTensorMapEncodeTiled");
  TensorMap copy;
  memcpy(&copy, &map, sizeof copy);
  return copy;
}

void launch(Bench& bench, const Kernel& kernel, const Gemm& gemm, const Config& config,
            __nv_bfloat16* weight) {
  const auto n = cuuint64_t(gemm.n), k = cuuint64_t(gemm.k);
  const bool is_glu = gemm.epilogue == EPILOGUE_GLU;
  const auto tile_n = cuuint32_t(config.tile_n), in_box = cuuint32_t(kernel.tile_m);
  SkinnyGemmParams params = {};
  params.weight = is_glu ? tensor_map(weight, {k, 8, 2, n / 16},
                                      {k, n / 2 * k, 8 * k},
                                      {64, 8, 2, tile_n / 16})
                         : tensor_map(weight, {k, n}, {k}, {64, tile_n});
  params.x = tensor_map(bench.x, {k, cuuint64_t(config.tokens)}, {k}, {64, in_box});
  params.out = bench.out;
  params.out_features = params.out_stride = is_glu ? gemm.n / 2 : gemm.n;
  params.in_features = gemm.k, params.tokens = config.tokens;
  params.epilogue = gemm.epilogue, params.tile_n = config.tile_n;
  params.stages = config.stages, params.start_next_ahead = 2;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {unsigned(config.cluster), 1, 1};
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(config.blocks), launch.blockDim = dim3(kernel.threads);
  launch.dynamicSmemBytes = config.shared_bytes, launch.stream = bench.stream;
  launch.attrs = attributes, launch.numAttrs = config.cluster > 1 ? 2 : 1;
  CHECK(cudaLaunchKernelEx(&launch, kernel.run, params));
}

void sweep(Bench& bench, const Gemm& gemm, int tokens) {
  Config best = {};
  float least = INFINITY;
  const char* name = "nothing";
  for (const Kernel& kernel : kernels) {
    if (!takes(kernel, tokens)) continue;
    for (const Config& config : configs(kernel, gemm, tokens)) {
      const float us = bench.time(gemm, [&](__nv_bfloat16* weight) {
        launch(bench, kernel, gemm, config, weight);
      });
      printf("{\"gemm\":\"%s\",\"n\":%d,\"k\":%d,\"tokens\":%d,\"kernel\":\"%s\","
             "\"tile_n\":%d,\"cluster\":%d,\"blocks\":%d,\"stages\":%d,\"shared_bytes\":%d,"
             "\"us\":%.2f,\"floor_us\":%.2f}\n",
             gemm.name, gemm.n, gemm.k, tokens, kernel.name, config.tile_n,
             config.cluster, config.blocks, config.stages, config.shared_bytes, us, floor_us(gemm));
      if (us < least) least = us, best = config, name = kernel.name;
    }
  }
  fprintf(stderr, "%s of %d tokens: %.2f us (floor %.2f), ", gemm.name, tokens, least,
          floor_us(gemm));
  fprintf(stderr, "%s, tiles of %d, %d blocks in clusters of %d\n", name, best.tile_n,
          best.blocks, best.cluster);
}

}  // namespace bench

int main(int count, char** words) {
  const auto [gemms, tokens] = bench::wanted(count, words);
  bench::Bench bench;
  for (const bench::Kernel& kernel : bench::kernels) {
    const auto shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
    CHECK(cudaFuncSetAttribute(kernel.run, shared, bench::kSharedMax));
  }
  for (const int few : tokens) {
    for (const bench::Gemm& gemm : gemms) sweep(bench, gemm, few);
  }
  return 0;
}
