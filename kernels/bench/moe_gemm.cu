// moe_gemm.cu: times the grouped gemms of experts on Hopper for routings as even as chance makes
// them, beside their floors, and compares samples of their results with a plain product.
//
//   moe-gemm-bench [tokens ..]
#include <cmath>
#include <numeric>
#include <random>

#include "../cuda/moe_gemm_sm90.cu"
#include "bench.cuh"
#include "tensor_map.cuh"

namespace bench {

#define STRIPS 16
constexpr double kReadRate = 4.53e6, kFlopRate = 7.0e8;  // a microsecond, measured on an H200
constexpr int kSharedMax = 227 * 1024, kBlocks = 132, kRoutings = 8, kSamples = 4096;

struct Model {
  const char* name;
  int hidden, inner, experts, top_k;
  bool is_packed, is_swiglu;
};
const Model kModels[] = {{"gpt-oss-20b", 2880, 2880, 32, 4, true, true},
                         {"Qwen3-30B-A3B", 2048, 768, 128, 8, false, false},
                         {"DeepSeek-V2-Lite", 2048, 1408, 64, 6, false, false}};

struct Kernel {
  int n, slices, threads, stage_bytes;
  void (*store)(MoeGemmSm90Params);
  void (*glu)(MoeGemmSm90Params);
};
#define KERNEL(F, N, SUFFIX, NAME, SLICES)                                                        \
  {N, SLICES, moe_gemm::Shape<moe_gemm::F, N, 2, SLICES>::kThreads,                               \
   moe_gemm::Shape<moe_gemm::F, N, 2, SLICES>::kStageBytes, moe_gemm_sm90_n##N##_##NAME##SUFFIX,  \
   moe_gemm_sm90_n##N##_##NAME##_glu##SUFFIX}
const Kernel kPacked[] = {KERNEL(Mxfp4, 8, , mxfp4, 4),   KERNEL(Mxfp4, 16, , mxfp4, 4),
                          KERNEL(Mxfp4, 32, , mxfp4, 4),  KERNEL(Mxfp4, 64, , mxfp4, 4),
                          KERNEL(Mxfp4, 128, , mxfp4, 2), KERNEL(Mxfp4, 256, , mxfp4, 2)};
const Kernel kDense[] = {KERNEL(Dense, 8, _bf16, dense, 2),   KERNEL(Dense, 16, _bf16, dense, 2),
                         KERNEL(Dense, 32, _bf16, dense, 2),  KERNEL(Dense, 64, _bf16, dense, 2),
                         KERNEL(Dense, 128, _bf16, dense, 2), KERNEL(Dense, 256, _bf16, dense, 1)};

__global__ void fill_packed(uint8_t* out, size_t blocks) {
  for (size_t b = blockIdx.x; b < blocks; b += gridDim.x) {
    uint8_t* to = out + b * packed::Mxfp4::kBytes;
    for (int i = threadIdx.x; i < packed::Mxfp4::kBytes; i += blockDim.x) {
      const uint32_t hash = (uint32_t(b) * 272 + i) * 2654435761u >> 7;
      to[i] = i < 256 ? uint8_t(hash ^ hash >> 9) : uint8_t(119 + hash % 5);
    }
  }
}

// A weight of an expert's row, in f32.
struct Weights {
  const __nv_bfloat16* dense;
  const uint8_t* packed;
};
__device__ float weight_of(const MoeGemmSm90Params& p, const Weights& weights, size_t row, int k) {
  if (weights.dense != nullptr) return __bfloat162float(weights.dense[row * p.in_features + k]);
  const uint32_t row_blocks = (p.in_features + 63) / 64;
  return packed::value(packed::Mxfp4{},
                       weights.packed + packed::block_byte<packed::Mxfp4>(row, k, row_blocks), row % 8,
                       k % 64);
}

// The largest difference of samples from plain sums, relative to the largest sum.
__global__ void compare(MoeGemmSm90Params p, Weights dense, const __nv_bfloat16* x,
                        bool is_glu, uint32_t tiles, float* worst) {
  const uint32_t sample = blockIdx.x * blockDim.x + threadIdx.x;
  const uint32_t dice = sample * 2654435761u;
  const MoeTile tile = p.tiles[(dice >> 5) % tiles];
  const uint32_t position = tile.first + (dice >> 13) % tile.count;
  const uint32_t output = (dice >> 3) % p.out_features;
  const size_t row = tile.expert * size_t(is_glu ? 2 : 1) * p.out_features + output;
  float one = 0, two = 0, size = 0;
  for (uint32_t k = 0; k < p.in_features; ++k) {
    const float xk = __bfloat162float(x[size_t(position) * p.in_features + k]);
    one += xk * weight_of(p, dense, row, k);
    size += fabsf(xk * weight_of(p, dense, row, k));
    if (is_glu) two += xk * weight_of(p, dense, row + p.out_features, k);
  }
  const float want = is_glu ? moe_gemm::gated(p, one, two) : one;
  const float got = __bfloat162float(
      static_cast<const __nv_bfloat16*>(p.out)[size_t(position) * p.out_features + output]);
  const float bound = is_glu ? fabsf(want) + 0.05f * fabsf(two) + 0.1f : size;
  float error = fabsf(got - want) / bound;
  if (!(error < 1e30f)) error = 1e30f;
  atomicMax(reinterpret_cast<int*>(worst), __float_as_int(error));
}

struct Routing {
  std::vector<MoeTile> tiles;
  int touched;
};
Routing route(const Model& model, int tokens, int n, std::mt19937& random) {
  std::vector<int> counts(model.experts), ids(model.experts);
  std::iota(ids.begin(), ids.end(), 0);
  for (int token = 0; token < tokens; ++token) {
    for (int i = 0; i < model.top_k; ++i) {
      std::swap(ids[i], ids[i + random() % (model.experts - i)]);
      ++counts[ids[i]];
    }
  }
  Routing routing = {};
  uint32_t first = 0;
  for (int expert = 0; expert < model.experts; ++expert) {
    routing.touched += counts[expert] > 0;
    for (int done = 0; done < counts[expert]; done += n) {
      const uint32_t count = std::min(n, counts[expert] - done);
      routing.tiles.push_back({uint32_t(expert), first + done, count, 0});
    }
    first += counts[expert];
  }
  return routing;
}

struct Memory {
  __nv_bfloat16 *weights, *x;
  uint8_t* packed;
  void* out;
  MoeTile* tiles;
  float* worst;
  cudaStream_t stream;
};

void launch(const Memory& memory, const Kernel& kernel, bool is_glu, const MoeGemmSm90Params& params,
            int blocks) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks), config.blockDim = dim3(kernel.threads);
  config.dynamicSmemBytes = moe_gemm::shared_bytes(kernel.stage_bytes, params.stages);
  config.stream = memory.stream, config.attrs = &attribute, config.numAttrs = 1;
  CHECK(cudaLaunchKernelEx(&config, is_glu ? kernel.glu : kernel.store, params));
}

