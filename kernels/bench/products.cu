// products.cu: a sweep over the ways to launch stream_product.cu, for whoever fits the estimate of
// ../src/stream.rs: all tiles, clusters and rings for the products of a model, each timed in a graph
// whose launches depend on each other and take turns with weights that do not fit into the cache.
//
// `make kernel-bench`, then on a Hopper GPU: target/kernel-bench [hidden inner heads kv_heads
// [tokens ..]] > sweep.jsonl. One line of JSON a variant, `floor_us` beside `us`: the time in which
// memory delivers the weights. The best of every product goes to stderr. Deliberately absent: whether
// results are right, which the worker's tests say.
#include <cudaTypedefs.h>

#include <cmath>
#include <cstring>

#include "../cuda/stream_product.cu"
#include "bench.cuh"

namespace bench {

constexpr int kSharedMax = 227 * 1024;
constexpr int kRings[] = {113 * 1024, kSharedMax};

struct Kernel {
  const char* name;
  int tokens, rows_max, slices, threads;
  void (*run)(StreamProductParams);
};
template <typename S>
Kernel kernel(const char* name, void (*run)(StreamProductParams)) {
  return {name, S::kN, S::kRows, S::kSlices, S::kThreads, run};
}
#define KERNEL(NAME, ...) kernel<stream::Shape<__VA_ARGS__>>(#NAME, stream_product_##NAME##_bf16)
const std::vector<Kernel> kernels = {
    KERNEL(n8s8, 8, 1, 8),   KERNEL(n8s4, 8, 1, 4),   KERNEL(n16s8, 16, 1, 8),
    KERNEL(n16s4, 16, 1, 4), KERNEL(n32, 32, 1, 4),   KERNEL(n64, 64, 1, 2),
    KERNEL(n96, 96, 3, 1),   KERNEL(n128, 128, 3, 1), KERNEL(n192, 192, 3, 1),
    KERNEL(n256, 256, 3, 1)};

// A way to launch it.
struct Plan {
  int tokens;  // of the product
  int tile_rows, cluster, stages, blocks, shared_bytes;
};

// Not all numbers of blocks fill a chip: clusters do not span its parts.
int clusters_at_once(const Kernel& kernel, const Plan& plan) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {unsigned(plan.cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(132 / plan.cluster * plan.cluster);
  config.blockDim = dim3(kernel.threads);
  config.dynamicSmemBytes = plan.shared_bytes;
  config.attrs = &attribute, config.numAttrs = 1;
  int clusters = 0;
  const auto* run = reinterpret_cast<const void*>(kernel.run);
  CHECK(cudaOccupancyMaxActiveClusters(&clusters, run, &config));
  return std::min(clusters, 132 / plan.cluster);
}

// Those that have the tokens in one tile, and those that have them in two.
bool takes(const Kernel& kernel, int tokens) {
  int least = kTokensMax;
  for (const Kernel& other : kernels) {
    if (other.tokens >= tokens) least = std::min(least, other.tokens);
  }
  const bool in_two = kernel.tokens >= stream::kTiledTokensMin && kernel.tokens < tokens;
  return kernel.tokens == least || (in_two && 2 * kernel.tokens >= tokens);
}

std::vector<Plan> plans(const Kernel& kernel, const Product& product, int tokens) {
  std::vector<Plan> found;
  const auto bytes = [&](const Plan& plan) {
    return stream::shared_bytes(kernel.tokens, plan.tile_rows, kernel.slices, plan.stages,
                                plan.cluster);
  };
  for (int cluster = 1; cluster <= 4; ++cluster) {
    for (int tile_rows = 16; tile_rows <= kernel.rows_max; tile_rows += 16) {
      for (const int ring : kRings) {
        Plan plan = {tokens, tile_rows, cluster, stream::kStagesMax, 0, 0};
        while (plan.stages > 1 && bytes(plan) > ring) --plan.stages;
        plan.shared_bytes = bytes(plan);
        if (plan.stages < 2 || plan.shared_bytes > kSharedMax) continue;
        const int token_tiles = (tokens + kernel.tokens - 1) / kernel.tokens;
        const int tiles = (product.rows + tile_rows - 1) / tile_rows * token_tiles;
        const int at_once = clusters_at_once(kernel, plan);
        if (at_once == 0 || (cluster > 1 && tiles > at_once)) continue;
        const int rounds = (tiles + at_once - 1) / at_once;
        if (tiles < at_once * rounds * 6 / 10) continue;  // most of the chip idles
        plan.blocks = (tiles + rounds - 1) / rounds * cluster;
        found.push_back(plan);
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

void launch(Bench& bench, const Kernel& kernel, const Product& product, const Plan& plan,
            __nv_bfloat16* weight) {
  const auto rows = cuuint64_t(product.rows), inputs = cuuint64_t(product.inputs);
  const bool is_glu = product.store == STREAM_STORE_GLU;
  const auto tile_rows = cuuint32_t(plan.tile_rows), in_box = cuuint32_t(kernel.tokens);
  StreamProductParams params = {};
  params.weight = is_glu ? tensor_map(weight, {inputs, 8, 2, rows / 16},
                                      {inputs, rows / 2 * inputs, 8 * inputs},
                                      {64, 8, 2, tile_rows / 16})
                         : tensor_map(weight, {inputs, rows}, {inputs}, {64, tile_rows});
  params.x = tensor_map(bench.x, {inputs, cuuint64_t(plan.tokens)}, {inputs}, {64, in_box});
  params.out = bench.out;
  params.out_rows = params.out_stride = is_glu ? product.rows / 2 : product.rows;
  params.inputs = product.inputs, params.tokens = plan.tokens;
  params.store = product.store, params.tile_rows = plan.tile_rows;
  params.stages = plan.stages, params.start_next_ahead = 2;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {unsigned(plan.cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(plan.blocks), config.blockDim = dim3(kernel.threads);
  config.dynamicSmemBytes = plan.shared_bytes, config.stream = bench.stream;
  config.attrs = attributes, config.numAttrs = plan.cluster > 1 ? 2 : 1;
  CHECK(cudaLaunchKernelEx(&config, kernel.run, params));
}

void sweep(Bench& bench, const Product& product, int tokens) {
  Plan best = {};
  float least = INFINITY;
  const char* name = "nothing";
  for (const Kernel& kernel : kernels) {
    if (!takes(kernel, tokens)) continue;
    for (const Plan& plan : plans(kernel, product, tokens)) {
      const float us = bench.time(product, [&](__nv_bfloat16* weight) {
        launch(bench, kernel, product, plan, weight);
      });
      printf("{\"product\":\"%s\",\"rows\":%d,\"inputs\":%d,\"tokens\":%d,\"kernel\":\"%s\","
             "\"tile_rows\":%d,\"cluster\":%d,\"blocks\":%d,\"stages\":%d,\"shared_bytes\":%d,"
             "\"us\":%.2f,\"floor_us\":%.2f}\n",
             product.name, product.rows, product.inputs, tokens, kernel.name, plan.tile_rows,
             plan.cluster, plan.blocks, plan.stages, plan.shared_bytes, us, floor_us(product));
      if (us < least) least = us, best = plan, name = kernel.name;
    }
  }
  fprintf(stderr, "%s of %d tokens: %.2f us (floor %.2f), ", product.name, tokens, least,
          floor_us(product));
  fprintf(stderr, "%s, tiles of %d, %d blocks in clusters of %d\n", name, best.tile_rows,
          best.blocks, best.cluster);
}

}  // namespace bench

int main(int count, char** words) {
  const auto [products, tokens] = bench::wanted(count, words);
  bench::Bench bench;
  for (const bench::Kernel& kernel : bench::kernels) {
    const auto shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
    CHECK(cudaFuncSetAttribute(kernel.run, shared, bench::kSharedMax));
  }
  for (const int few : tokens) {
    for (const bench::Product& product : products) sweep(bench, product, few);
  }
  return 0;
}
