// latent_attention.cu: times of the kernels of latent attention (MLA) of one layer of
// DeepSeek-V2-Lite (a rank of eight of DeepSeek-V3 has the same shape), decode rows, whole prompts
// and chunks of long ones, each timed in a graph as in skinny_gemm.cu, with caches and weights that
// take turns.
//
// `make kernel-bench`, then on any GPU from compute capability 8.0 up that has 163 KiB of shared
// memory: target/latent-attention-bench [context [rows ..]] > times.jsonl. `floor_us` is the time
// in which an H200 reads what the kernel must read (entries, or weights) or multiplies what it must
// multiply, whichever is longer. Deliberately absent: whether results are right, which the worker's
// tests say.
#include <numeric>
#include <random>

#include "../cuda/head_gemm.cu"
#include "../cuda/latent_attention_reference.cu"
#include "../cuda/latent_decode.cu"
#include "../cuda/latent_expand.cu"
#include "../cuda/latent_prefill.cu"
#include "../cuda/prefill_attention_sm90.cu"
#include "tensor_map.cuh"

namespace bench {

constexpr double kBytesPerUs = 4.53e6, kFlopsPerUs = 751e6;
constexpr int kHeads = 16, kNope = 128, kPairs = 32, kLatent = 512, kValue = 128, kPage = 64;
constexpr int kEntry = kLatent + 2 * kPairs, kQuery = kNope + 2 * kPairs;
constexpr int kTokensOfPrompt = 8192;

template <typename T>
T* to_device(const std::vector<T>& from) {
  T* to;
  CHECK(cudaMalloc(&to, from.size() * sizeof(T)));
  CHECK(cudaMemcpy(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
  return to;
}

// Activations of up to kTokensOfPrompt tokens.
struct Activations {
  __nv_bfloat16 *queries, *latents, *absorbed, *sums, *out;
  static __nv_bfloat16* filled(int width) {
    const size_t elements = size_t(kTokensOfPrompt) * width;
    __nv_bfloat16* at;
    CHECK(cudaMalloc(&at, elements * 2));
    fill<<<1024, 256>>>(at, elements);
    return at;
  }
  Activations()
      : queries(filled(kHeads * kQuery)),
        latents(filled(kEntry)),
        absorbed(filled(kHeads * kEntry)),
        sums(filled(kHeads * kLatent)),
        out(filled(kHeads * kValue)) {}
};

// A step of sequences of `context` tokens, whose pages lie in random order: the last `count` tokens
// of each.
struct Step {
  LatentAttentionParams params = {};
  uint32_t* pages;  // [rows + 1]: before each row
  int rows, tokens, context;
  bool is_decode;

  Step(const Activations& at, int rows, int context, uint32_t count)
      : rows(rows), tokens(rows * count), context(context), is_decode(count == 1) {
    const uint32_t own = (context + kPage - 1) / kPage;
    std::vector<int32_t> row_of(tokens), table(size_t(rows) * own);
    std::vector<uint32_t> positions(tokens), before(rows + 1);
    std::vector<StepRow> step_rows;
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(1));
    for (uint32_t token = 0; token < uint32_t(tokens); ++token) {
      row_of[token] = token / count;
      positions[token] = context - count + token % count;
    }
    for (uint32_t row = 0; row < uint32_t(rows); ++row) {
      step_rows.push_back({row * count, count, context - count, row});
      before[row + 1] = before[row] + own;
    }
    StepState state = {};
    state.decode_rows = is_decode ? rows : 0;
    pages = to_device(before);
    params.step.state = to_device(std::vector<StepState>{state});
    params.step.row_of = to_device(row_of);
    params.step.positions = to_device(positions);
    params.step.rows = to_device(step_rows);
    params.table = to_device(table);
    params.table_stride = own;
    params.latent_norm = to_device(std::vector<float>(kLatent, 1.0f));
    params.rope = to_device(std::vector<float>(size_t(tokens) * 2 * kPairs, 0.5f));
    params.queries = at.queries, params.latents = at.latents;
    params.absorbed = at.absorbed, params.sums = at.sums;
    params.block_tokens = kPage, params.heads = kHeads, params.nope = kNope;
    params.latent_dim = kLatent, params.pairs = kPairs;
    params.eps = 1e-6f, params.scale = 0.07f, params.tokens = tokens;
  }
};

void report(const char* kernel, const Step& step, float us, double bytes, double flops) {
  printf("{\"kernel\":\"%s\",\"rows\":%d,\"tokens\":%d,\"context\":%d,\"us\":%.2f,"
         "\"floor_us\":%.2f}\n",
         kernel, step.rows, step.tokens, step.context, us,
         std::max(bytes / kBytesPerUs, flops / kFlopsPerUs));
  fflush(stdout);
}

// Times `run`, which launches with the parameters that it is given.
template <typename Run>
void timed(Bench& bench, const char* name, const Step& step, double bytes, double flops, Run run) {
  const int pages = step.rows * step.params.table_stride;
  const Gemm cache = {"entries", pages * kPage, kEntry};
  const float us = bench.time(cache, [&](__nv_bfloat16* entries) {
    LatentAttentionParams p = step.params;
    p.entries = entries;
    run(p);
  });
  report(name, step, us, bytes, flops);
}

void head_gemm(Bench& bench, const char* name, const Step& step, const HeadGemmParams& params) {
  const Gemm weight = {name, int(kHeads * params.out_features), int(params.in_features)};
  const dim3 grid((params.out_features + 31) / 32, (params.tokens + 63) / 64, kHeads);
  const float us = bench.time(weight, [&](__nv_bfloat16* weights) {
    HeadGemmParams p = params;
    p.weight = weights;
    head_gemm_bf16<<<grid, head_gemm::kThreads, 0, bench.stream>>>(p);
  });
  const double elements = double(weight.n) * weight.k;
  report(name, step, us, 2 * elements, 2 * elements * params.tokens);
}

void head_gemms(Bench& bench, const Activations& at, const Step& step) {
  HeadGemmParams k_b = {}, v_b = {};
  k_b.tokens = v_b.tokens = step.tokens;
  k_b.x = at.queries, k_b.out = at.absorbed;
  k_b.in_features = kNope, k_b.out_features = kLatent;
  k_b.x_stride = kHeads * kQuery, k_b.x_head_stride = kQuery, k_b.weight_stride = kNope;
  k_b.out_stride = kHeads * kEntry, k_b.out_head_stride = kEntry;
  v_b.x = at.sums, v_b.out = at.out;
  v_b.in_features = kLatent, v_b.out_features = kValue;
  v_b.x_stride = kHeads * kLatent, v_b.x_head_stride = kLatent, v_b.weight_stride = kLatent;
  v_b.out_stride = kHeads * kValue, v_b.out_head_stride = kValue;
  head_gemm(bench, "k_b", step, k_b);
  head_gemm(bench, "v_b", step, v_b);
}

template <typename Params>
void allow_shared(void (*kernel)(Params), int bytes) {
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

// Pages that a block's shared memory holds beside a tile of so many tokens.
template <typename L>
uint32_t stages(int more) {
  int most;
  CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
  return L::bytes(2) + more <= most ? 2 : 1;
}

void decode(Bench& bench, const Step& step) {
  LatentDecodeParams params = {};
  int blocks;
  CHECK(cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, 0));
  const int pages_bytes = 4 * (step.rows + 1);
  params.pages = step.pages, params.rows = step.rows;
  params.partials =
      to_device(std::vector<float>(size_t(2) * blocks * latent_decode::kPartialFloats));
  params.arrivals = to_device(std::vector<uint32_t>(step.rows));
  params.stages = stages<latent::Tile<1>>(pages_bytes);
  const int bytes = latent::Tile<1>::bytes(params.stages) + pages_bytes;
  allow_shared(latent_decode_bf16, bytes);
  timed(bench, "latent_decode", step, 2.0 * step.rows * step.context * kEntry, 0,
        [&](const LatentAttentionParams& p) {
          params.latent = p;
          latent_decode_bf16<<<blocks, latent::kThreads, bytes, bench.stream>>>(params);
        });
}

bool has_wgmma() {
  int major;
  CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  return major == 9;
}

// Pairs of a query head and a position that it sees.
double pairs_of(const Step& step) {
  const double count = double(step.tokens) / step.rows;
  return step.tokens * (step.context - (count - 1) / 2) * kHeads;
}

void prefill(Bench& bench, const Step& step) {
  constexpr int kTokens = 4;
  using L = latent::Tile<kTokens>;
  LatentPrefillParams params = {};
  params.stages = stages<L>(0);
  const int bytes = L::bytes(params.stages);
  allow_shared(latent_prefill_t4_bf16, bytes);
  timed(bench, "latent_prefill", step, 0, 2 * pairs_of(step) * (kEntry + kLatent),
        [&](const LatentAttentionParams& p) {
          params.latent = p;
          latent_prefill_t4_bf16<<<(step.tokens + kTokens - 1) / kTokens, latent::kThreads, bytes,
                                   bench.stream>>>(params);
        });
}

// The same over expanded keys and values, of one sequence: what expands them, and attention.
void expanded(Bench& bench, const Activations& at, const Step& step) {
  constexpr int kDim = latent_expand::kDim, kTile = prefill::kRows;
  using S = prefill::Shape<kQuery, kDim, 2>;
  const cuuint64_t pages = (step.context + kPage - 1) / kPage, page = kPage * kDim;
  allow_shared(latent_expand_bf16, latent_expand::kSharedBytes);
  allow_shared(prefill_attention_expanded_bf16, S::kSharedBytes);
  __nv_bfloat16* workspace;
  CHECK(cudaMalloc(&workspace, 2 * pages * kHeads * page * 2));
  LatentExpandParams expand = {};
  expand.v_b = at.sums;  // as good as any
  expand.keys = workspace, expand.values = workspace + pages * kHeads * page;
  expand.first_pages = to_device(std::vector<uint32_t>(1));
  expand.k_b_stride = kNope, expand.v_b_stride = kLatent, expand.rows = 1;
  const double expanded = double(step.context) * kHeads * (kNope + kValue);
  timed(bench, "latent_expand", step, 2 * expanded, 2 * expanded * kLatent,
        [&](const LatentAttentionParams& p) {
          expand.latent = p, expand.k_b = at.absorbed;
          latent_expand_bf16<<<dim3(pages, kHeads, 2), latent_expand::kThreads,
                               latent_expand::kSharedBytes, bench.stream>>>(expand);
        });
  std::vector<PrefillTile> tiles;
  for (int first = 0; first < step.tokens; first += kTile) {
    const uint32_t count = std::min(kTile, step.tokens - first);
    tiles.insert(tiles.begin(), {uint32_t(first), count,
                                 uint32_t(step.context - step.tokens + first), 0});
  }
  ExpandedAttentionParams params = {};
  PrefillAttentionParams& p = params.prefill;
  p.queries = tensor_map(at.queries, {kQuery, kHeads, cuuint64_t(step.tokens)},
                         {kQuery, kHeads * kQuery}, {64, 1, kTile});
  p.keys = tensor_map(expand.keys, {kDim, kPage, kHeads, pages}, {kDim, page, kHeads * page},
                      {64, kPage, 1, 1});
  p.values = tensor_map(expand.values, {kDim, kPage, kHeads, pages}, {kDim, page, kHeads * page},
                        {64, kPage, 1, 1});
  p.attention.out = at.out, p.attention.table = step.params.table;
  p.attention.table_stride = step.params.table_stride;
  p.attention.heads = p.attention.kv_heads = p.head_count = kHeads;
  p.attention.scale = step.params.scale;
  p.tiles = to_device(tiles), p.tile_count = tiles.size();
  params.first_pages = expand.first_pages;
  int blocks;
  CHECK(cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, 0));
  timed(bench, "prefill_attention_expanded", step, 0, 2 * pairs_of(step) * (kQuery + kValue),
        [&](const LatentAttentionParams& latent) {
          params.rotated = tensor_map(static_cast<__nv_bfloat16*>(latent.entries) + kLatent,
                                      {2 * kPairs, kPage, pages}, {kEntry, kPage * kEntry},
                                      {64, kPage, 1});
          prefill_attention_expanded_bf16<<<blocks, prefill::kThreads, S::kSharedBytes,
                                            bench.stream>>>(params);
        });
  CHECK(cudaFree(workspace));
}

void sweep(Bench& bench, const Activations& at, const Step& step) {
  timed(bench, "latent_prepare", step, 2.0 * step.tokens * (2 * kEntry + kHeads * 4 * kPairs), 0,
        [&](const LatentAttentionParams& p) {
          latent_prepare_bf16<<<step.tokens, binfer::kPrepareThreads, 0, bench.stream>>>(p);
        });
  head_gemms(bench, at, step);
  if (!step.is_decode) {
    prefill(bench, step);
    if (has_wgmma()) expanded(bench, at, step);
    return;
  }
  decode(bench, step);
  timed(bench, "latent_attention_reference", step, 2.0 * step.rows * step.context * kEntry, 0,
        [&](const LatentAttentionParams& p) {
          latent_attention_reference_bf16<<<dim3(step.rows, kHeads), binfer::kLatentThreads, 0,
                                            bench.stream>>>(p);
        });
}

}  // namespace bench

int main(int count, char** words) {
  const int context = count > 1 ? atoi(words[1]) : 1088;
  std::vector<int> rows = {1, 4, 8, 16, 32, 64, 128, 256};
  if (count > 2) rows.clear();
  for (int i = 2; i < count; ++i) rows.push_back(atoi(words[i]));
  bench::Bench bench;
  const bench::Activations at;
  for (const int few : rows) bench::sweep(bench, at, bench::Step(at, few, context, 1));
  for (const int tokens : {64, 128, 256, 512, 1024, bench::kTokensOfPrompt}) {
    bench::sweep(bench, at, bench::Step(at, 1, tokens, tokens));
  }
  for (const int tokens : {64, 128, 256, 1024}) {
    bench::sweep(bench, at, bench::Step(at, 1, bench::kTokensOfPrompt, tokens));
  }
  return 0;
}
