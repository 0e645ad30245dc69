// sample.cu: samples tokens as worker/src/backend/cpu/sample/ does: the arg-max of
// logit / temperature + Gumbel noise(seed, choice, position, token id) over the allowed tokens,
// ties to the lowest id; at temperature 0 the arg-max of the logits. Biases and penalties are
// worked into a logit whenever it is read (penalties.cuh); the logits in memory stay raw, for
// logprobs. Of a step with token masks only what they allow is sampled (token_masks.cuh), as if
// there were no other tokens; all logits must be numbers all the same.
//   sample_tiles: a tile of a row's logits: largest, best with noise, whether all are numbers; of
//   rows
//                 that lm_head_gemm.cu has not said that of. Grid: (tiles of 4,096 logits, any).
//   sample_rows:  tiles to a token; min-p, top-k and top-p (sample_select.cuh); logprobs
//                 (sample_logprobs.cuh); counts the token for its slot. Grid: outputs.
// Where the head has said all there is to say, sample_tiles is launched for nothing: a CUDA graph
// does not know. That is short, as few blocks see at once that no row is left. To have sample_rows
// do its work would save the launch, at the cost of rows with penalties, biases or masks: many
// blocks share the tiles of a row, and sample_rows has one.
#include "sample_logprobs.cuh"
#include "sample_needs.cuh"

namespace binfer {

constexpr int kTileThreads = 256;
constexpr int kTileLogits = 4096;

// Whether tiles of the row are there, and none of its logits are wanted for them.
__device__ inline bool has_head_statistics(const SampleParams& p, const StepOutput& output) {
  return p.head_partials > 0 && takes_head_statistics(output);
}

__device__ void sample_tile(const SampleParams& p, uint32_t row) {
  const StepOutput output = p.step.outputs[row];
  const float* logits = p.logits + static_cast<size_t>(row) * p.vocab;
  const bool noisy = output.temperature > 0.0f;
  const double inverse_temperature = noisy ? 1.0 / static_cast<double>(output.temperature) : 0.0;
  const uint64_t stream = noise_stream(output);
  const uint32_t first = blockIdx.x * kTileLogits;
  const uint32_t end = min(first + kTileLogits, p.vocab);
  const Adjust adjust = adjust_of(p, output);
  const bool has_masks = (output.adjusted & kMasked) != 0;
  const Mask mask = has_masks ? await_mask(p, row, first, end) : Mask{};
  ArgMax top, best;
  bool finite = true;
  for (uint32_t token = first + threadIdx.x; token < end; token += kTileThreads) {
    const float logit = adjust(token, logits[token]);
    finite = finite && isfinite(logit);
    if (!mask.allows(token)) continue;
    top.update(logit, token);
    if (noisy) best.update_noisy(stream, inverse_temperature, token, logit);
  }
  finite = __syncthreads_and(finite);
  top = block_arg_max<kTileThreads>(top);
  best = block_arg_max<kTileThreads>(best);
  if (threadIdx.x == 0) {
    SampleTile& tile = p.tiles[row * p.tiles_per_row + blockIdx.x];
    tile = SampleTile{best.score, best.token, static_cast<float>(top.score), top.token, finite};
  }
}

// Which of kTileThreads rows from `first` on are left to do, in order; returns how many.
__device__ uint32_t rows_left(const SampleParams& p, uint32_t first, uint32_t* rows) {
  __shared__ uint32_t counts[kTileThreads / 32];
  const uint32_t row = first + threadIdx.x, warp = threadIdx.x / 32;
  const bool is_left = row < p.step.state->outputs && !has_head_statistics(p, p.step.outputs[row]);
  const uint32_t lanes = __ballot_sync(0xffffffffu, is_left);
  __syncthreads();
  if (threadIdx.x % 32 == 0) counts[warp] = __popc(lanes);
  __syncthreads();
  uint32_t place = __popc(lanes & ((1u << threadIdx.x % 32) - 1)), count = 0;
  for (uint32_t other = 0; other < kTileThreads / 32; ++other) {
    if (other < warp) place += counts[other];
    count += counts[other];
  }
  if (is_left) rows[place] = row;
  __syncthreads();
  return count;
}

__device__ void sample_tiles(const SampleParams& p) {
  __shared__ uint32_t rows[kTileThreads];
  wait_for_previous();
  let_next_start();
  for (uint32_t first = 0; first < p.step.state->outputs; first += kTileThreads) {
    const uint32_t count = rows_left(p, first, rows);
    for (uint32_t i = blockIdx.y; i < count; i += gridDim.y) sample_tile(p, rows[i]);
  }
}

__device__ void sample_rows(const SampleParams& p) {
  wait_for_previous();
  let_next_start();
  if (blockIdx.x >= p.step.state->outputs) return;
  const StepOutput output = p.step.outputs[blockIdx.x];
  ArgMax top, best;
  bool finite = true;
  const uint32_t tiles =
      has_head_statistics(p, output) ? p.head_partials : (p.vocab + kTileLogits - 1) / kTileLogits;
  for (uint32_t tile = threadIdx.x; tile < tiles; tile += kRowThreads) {
    const SampleTile& at = p.tiles[blockIdx.x * p.tiles_per_row + tile];
    finite = finite && at.finite != 0;
    top.update(at.top_logit, at.top_token);
    best.update(at.noisy_score, at.noisy_token);
  }
  finite = __syncthreads_and(finite);
  top = block_arg_max<kRowThreads>(top);
  best = block_arg_max<kRowThreads>(best);
  __shared__ float largest;
  if (threadIdx.x == 0) largest = static_cast<float>(top.score);
  __syncthreads();
  uint32_t token = output.temperature > 0.0f ? best.token : top.token;
  const float* logits = p.logits + static_cast<size_t>(blockIdx.x) * p.vocab;
  if (finite && is_limited(output, p.vocab)) {
    const double inverse_temperature = 1.0 / static_cast<double>(output.temperature);
    const Mask mask = mask_of(p, output, blockIdx.x);
    const Row row{logits,  adjust_of(p, output), mask, p.vocab, largest, inverse_temperature,
                  kLowestOrder};
    token = sample_limited(output, row);
  }
  if (finite && output.logprobs > 0) {
    const Row row{logits, Adjust{}, Mask{}, p.vocab, reduce_max(p, logits), 1.0, kLowestOrder};
    put_logprobs(p, output, row, token);
  }
  if (threadIdx.x == 0) {
    token = finite ? token : 0;
    p.sampled[blockIdx.x] = StepResult{token, finite, 0};
    p.last_tokens[output.slot] = static_cast<int32_t>(token);
    if (finite && (output.adjusted & kPenalised)) count_sampled(p, output.slot, token);
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
