// narrow.cu: a sweep over the grids of narrow_product.cu, for whoever fits the estimate of
// ../src/narrow.rs: as many whole tiles a block, as many pieces a tile and as many blocks a
// multiprocessor as there can be, each timed in a graph as in products.cu.
//
// `make kernel-bench`, then on any GPU from compute capability 8.0 up, with the words and the output of
// products.cu: target/narrow-bench [hidden inner heads kv_heads [tokens ..]] > sweep.jsonl.
// `floor_us` is an H100's. Deliberately absent: whether results are right, which the worker's tests say.
#include <cmath>
#include <set>

#include "../cuda/narrow_product.cu"
#include "bench.cuh"

namespace bench {

struct Kernel {
  const char* name;
  int tokens, rows, stage_k, threads, shared_bytes, at_once;
  void (*run)(NarrowProductParams);
};
template <typename S>
Kernel kernel(const char* name, void (*run)(NarrowProductParams)) {
  int at_once = 0;
  const auto shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
  CHECK(cudaFuncSetAttribute(run, shared, S::kSharedBytes));
  CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&at_once, run, S::kThreads, S::kSharedBytes));
  return {name, S::kN, S::kRows, S::kStageK, S::kThreads, S::kSharedBytes, at_once, run};
}
#define KERNEL(VARIANT, BLOCKS, ...) \
  kernel<narrow::Shape<__VA_ARGS__>>(#VARIANT, narrow_product_##VARIANT##_bf16),
std::vector<Kernel> kernels() { return {NARROW_KERNELS(KERNEL)}; }

// What blocks leave each other.
struct Space {
  float* pieces;
  uint32_t* arrivals;
  int multiprocessors;

  Space() {
    cudaDeviceProp card;
    CHECK(cudaGetDeviceProperties(&card, 0));
    multiprocessors = card.multiProcessorCount;
    CHECK(cudaMalloc(&pieces, size_t(256) << 20));
    CHECK(cudaMalloc(&arrivals, size_t(1) << 20));
    CHECK(cudaMemset(arrivals, 0, size_t(1) << 20));
  }
};

void launch(const Bench& bench, const Space& space, const Kernel& kernel, const Product& product,
            int tokens, int blocks, const void* weight) {
  NarrowProductParams params = {};
  params.weight = weight, params.x = bench.x, params.out = bench.out;
  params.pieces = space.pieces, params.arrivals = space.arrivals;
  params.out_rows = product.store == STREAM_STORE_GLU ? product.rows / 2 : product.rows;
  params.inputs = params.stride = product.inputs, params.tokens = tokens;
  params.out_stride = params.out_rows, params.store = product.store;
  kernel.run<<<blocks, kernel.threads, kernel.shared_bytes, bench.stream>>>(params);
  CHECK(cudaGetLastError());
}

std::set<int> grids(const Kernel& kernel, int multiprocessors, int tiles, int chunks) {
  const int most = kernel.at_once * multiprocessors, rounds = (tiles + most - 1) / most;
  std::set<int> found = {(tiles + rounds - 1) / rounds};
  for (int pieces = 2; pieces <= chunks && pieces * tiles <= most; ++pieces) {
    found.insert(pieces * tiles);
  }
  for (int blocks = 1; blocks <= kernel.at_once; ++blocks) {
    found.insert(std::min(tiles * chunks, blocks * multiprocessors));
  }
  return found;
}

void sweep(Bench& bench, const Space& space, const Product& product, int tokens) {
  float least = INFINITY;
  const char* name = "nothing";
  int best = 0;
  for (const Kernel& kernel : kernels()) {
    const int token_tiles = (tokens + kernel.tokens - 1) / kernel.tokens;
    if (token_tiles > 2 || (kernel.tokens >= 2 * tokens && kernel.tokens > 8)) continue;
    const int tiles = (product.rows + kernel.rows - 1) / kernel.rows * token_tiles;
    const int chunks = (product.inputs + kernel.stage_k - 1) / kernel.stage_k;
    for (const int blocks : grids(kernel, space.multiprocessors, tiles, chunks)) {
      const float us = bench.time(product, [&](__nv_bfloat16* weight) {
        launch(bench, space, kernel, product, tokens, blocks, weight);
      });
      printf("{\"product\":\"%s\",\"rows\":%d,\"inputs\":%d,\"tokens\":%d,\"kernel\":\"%s\","
             "\"tiles\":%d,\"chunks\":%d,\"blocks\":%d,\"us\":%.2f,\"floor_us\":%.2f}\n",
             product.name, product.rows, product.inputs, tokens, kernel.name, tiles, chunks, blocks,
             us, floor_us(product));
      if (us < least) least = us, best = blocks, name = kernel.name;
    }
  }
  fprintf(stderr, "%s of %d tokens: %.2f us (floor %.2f), %s, %d blocks\n", product.name, tokens,
          least, floor_us(product), name, best);
}

}  // namespace bench

int main(int count, char** words) {
  const auto [products, tokens] = bench::wanted(count, words);
  bench::Bench bench;
  const bench::Space space;
  for (const int few : tokens) {
    for (const bench::Product& product : products) bench::sweep(bench, space, product, few);
  }
  return 0;
}