void measure(const Memory& memory, const Model& model, const Kernel& kernel, int tokens,
             bool is_glu) {
  std::mt19937 random(7 + tokens);
  const int slots = tokens * model.top_k;
  const int in = is_glu ? model.hidden : model.inner, out = is_glu ? model.inner : model.hidden;
  const int rows = is_glu ? 2 * out : out;
  std::vector<Routing> routings;
  const size_t tiles_max = std::min(slots, slots / kernel.n + std::min(slots, model.experts));
  std::vector<MoeTile> all;
  double touched = 0;
  for (int i = 0; i < kRoutings; ++i) {
    routings.push_back(route(model, tokens, kernel.n, random));
    touched += routings.back().touched / double(kRoutings);
    std::vector<MoeTile> tiles = routings.back().tiles;
    tiles.resize(tiles_max);
    all.insert(all.end(), tiles.begin(), tiles.end());
  }
  CHECK(cudaMemcpy(memory.tiles, all.data(), all.size() * sizeof(MoeTile), cudaMemcpyHostToDevice));
  const auto k = cuuint64_t(in), n = cuuint64_t(out);
  const auto experts = cuuint64_t(model.experts);
  MoeGemmSm90Params params = {};
  params.x = tensor_map(memory.x, {k, cuuint64_t(slots)}, {k}, {64, cuuint32_t(kernel.n)});
  if (model.is_packed) {
    const cuuint64_t words = (k + 63) / 64 * 34, strips = n / 8;
    const auto box = cuuint32_t(34 * kernel.slices);
    params.weight = is_glu ? tensor_map(memory.packed, {words, 2, strips, experts},
                                        {strips * words, words, 2 * strips * words},
                                        {box, 2, STRIPS / 2, 1}, true)
                           : tensor_map(memory.packed, {words, strips, experts},
                                        {words, strips * words}, {box, STRIPS, 1}, true);
  } else if (is_glu) {
    params.weight = tensor_map(memory.weights, {k, 8, 2, n / 8, experts},
                               {k, n * k, 8 * k, 2 * n * k}, {64, 8, 2, 8, 1});
  } else {
    params.weight = tensor_map(memory.weights, {k, n, experts}, {k, n * k}, {64, 128, 1});
  }
  params.out = memory.out, params.tiles_max = tiles_max;
  params.in_features = in, params.out_features = params.out_stride = out;
  params.alpha = model.is_swiglu ? 1.702f : 1.0f;
  params.limit = model.is_swiglu ? 7.0f : INFINITY, params.up_offset = model.is_swiglu;
  params.stages = std::min(moe_gemm::kStagesMax,
                           (kSharedMax - moe_gemm::kHeaderBytes) / kernel.stage_bytes);
  params.tiles = memory.tiles;
  CHECK(cudaMemsetAsync(memory.out, 0xff, size_t(slots) * out * 2, memory.stream));
  launch(memory, kernel, is_glu, params, kBlocks);
  CHECK(cudaMemsetAsync(memory.worst, 0, 4, memory.stream));
  compare<<<kSamples / 128, 128, 0, memory.stream>>>(params, {model.is_packed ? nullptr : memory.weights, memory.packed},
                                                     memory.x, is_glu,
                                                     routings[0].tiles.size(), memory.worst);
  float worst = 0;
  CHECK(cudaMemcpyAsync(&worst, memory.worst, 4, cudaMemcpyDeviceToHost, memory.stream));
  CHECK(cudaStreamSynchronize(memory.stream));
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  CHECK(cudaStreamBeginCapture(memory.stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < kRoutings; ++i) {
    params.tiles = memory.tiles + i * tiles_max;
    launch(memory, kernel, is_glu, params, kBlocks);
  }
  CHECK(cudaStreamEndCapture(memory.stream, &graph));
  CHECK(cudaGraphInstantiate(&ready, graph, 0));
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  std::vector<float> times(kReplays);
  CHECK(cudaGraphLaunch(ready, memory.stream));
  for (float& time : times) {
    CHECK(cudaEventRecord(begin, memory.stream));
    CHECK(cudaGraphLaunch(ready, memory.stream));
    CHECK(cudaEventRecord(end, memory.stream));
    CHECK(cudaEventSynchronize(end));
    CHECK(cudaEventElapsedTime(&time, begin, end));
  }
  std::sort(times.begin(), times.end());
  const double us = times[kReplays / 2] * 1000 / kRoutings;
  const double weight_bytes = touched * rows * (model.is_packed ? (in + 63) / 64 * 34.0 : in * 2.0);
  const double bytes = weight_bytes + slots * 2.0 * (in + out);
  const double flop = 2.0 * slots * rows * in;
  const double floor = std::max(bytes / kReadRate, flop / kFlopRate);
  printf("%-17s %-7s tokens %5d n%-3d: %8.1f us, floor %7.1f (%4.0f %%), %5.2f TB/s, %5.0f TFLOP/s, off %.1e\n",
         model.name, is_glu ? "gate_up" : "down", tokens, kernel.n, us, floor, 100 * floor / us,
         bytes / us * 1e-6, flop / us * 1e-6, worst);
  CHECK(cudaGraphExecDestroy(ready));
  CHECK(cudaGraphDestroy(graph));
}

}  // namespace bench

