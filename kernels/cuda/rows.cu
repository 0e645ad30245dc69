// Operations on rows of activations, for any width.
//   embed:      rows of the embedding table, as float; zero for padding and for foreign tokens.
//   rms_norm:   x / sqrt(mean(x^2) + eps) * scale, from float to T, in one block a row.
//   rope_table: cosines and sines of the step's positions, once a step for each kind of rope.
//   fill:       random weights for measurements.
#include "common.cuh"

namespace binfer {

constexpr int kRowThreads = 256;

// Grid: a block a token.
template <typename T>
__device__ void embed(const EmbedParams& p) {
  wait_for_previous();
  let_next_start();
  const int32_t token = p.step.token_ids[blockIdx.x];
  const int64_t row = static_cast<int64_t>(token) - p.first_token;
  const bool mine = token >= 0 && row >= 0 && row < p.table_rows;
  const T* from = static_cast<const T*>(p.table) + (mine ? row : 0) * p.stride;
  float* to = p.out + static_cast<size_t>(blockIdx.x) * p.cols;
  for (uint32_t i = threadIdx.x; i < p.cols; i += kRowThreads) {
    to[i] = mine ? to_float(from[i]) : 0.0f;
  }
}

// Grid: a block a row of out.
template <typename T>
__device__ void rms_norm(const NormParams& p) {
  wait_for_previous();
  let_next_start();
  const uint32_t row = p.gather != nullptr ? p.gather[blockIdx.x].token : blockIdx.x;
  const float* x = p.x + static_cast<size_t>(row) * p.cols;
  T* out = static_cast<T*>(p.out) + static_cast<size_t>(blockIdx.x) * p.cols;
  float squares = 0.0f;
  for (uint32_t i = threadIdx.x; i < p.cols; i += kRowThreads) squares += x[i] * x[i];
  const float mean = block_sum<kRowThreads>(squares) / static_cast<float>(p.cols);
  const float factor = 1.0f / sqrtf(mean + p.eps);
  for (uint32_t i = threadIdx.x; i < p.cols; i += kRowThreads) {
    out[i] = from_float<T>(x[i] * factor * p.scale[i]);
  }
}

// Grid: a block a token. Angles in single precision, as on the CPU.
__device__ void rope_table(const RopeParams& p) {
  wait_for_previous();
  let_next_start();
  const float position = static_cast<float>(p.step.positions[blockIdx.x]);
  float* row = p.table + static_cast<size_t>(blockIdx.x) * 2 * p.pairs;
  for (uint32_t pair = threadIdx.x; pair < p.pairs; pair += kRopePairsMax) {
    float sine, cosine;
    sincosf(position * p.frequencies[pair], &sine, &cosine);
    row[pair] = cosine * p.factor;
    row[p.pairs + pair] = sine * p.factor;
  }
}

// Grid: any.
template <typename T>
__device__ void fill(const FillParams& p) {
  wait_for_previous();
  let_next_start();
  T* out = static_cast<T*>(p.out);
  const uint64_t stride = static_cast<uint64_t>(gridDim.x) * kRowThreads;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * kRowThreads + threadIdx.x; i < p.count;
       i += stride) {
    uint64_t z = (i + p.seed) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    const float unit = static_cast<float>(static_cast<int32_t>(z >> 32)) * 0x1p-31f;
    out[i] = from_float<T>(p.range == 0.0f ? 1.0f : unit * p.range);
  }
}

}  // namespace binfer

BINFER_KERNEL(embed, EmbedParams, binfer::kRowThreads)
BINFER_KERNEL(rms_norm, NormParams, binfer::kRowThreads)
BINFER_KERNEL(fill, FillParams, binfer::kRowThreads)

extern "C" __global__ void __launch_bounds__(kRopePairsMax)
    rope_table(const __grid_constant__ RopeParams p) {
  binfer::rope_table(p);
}

extern "C" __global__ void __launch_bounds__(binfer::kRowThreads)
    fill_f32(const __grid_constant__ FillParams p) {
  binfer::fill<float>(p);
}
