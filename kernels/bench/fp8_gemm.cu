// fp8_gemm.cu: times gemms with weights in FP8 on Hopper, of DeepSeek-V3's shapes, each with both
// numbers of warpgroups, beside their floors, and compares samples with a plain product.
//
//   fp8-gemm-bench [tokens ..]
#include <cmath>

#include "../cuda/moe_gemm_fp8_sm90.cu"
#include "bench.cuh"
#include "tensor_map.cuh"

namespace bench {

constexpr double kReadRate = 4.53e6, kFlopRate = 7.0e8;  // a microsecond, measured on an H200
constexpr int kSharedMax = 227 * 1024, kBlocks = 132, kSamples = 4096, kRowsMax = 36864;
constexpr size_t kPackedBytes = size_t(1) << 30, kFp8Tokens = 8192, kColumns = 18432;

struct Kernel {
  int n, warpgroups, threads, stage_bytes;
  void (*store)(MoeGemmSm90Params);
  void (*glu)(MoeGemmSm90Params);
};
#define KERNEL(N, W)                                                             \
  {N, W, moe_gemm::Shape<moe_gemm::Fp8, N, W, 2>::kThreads,                      \
   moe_gemm::Shape<moe_gemm::Fp8, N, W, 2>::kStageBytes, moe_gemm_sm90_n##N##w##W##_fp8, \
   moe_gemm_sm90_n##N##w##W##_fp8_glu}
const Kernel kKernels[] = {KERNEL(8, 1),  KERNEL(8, 2),  KERNEL(16, 1), KERNEL(16, 2), KERNEL(32, 1),
                           KERNEL(32, 2), KERNEL(64, 1), KERNEL(64, 2), KERNEL(128, 2)};
const Gemm kGemms[] = {{"q_a", 1536, 7168, EPILOGUE_STORE},
                       {"kv_a", 576, 7168, EPILOGUE_STORE},
                       {"q_b", 24576, 1536, EPILOGUE_STORE},
                       {"out", 7168, 16384, EPILOGUE_ADD_F32},
                       {"gate_up", 36864, 7168, EPILOGUE_GLU},
                       {"down", 7168, 18432, EPILOGUE_ADD_F32}};

__global__ void fill_packed(uint8_t* out, size_t blocks) {
  for (size_t b = blockIdx.x; b < blocks; b += gridDim.x) {
    uint8_t* to = out + b * packed::Fp8::kBytes;
    for (int i = threadIdx.x; i < packed::Fp8::kWords * 4; i += blockDim.x) {
      const uint32_t hash = (uint32_t(b) * 1024 + i) * 2654435761u >> 7;
      to[i] = uint8_t(hash ^ hash >> 9) & 0xaf;  // no code that is no number, whatever the place
    }
    for (int row = threadIdx.x; row < 8; row += blockDim.x) {
      *reinterpret_cast<float*>(to + packed::Fp8::scale_byte(row, 0)) =
          0.01f + 0.001f * ((b * 8 + row) % 37);
    }
  }
}

__device__ float weight_of(const uint8_t* weights, size_t row, int k, int row_blocks) {
  const uint8_t* block = weights + packed::block_byte<packed::Fp8>(row, k, row_blocks);
  return packed::value(packed::Fp8{}, block, row % 8, k % 128);
}

// The largest difference of samples from plain sums, in units of what went into a sum.
__global__ void compare(MoeGemmSm90Params p, const uint8_t* weights, const __nv_bfloat16* x,
                        float* worst) {
  const uint32_t dice = (blockIdx.x * blockDim.x + threadIdx.x) * 2654435761u;
  const uint32_t token = (dice >> 13) % p.tokens, output = (dice >> 3) % p.out_features;
  const int row_blocks = (p.in_features + 127) / 128;
  float sums[2] = {}, size = 0;
  for (int half = 0; half < (p.epilogue == EPILOGUE_GLU ? 2 : 1); ++half) {
    for (uint32_t k = 0; k < p.in_features; ++k) {
      const float product = __bfloat162float(x[size_t(token) * p.in_features + k]) *
                            weight_of(weights, output + half * p.out_features, k, row_blocks);
      sums[half] += product, size += fabsf(product);
    }
  }
  const bool is_glu = p.epilogue == EPILOGUE_GLU, is_f32 = p.epilogue == EPILOGUE_ADD_F32;
  const float want = is_glu ? moe_gemm::gated(p, sums[0], sums[1]) : sums[0];
  const size_t at = size_t(token) * p.out_features + output;
  const float got = is_f32 ? static_cast<const float*>(p.out)[at]
                           : __bfloat162float(static_cast<const __nv_bfloat16*>(p.out)[at]);
  const float bound = is_glu ? fabsf(want) + 0.05f * fabsf(sums[1]) + 0.1f : size;
  float error = fabsf(got - want) / bound;
  if (!(error < 1e30f)) error = 1e30f;
  atomicMax(reinterpret_cast<int*>(worst), __float_as_int(error));
}

struct Memory {
  uint8_t* packed;
  __nv_bfloat16* x;
  void* out;
  float* worst;
  cudaStream_t stream;
};

MoeGemmSm90Params params_of(const Memory& memory, const Gemm& gemm, const Kernel& kernel,
                            int tokens, uint8_t* weights) {
  const bool is_glu = gemm.epilogue == EPILOGUE_GLU;
  const auto k = cuuint64_t(gemm.k), words = (k + 127) / 128 * 132;
  const auto strips = cuuint64_t(gemm.n + 7) / 8 / (is_glu ? 2 : 1);
  const auto rows = cuuint32_t(8 * kernel.warpgroups);
  MoeGemmSm90Params p = {};
  p.x = tensor_map(memory.x, {k, cuuint64_t(tokens)}, {k}, {64, cuuint32_t(kernel.n)});
  p.weight = is_glu ? tensor_map(weights, {words, 2, strips, 1},
                                 {strips * words, words, 2 * strips * words},
                                 {132, 2, rows / 2, 1}, true)
                    : tensor_map(weights, {words, strips, 1}, {words, strips * words},
                                 {132, rows, 1}, true);
  p.out = memory.out, p.tokens = tokens, p.tiles_max = (tokens + kernel.n - 1) / kernel.n;
  p.in_features = gemm.k, p.out_features = p.out_stride = is_glu ? gemm.n / 2 : gemm.n;
  p.alpha = 1.0f, p.limit = INFINITY, p.epilogue = gemm.epilogue;
  p.stages = std::min(moe_gemm::kStagesMax,
                      (kSharedMax - moe_gemm::kHeaderBytes) / kernel.stage_bytes);
  return p;
}

void launch(const Memory& memory, const Gemm& gemm, const Kernel& kernel,
            const MoeGemmSm90Params& params) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  const int rows = 64 * kernel.warpgroups;
  config.gridDim = dim3(std::min<int>(kBlocks, (gemm.n + rows - 1) / rows * params.tiles_max));
  config.blockDim = dim3(kernel.threads);
  config.dynamicSmemBytes = moe_gemm::shared_bytes(kernel.stage_bytes, params.stages);
  config.stream = memory.stream, config.attrs = &attribute, config.numAttrs = 1;
  const bool is_glu = gemm.epilogue == EPILOGUE_GLU;
  CHECK(cudaLaunchKernelEx(&config, is_glu ? kernel.glu : kernel.store, params));
}

float time_us(const Memory& memory, const Gemm& gemm, const Kernel& kernel, int tokens) {
  const size_t bytes = (size_t(gemm.n) * gemm.k / 1024 * packed::Fp8::kBytes + 255) / 256 * 256;
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  CHECK(cudaStreamBeginCapture(memory.stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < kLaunches; ++i) {
    uint8_t* weights = memory.packed + i % (kPackedBytes / bytes) * bytes;
    launch(memory, gemm, kernel, params_of(memory, gemm, kernel, tokens, weights));
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
  CHECK(cudaGraphExecDestroy(ready));
  CHECK(cudaGraphDestroy(graph));
  std::sort(times.begin(), times.end());
  return times[kReplays / 2] * 1000 / kLaunches;
}

void measure(const Memory& memory, const Gemm& gemm, const Kernel& kernel, int tokens) {
  const auto params = params_of(memory, gemm, kernel, tokens, memory.packed);
  // Of sums that are added to, a zero.
  CHECK(cudaMemsetAsync(memory.out, gemm.epilogue == EPILOGUE_ADD_F32 ? 0 : 0xff,
                        size_t(tokens) * params.out_stride * 4, memory.stream));
  launch(memory, gemm, kernel, params);
  CHECK(cudaMemsetAsync(memory.worst, 0, 4, memory.stream));
  compare<<<kSamples / 128, 128, 0, memory.stream>>>(params, memory.packed, memory.x, memory.worst);
  float worst = 0;
  CHECK(cudaMemcpyAsync(&worst, memory.worst, 4, cudaMemcpyDeviceToHost, memory.stream));
  CHECK(cudaStreamSynchronize(memory.stream));
  const double us = time_us(memory, gemm, kernel, tokens);
  const double bytes = double(gemm.n) * gemm.k * 33 / 32 +
                       2.0 * tokens * (gemm.k + params.out_stride);
  const double flop = 2.0 * tokens * gemm.n * gemm.k;
  const double floor = std::max(bytes / kReadRate, flop / kFlopRate);
  printf("%-8s tokens %5d n%-3dw%d: %8.1f us, floor %7.1f (%4.0f %%), %5.2f TB/s, %5.0f TFLOP/s, "
         "off %.1e\n",
         gemm.name, tokens, kernel.n, kernel.warpgroups, us, floor, 100 * floor / us,
         bytes / us * 1e-6, flop / us * 1e-6, worst);
}

}  // namespace bench

int main(int count, char** words) {
  using namespace bench;
  std::vector<int> tokens = {1, 16, 32, 64, 256, 2048, 8192};
  if (count > 1) tokens.clear();
  for (int i = 1; i < count; ++i) tokens.push_back(std::min<int>(atoi(words[i]), kFp8Tokens));
  Memory memory;
  CHECK(cudaMalloc(&memory.packed, kPackedBytes));
  CHECK(cudaMalloc(&memory.x, kFp8Tokens * kColumns * 2));
  CHECK(cudaMalloc(&memory.out, kFp8Tokens * kRowsMax * 4));
  CHECK(cudaMalloc(&memory.worst, 4));
  CHECK(cudaStreamCreate(&memory.stream));
  fill<<<1024, 256>>>(memory.x, kFp8Tokens * kColumns);
  fill_packed<<<4096, 256>>>(memory.packed, kPackedBytes / packed::Fp8::kBytes);
  CHECK(cudaDeviceSynchronize());
  for (const Kernel& kernel : kKernels) {
    for (auto run : {kernel.store, kernel.glu}) {
      CHECK(cudaFuncSetAttribute(run, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedMax));
    }
  }
  for (const Gemm& gemm : kGemms) {
    for (const int few : tokens) {
      for (const Kernel& kernel : kKernels) {
        const bool fits = kernel.n >= few ? kernel.n == 8 || kernel.n < 2 * few : kernel.n == 128;
        if (fits) measure(memory, gemm, kernel, few);
      }
    }
  }
  return 0;
}
