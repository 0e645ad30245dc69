// stream_k_gemm.cu: a sweep over the grids of ../cuda/stream_k_gemm.cu, for whoever fits the
// estimate of ../src/stream_k_gemm.rs: as many whole tiles a block, as many parts a tile and as
// many blocks a multiprocessor as there can be, each timed in a graph as in skinny_gemm.cu.
//
// `make kernel-bench`, then on any GPU from compute capability 8.0 up, with the arguments and the
// output of skinny_gemm.cu: target/stream-k-gemm-bench [hidden inner heads kv_heads [tokens ..]] >
// sweep.jsonl. `floor_us` is an H100's. Deliberately absent: whether results are right, which the
// worker's tests say.
#include <cmath>
#include <set>

#include "../cuda/stream_k_gemm.cu"
#include "bench.cuh"

namespace bench {

struct Kernel {
  const char* name;
  int tile_m, tile_n, stage_k, threads, shared_bytes, at_once;
  void (*run)(StreamKGemmParams);
};
template <typename S>
Kernel kernel(const char* name, void (*run)(StreamKGemmParams)) {
  int at_once = 0;
  const auto shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
  CHECK(cudaFuncSetAttribute(run, shared, S::kSharedBytes));
  CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&at_once, run, S::kThreads, S::kSharedBytes));
  return {name, S::kTileM, S::kTileN, S::kStageK, S::kThreads, S::kSharedBytes, at_once, run};
}
#define KERNEL(VARIANT, BLOCKS, ...) \
  kernel<stream_k::Shape<__VA_ARGS__>>(#VARIANT, stream_k_gemm_##VARIANT##_bf16),
std::vector<Kernel> kernels() { return {STREAM_K_KERNELS(KERNEL)}; }

// What blocks leave each other.
struct Space {
  float* partials;
  uint32_t* arrivals;
  int multiprocessors;

  Space() {
    cudaDeviceProp card;
    CHECK(cudaGetDeviceProperties(&card, 0));
    multiprocessors = card.multiProcessorCount;
    CHECK(cudaMalloc(&partials, size_t(256) << 20));
    CHECK(cudaMalloc(&arrivals, size_t(1) << 20));
    CHECK(cudaMemset(arrivals, 0, size_t(1) << 20));
  }
};

void launch(const Bench& bench, const Space& space, const Kernel& kernel, const Gemm& gemm,
            int tokens, int blocks, const void* weight) {
  StreamKGemmParams params = {};
  params.weight = weight, params.x = bench.x, params.out = bench.out;
  params.partials = space.partials, params.arrivals = space.arrivals;
  params.out_features = gemm.epilogue == EPILOGUE_GLU ? gemm.n / 2 : gemm.n;
  params.in_features = params.stride = gemm.k, params.tokens = tokens;
  params.out_stride = params.out_features, params.epilogue = gemm.epilogue;
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

void sweep(Bench& bench, const Space& space, const Gemm& gemm, int tokens) {
  float least = INFINITY;
  const char* name = "nothing";
  int best = 0;
  for (const Kernel& kernel : kernels()) {
    const int m_tiles = (tokens + kernel.tile_m - 1) / kernel.tile_m;
    if (m_tiles > 2 || (kernel.tile_m >= 2 * tokens && kernel.tile_m > 8)) continue;
    const int tiles = (gemm.n + kernel.tile_n - 1) / kernel.tile_n * m_tiles;
    const int chunks = (gemm.k + kernel.stage_k - 1) / kernel.stage_k;
    for (const int blocks : grids(kernel, space.multiprocessors, tiles, chunks)) {
      const float us = bench.time(gemm, [&](__nv_bfloat16* weight) {
        launch(bench, space, kernel, gemm, tokens, blocks, weight);
      });
      printf("{\"gemm\":\"%s\",\"n\":%d,\"k\":%d,\"tokens\":%d,\"kernel\":\"%s\","
             "\"tiles\":%d,\"chunks\":%d,\"blocks\":%d,\"us\":%.2f,\"floor_us\":%.2f}\n",
             gemm.name, gemm.n, gemm.k, tokens, kernel.name, tiles, chunks, blocks,
             us, floor_us(gemm));
      if (us < least) least = us, best = blocks, name = kernel.name;
    }
  }
  fprintf(stderr, "%s of %d tokens: %.2f us (floor %.2f), %s, %d blocks\n", gemm.name, tokens,
          least, floor_us(gemm), name, best);
}

}  // namespace bench

int main(int count, char** words) {
  const auto [gemms, tokens] = bench::wanted(count, words);
  bench::Bench bench;
  const bench::Space space;
  for (const int few : tokens) {
    for (const bench::Gemm& gemm : gemms) bench::sweep(bench, space, gemm, few);
  }
  return 0;
}
