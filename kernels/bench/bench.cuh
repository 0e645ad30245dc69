// bench.cuh: what the benches of gemms share: memory of random numbers, and the time of a launch
// in a graph whose launches take turns with weights that do not fit into the cache.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../cuda/gemm_params.h"

namespace bench {

constexpr double kMemoryRate = 3.07e6;  // bytes a microsecond, measured on an H100
constexpr size_t kWeightElements = size_t(1) << 30;
constexpr int kVocab = 151936, kHeadDim = 128, kTokensMax = 256;
constexpr int kLaunches = 16, kReplays = 5;

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  exit(1);
}
#define CHECK(call) bench::check(call, #call)

struct Gemm {
  const char* name;
  int n, k;
  Epilogue epilogue;
};
// What the command line asks for: [hidden inner heads kv_heads [tokens ..]].
struct Wanted {
  std::vector<Gemm> gemms;
  std::vector<int> tokens;
};
inline Wanted wanted(int count, char** words) {
  int sizes[] = {4096, 12288, 32, 8};  // Qwen3-8B
  for (int i = 1; i < count && i <= 4; ++i) sizes[i - 1] = atoi(words[i]);
  std::vector<int> tokens = {8, 16, 32, 64, 96, 128, 192, 256};
  if (count > 5) tokens.clear();
  for (int i = 5; i < count; ++i) tokens.push_back(std::min(atoi(words[i]), kTokensMax));
  const auto [hidden, inner, heads, kv_heads] = sizes;
  return {{{"qkv", (heads + 2 * kv_heads) * kHeadDim, hidden, EPILOGUE_STORE},
           {"out", hidden, heads * kHeadDim, EPILOGUE_ADD_F32},
           {"gate_up", 2 * inner, hidden, EPILOGUE_GLU},
           {"down", hidden, inner, EPILOGUE_ADD_F32},
           {"head", kVocab, hidden, EPILOGUE_STORE_F32}},
          tokens};
}
// The time in which memory delivers the weights, in microseconds.
inline double floor_us(const Gemm& gemm) {
  return 2.0 * gemm.n * gemm.k / kMemoryRate;
}

static __global__ void fill(__nv_bfloat16* out, size_t count) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count;
       i += size_t(gridDim.x) * blockDim.x) {
    out[i] = __float2bfloat16(float((i * 2654435761u >> 8) % 1001) * 6e-5f - 0.03f);
  }
}

struct Bench {
  __nv_bfloat16 *weights, *x;
  void* out;
  cudaStream_t stream;

  Bench() {
    CHECK(cudaMalloc(&weights, kWeightElements * 2));
    CHECK(cudaMalloc(&x, size_t(kTokensMax) * 65536 * 2));
    CHECK(cudaMalloc(&out, size_t(kTokensMax) * 262144 * 4));
    CHECK(cudaStreamCreate(&stream));
    fill<<<1024, 256>>>(weights, kWeightElements);
    fill<<<1024, 256>>>(x, size_t(kTokensMax) * 65536);
    CHECK(cudaDeviceSynchronize());
  }

  // Median of a launch, in microseconds; `launch` enqueues one with the weights that it is given.
  template <typename Launch>
  float time(const Gemm& gemm, Launch launch) {
    const size_t elements = (size_t(gemm.n) * gemm.k + 1023) / 1024 * 1024;
    cudaGraph_t graph;
    cudaGraphExec_t ready;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < kLaunches; ++i) {
      launch(weights + i % (kWeightElements / elements) * elements);
    }
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&ready, graph, 0));
    cudaEvent_t begin, end;
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    std::vector<float> times(kReplays);
    CHECK(cudaGraphLaunch(ready, stream));
    for (float& time : times) {
      CHECK(cudaEventRecord(begin, stream));
      CHECK(cudaGraphLaunch(ready, stream));
      CHECK(cudaEventRecord(end, stream));
      CHECK(cudaStreamSynchronize(stream));
      CHECK(cudaEventElapsedTime(&time, begin, end));
    }
    CHECK(cudaEventDestroy(begin));
    CHECK(cudaEventDestroy(end));
    CHECK(cudaGraphExecDestroy(ready));
    CHECK(cudaGraphDestroy(graph));
    std::sort(times.begin(), times.end());
    return times[kReplays / 2] * 1000 / kLaunches;
  }
};

}  // namespace bench
