// Drawing tokens as worker/src/backend/cpu/sample.rs does: the arg-max of logit / temperature +
// Gumbel noise(seed, choice, position, token id) over the allowed tokens, ties to the lowest id; at
// temperature 0 the arg-max of the logits. Biases and penalties are worked into a logit whenever it
// is read (adjust.cuh); the logits in memory stay raw, for logprobs. Of a step with masks only what
// they allow is drawn (masks.cuh), as if there were no other tokens; all must be numbers all the same.
//   sample_tiles: a tile of a row's logits: largest, noisy best, whether all are numbers.
//                 Grid: (tiles of 4,096 logits, outputs).
//   sample_rows:  tiles to a token; min-p, top-k and top-p (sample_select.cuh); logprobs
//                 (sample_logprobs.cuh); counts the token in its slot's entries. Grid: outputs.
#include "sample_logprobs.cuh"

namespace binfer {

constexpr int kTileThreads = 256;
constexpr int kTileLogits = 4096;

__device__ void sample_tiles(const SampleParams& p) {
  wait_for_previous();
  let_next_start();
  if (blockIdx.y >= p.step.state->outputs) return;
  const StepOutput output = p.step.outputs[blockIdx.y];
  const float* logits = p.logits + static_cast<size_t>(blockIdx.y) * p.vocab;
  const bool noisy = output.temperature > 0.0f;
  const double inverse_temperature = noisy ? 1.0 / static_cast<double>(output.temperature) : 0.0;
  const uint64_t stream = stream_of(output);
  const uint32_t first = blockIdx.x * kTileLogits;
  const uint32_t end = min(first + kTileLogits, p.vocab);
  const Adjust adjust = adjust_of(p, output);
  const bool has_masks = (output.adjusted & kMasked) != 0;
  const Mask mask = has_masks ? take_mask(p, blockIdx.y, first, end) : Mask{};
  Best top, best;
  bool finite = true;
  for (uint32_t token = first + threadIdx.x; token < end; token += kTileThreads) {
    const float logit = adjust(token, logits[token]);
    finite = finite && isfinite(logit);
    if (!mask.allows(token)) continue;
    top.enter(logit, token);
    if (noisy) best.race(stream, inverse_temperature, token, logit);
  }
  finite = __syncthreads_and(finite);
  top = block_best<kTileThreads>(top);
  best = block_best<kTileThreads>(best);
  if (threadIdx.x == 0) {
    SampleTile& tile = p.tiles[blockIdx.y * p.tiles_per_row + blockIdx.x];
    tile = SampleTile{best.score, best.token, static_cast<float>(top.score), top.token, finite};
  }
}

__device__ void sample_rows(const SampleParams& p) {
  wait_for_previous();
  let_next_start();
  if (blockIdx.x >= p.step.state->outputs) return;
  const StepOutput output = p.step.outputs[blockIdx.x];
  Best top, best;
  bool finite = true;
  for (uint32_t tile = threadIdx.x; tile < p.tiles_per_row; tile += kRowThreads) {
    const SampleTile& at = p.tiles[blockIdx.x * p.tiles_per_row + tile];
    finite = finite && at.finite != 0;
    top.enter(at.top_logit, at.top_token);
    best.enter(at.noisy_score, at.noisy_token);
  }
  finite = __syncthreads_and(finite);
  top = block_best<kRowThreads>(top);
  best = block_best<kRowThreads>(best);
  __shared__ float largest;
  if (threadIdx.x == 0) largest = static_cast<float>(top.score);
  __syncthreads();
  uint32_t token = output.temperature > 0.0f ? best.token : top.token;
  const bool limited = (output.top_k > 0 && output.top_k < p.vocab) || output.top_p < 1.0f ||
                       output.min_p_depth < INFINITY;
  const float* logits = p.logits + static_cast<size_t>(blockIdx.x) * p.vocab;
  if (finite && limited && output.temperature > 0.0f) {
    const double inverse_temperature = 1.0 / static_cast<double>(output.temperature);
    const Mask mask = mask_of(p, output, blockIdx.x);
    const Row row{logits,  adjust_of(p, output), mask, p.vocab, largest, inverse_temperature,
                  kLowestOrder};
    token = restricted(output, row);
  }
  if (finite && output.logprobs > 0) {
    const Row row{logits, Adjust{}, Mask{}, p.vocab, raw_top(p, logits), 1.0, kLowestOrder};
    put_logprobs(p, output, row, token);
  }
  if (threadIdx.x == 0) {
    token = finite ? token : 0;
    p.drawn[blockIdx.x] = StepResult{token, finite, 0};
    p.last_tokens[output.slot] = static_cast<int32_t>(token);
    if (finite && (output.adjusted & kSeen)) count_drawn(p, output.slot, token);
  }
}

}  // namespace binfer

extern "C" __global__ void __launch_bounds__(binfer::kTileThreads)
    sample_tiles(const __grid_constant__ SampleParams p) {
  binfer::sample_tiles(p);
}

extern "C" __global__ void __launch_bounds__(binfer::kRowThreads, 1)
    sample_rows(const __grid_constant__ SampleParams p) {
  binfer::sample_rows(p);
}
