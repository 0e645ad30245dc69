// latent_attention.cu: times of the kernels of latent attention (MLA), decode rows of one layer of
// DeepSeek-V2-Lite (a rank of eight of DeepSeek-V3 has the same shape), each timed in a graph as in
// skinny_gemm.cu, with caches and weights that take turns.
//
// `make kernel-bench`, then on any GPU from compute capability 8.0 up:
// target/latent-attention-bench [context [rows ..]] > times.jsonl. `floor_us` is the time in which
// an H200's memory delivers what the kernel must read: entries, or weights. Deliberately absent:
// whether results are right, which the worker's tests say.
#include <numeric>
#include <random>

#include "../cuda/head_gemm.cu"
#include "../cuda/latent_attention_reference.cu"
#include "bench.cuh"

namespace bench {

constexpr double kBytesPerUs = 4.53e6;
constexpr int kHeads = 16, kNope = 128, kPairs = 32, kLatent = 512, kValue = 128, kPage = 64;
constexpr int kEntry = kLatent + 2 * kPairs, kQuery = kNope + 2 * kPairs;

template <typename T>
T* to_device(const std::vector<T>& from) {
  T* to;
  CHECK(cudaMalloc(&to, from.size() * sizeof(T)));
  CHECK(cudaMemcpy(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
  return to;
}

// A step of decode rows at the end of their contexts, whose pages lie in random order.
LatentAttentionParams step(const Bench& bench, int rows, int context) {
  const int pages = (context + kPage - 1) / kPage;
  std::vector<int32_t> row_of(rows), table(size_t(rows) * pages);
  std::vector<uint32_t> positions(rows, context - 1);
  std::vector<StepRow> step_rows;
  std::iota(row_of.begin(), row_of.end(), 0);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(1));
  for (uint32_t row = 0; row < uint32_t(rows); ++row) {
    step_rows.push_back({row, 1, uint32_t(context - 1), row});
  }
  LatentAttentionParams p = {};
  p.step.row_of = to_device(row_of);
  p.step.positions = to_device(positions);
  p.step.rows = to_device(step_rows);
  p.table = to_device(table);
  p.table_stride = pages;
  p.latent_norm = to_device(std::vector<float>(kLatent, 1.0f));
  p.rope = to_device(std::vector<float>(size_t(rows) * 2 * kPairs, 0.5f));
  p.queries = p.latents = bench.x;
  p.absorbed = bench.out;
  p.sums = static_cast<__nv_bfloat16*>(bench.out) + size_t(rows) * kHeads * kEntry;
  p.block_tokens = kPage, p.heads = kHeads, p.nope = kNope, p.latent_dim = kLatent;
  p.pairs = kPairs, p.eps = 1e-6f, p.scale = 0.07f, p.tokens = rows;
  return p;
}

void report(const char* kernel, int rows, int context, float us, double bytes) {
  printf("{\"kernel\":\"%s\",\"rows\":%d,\"context\":%d,\"us\":%.2f,\"floor_us\":%.2f}\n", kernel,
         rows, context, us, bytes / kBytesPerUs);
}

void head_gemm(Bench& bench, const char* name, const HeadGemmParams& params, int context) {
  const Gemm weight = {name, int(kHeads * params.out_features), int(params.in_features)};
  const dim3 grid((params.out_features + 31) / 32, (params.tokens + 63) / 64, kHeads);
  const float us = bench.time(weight, [&](__nv_bfloat16* weights) {
    HeadGemmParams p = params;
    p.weight = weights;
    head_gemm_bf16<<<grid, head_gemm::kThreads, 0, bench.stream>>>(p);
  });
  report(name, params.tokens, context, us, 2.0 * weight.n * weight.k);
}

void sweep(Bench& bench, int rows, int context) {
  const LatentAttentionParams params = step(bench, rows, context);
  const int pages = params.table_stride;
  const Gemm cache = {"entries", rows * pages * kPage, kEntry};
  const auto timed = [&](const char* name, dim3 grid, int threads, double bytes,
                         void (*run)(LatentAttentionParams)) {
    const float us = bench.time(cache, [&](__nv_bfloat16* entries) {
      LatentAttentionParams p = params;
      p.entries = entries;
      run<<<grid, threads, 0, bench.stream>>>(p);
    });
    report(name, rows, context, us, bytes);
  };
  timed("latent_prepare", rows, binfer::kPrepareThreads,
        2.0 * rows * (2 * kEntry + kHeads * 4 * kPairs), latent_prepare_bf16);
  HeadGemmParams gemm = {};
  gemm.tokens = rows;
  HeadGemmParams k_b = gemm, v_b = gemm;
  k_b.x = params.queries, k_b.out = params.absorbed;
  k_b.in_features = kNope, k_b.out_features = kLatent;
  k_b.x_stride = kHeads * kQuery, k_b.x_head_stride = kQuery, k_b.weight_stride = kNope;
  k_b.out_stride = kHeads * kEntry, k_b.out_head_stride = kEntry;
  v_b.x = params.sums, v_b.out = bench.x;
  v_b.in_features = kLatent, v_b.out_features = kValue;
  v_b.x_stride = kHeads * kLatent, v_b.x_head_stride = kLatent, v_b.weight_stride = kLatent;
  v_b.out_stride = kHeads * kValue, v_b.out_head_stride = kValue;
  head_gemm(bench, "k_b", k_b, context);
  head_gemm(bench, "v_b", v_b, context);
  timed("latent_attention_reference", dim3(rows, kHeads), binfer::kLatentThreads,
        2.0 * rows * context * kEntry, latent_attention_reference_bf16);
}

}  // namespace bench

int main(int count, char** words) {
  const int context = count > 1 ? atoi(words[1]) : 1088;
  std::vector<int> rows = {1, 4, 8, 16, 32, 64, 128, 256};
  if (count > 2) rows.clear();
  for (int i = 2; i < count; ++i) rows.push_back(atoi(words[i]));
  bench::Bench bench;
  for (const int few : rows) bench::sweep(bench, few, context);
  return 0;
}