int main(int count, char** words) {
  using namespace bench;
  std::vector<int> tokens = {1, 4, 8, 16, 32, 64, 128, 256, 1024, 8192};
  if (count > 1) tokens.clear();
  for (int i = 1; i < count; ++i) tokens.push_back(atoi(words[i]));
  Memory memory;
  const size_t dense = size_t(128) * 1536 * 2048, packed_blocks = size_t(32) * 720 * 45;
  CHECK(cudaMalloc(&memory.weights, dense * 2));
  CHECK(cudaMalloc(&memory.packed, packed_blocks * packed::Mxfp4::kBytes));
  CHECK(cudaMalloc(&memory.x, size_t(8192) * 8 * 2880 * 2));
  CHECK(cudaMalloc(&memory.out, size_t(8192) * 8 * 2880 * 2));
  CHECK(cudaMalloc(&memory.tiles, size_t(8192) * 8 * kRoutings * sizeof(MoeTile)));
  CHECK(cudaMalloc(&memory.worst, 4));
  CHECK(cudaStreamCreate(&memory.stream));
  fill<<<1024, 256>>>(memory.weights, dense);
  fill<<<1024, 256>>>(memory.x, size_t(8192) * 8 * 2880);
  fill_packed<<<4096, 256>>>(memory.packed, packed_blocks);
  CHECK(cudaDeviceSynchronize());
  for (const Model& model : kModels) {
    for (const Kernel& kernel : model.is_packed ? kPacked : kDense) {
      for (auto run : {kernel.store, kernel.glu}) {
        CHECK(cudaFuncSetAttribute(run, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedMax));
      }
    }
    for (const int few : tokens) {
      const double mean = double(few) * model.top_k / model.experts;
      for (const Kernel& kernel : model.is_packed ? kPacked : kDense) {
        if (kernel.n > 8 && kernel.n > 8 * mean) continue;
        if (kernel.n < 256 && kernel.n < mean / 2) continue;
        for (const bool is_glu : {true, false}) measure(memory, model, kernel, few, is_glu);
      }
    }
  }
  return 0;
}
