// First and last kernel of a step, and the one that notes times between others.
//   apply:  the host's delta, out of a slot of a ring of mapped memory, becomes the step's tables.
//           Grid: a thread for each vector of 16 bytes of tokens, rows and outputs.
//   finish: a digest of each output's hidden state, and what was sampled, back into mapped memory.
//           Grid: one block an output of the bucket, at least one.
//   stamp:  the device's clock, once all before it is over, into mapped memory. Grid: one block.
//   Never
//           launched dependent: its time is that of its start.
// The ring's place moves on by itself, so that a graph can replay both: apply reads next_slot and
// writes ring_slot, finish reads ring_slot and writes next_slot; neither reads what it writes.
#include "common.cuh"

namespace binfer {

constexpr int kApplyThreads = 64;
constexpr int kFinishThreads = 128;
constexpr uint32_t kOutputVectors = sizeof(StepOutput) / sizeof(uint4);
static_assert(sizeof(StepInput) == sizeof(uint4) && sizeof(StepRow) == sizeof(uint4), "vectors");
static_assert(sizeof(StepOutput) % sizeof(uint4) == 0, "vectors");

// Mapped memory must not be served from a cache that an earlier step filled.
template <typename T>
__device__ T load_host(const void* at) {
  return __ldcv(static_cast<const T*>(at));
}

__device__ void apply_token(const ApplyParams& p, uint32_t t, uint4 input, bool is_padding) {
  int32_t token = static_cast<int32_t>(input.x);
  if (!is_padding && token < 0) token = p.last_tokens[~token];
  p.step.token_ids[t] = is_padding ? -1 : token;
  p.step.positions[t] = is_padding ? 0 : input.y;
  p.step.row_of[t] = is_padding ? -1 : static_cast<int32_t>(input.z);
}

// A read of the host's memory takes a microsecond or two, and a block brings about a kilobyte in
// that time. So each thread reads one vector, of whichever array, before it knows what counts.
__device__ void apply(const ApplyParams& p) {
  wait_for_previous();
  let_next_start();
  const uint32_t slot = p.step.state->next_slot;
  const uint8_t* delta = p.ring + slot * p.ring_bytes;
  const uint32_t thread = blockIdx.x * kApplyThreads + threadIdx.x;
  const uint32_t row = thread - p.tokens, word = row - p.rows;  // where they are not below 0
  const bool is_token = thread < p.tokens, is_row = !is_token && row < p.rows;
  const bool is_output = !is_token && !is_row && word < p.outputs * kOutputVectors;
  const uint8_t* mine = delta + sizeof(StepHeader) + thread * sizeof(uint4);
  if (is_row) mine = delta + p.rows_offset + row * sizeof(uint4);
  if (is_output) mine = delta + p.outputs_offset + word * sizeof(uint4);
  uint4 vector = {0, 0, 0, 0};
  if (is_token || is_row || is_output) vector = load_host<uint4>(mine);
  const uint4 counts = load_host<uint4>(delta);
  const uint32_t updates = load_host<uint32_t>(delta + sizeof(uint4));
  const uint32_t tokens = counts.x, rows = counts.y, outputs = counts.w;
  const uint4 padding = {0, 0, 0, 0};
  if (is_token) apply_token(p, thread, vector, thread >= tokens);
  if (is_row) reinterpret_cast<uint4*>(p.step.rows)[row] = row < rows ? vector : padding;
  if (is_output) {
    const bool counted = word < outputs * kOutputVectors;
    reinterpret_cast<uint4*>(p.step.outputs)[word] = counted ? vector : padding;
  }
  if (thread == 0) {
    p.step.state->tokens = tokens;
    p.step.state->rows = rows;
    p.step.state->decode_rows = counts.z;
    p.step.state->outputs = outputs;
    p.step.state->ring_slot = slot;
  }
  const uint8_t* changes = delta + p.updates_offset;
  for (uint32_t u = thread; u < updates; u += gridDim.x * kApplyThreads) {
    const uint2 change = load_host<uint2>(changes + u * sizeof(uint2));
    p.block_tables[change.x] = static_cast<int32_t>(change.y);
  }
}

__device__ inline uint64_t split_mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// A sum over elements, each mixed with its place: the order of adding does not matter.
__device__ uint64_t digest(const uint16_t* row, uint32_t cols) {
  uint64_t sum = 0;
  for (uint32_t i = threadIdx.x; i < cols; i += kFinishThreads) {
    sum += split_mix((static_cast<uint64_t>(i) << 16 | row[i]) + 0x9e3779b97f4a7c15ull);
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  __shared__ uint64_t warps[kFinishThreads / 32];
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (int warp = 0; warp < kFinishThreads / 32; ++warp) sum += warps[warp];
  return sum;
}

__device__ void finish(const FinishParams& p) {
  wait_for_previous();
  let_next_start();
  const StepState state = *p.step.state;
  const uint32_t output = blockIdx.x;
  if (output < state.outputs) {
    const uint16_t* hidden = static_cast<const uint16_t*>(p.hidden);
    const uint64_t hash = digest(hidden + static_cast<size_t>(output) * p.cols, p.cols);
    if (threadIdx.x == 0) {
      StepResult result = p.sampled[output];
      result.digest = hash;
      p.results[state.ring_slot * p.outputs_max + output] = result;
    }
  }
  if (output == 0 && threadIdx.x == 0) {
    p.step.state->next_slot = (state.ring_slot + 1) % p.ring_slots;
  }
}

__device__ void stamp(const StampParams& p) {
  wait_for_previous();
  if (threadIdx.x != 0) return;
  const uint32_t slot = p.is_first ? p.state->next_slot : p.state->ring_slot;
  p.out[slot * p.places + p.place] = ptx::nanoseconds();
}

}  // namespace binfer

extern "C" __global__ void __launch_bounds__(binfer::kApplyThreads)
    apply(const __grid_constant__ ApplyParams p) {
  binfer::apply(p);
}

extern "C" __global__ void __launch_bounds__(binfer::kFinishThreads)
    finish(const __grid_constant__ FinishParams p) {
  binfer::finish(p);
}

extern "C" __global__ void __launch_bounds__(32) stamp(const __grid_constant__ StampParams p) {
  binfer::stamp(p);
}
