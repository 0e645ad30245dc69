// First and last kernel of a step, and the one that notes times between others.
//   apply:  the host's delta, out of a slot of a ring of mapped memory, becomes the step's tables.
//           Grid: any; each thread takes a stride of every array. Reads mapped memory once.
//   finish: a digest of each output's hidden state, and what was drawn, back into mapped memory.
//           Grid: one block an output of the bucket, at least one.
//   stamp:  the device's clock, once all before it is over, into mapped memory. Grid: one block. Never
//           launched dependent: its time is that of its start.
// The ring's place moves on by itself, so that a graph can replay both: apply reads next_slot and
// writes ring_slot, finish reads ring_slot and writes next_slot; neither reads what it writes.
#include "common.cuh"

namespace binfer {

constexpr int kApplyThreads = 128;
constexpr int kFinishThreads = 128;

// Mapped memory must not be served from a cache that an earlier step filled.
__device__ inline uint32_t load_host(const uint32_t* at) { return __ldcv(at); }

__device__ inline StepRow load_row(const uint8_t* at) {
  const uint4 words = __ldcv(reinterpret_cast<const uint4*>(at));
  return StepRow{words.x, words.y, words.z, words.w};
}

__device__ void apply_tokens(const ApplyParams& p, const uint32_t* inputs, uint32_t count) {
  const uint32_t stride = gridDim.x * kApplyThreads;
  for (uint32_t t = blockIdx.x * kApplyThreads + threadIdx.x; t < p.tokens; t += stride) {
    int32_t token = -1;
    uint32_t position = 0;
    int32_t row = -1;
    if (t < count) {
      token = static_cast<int32_t>(load_host(inputs + 3 * t));
      position = load_host(inputs + 3 * t + 1);
      row = static_cast<int32_t>(load_host(inputs + 3 * t + 2));
      if (token < 0) token = p.last_tokens[~token];
    }
    p.step.token_ids[t] = token;
    p.step.positions[t] = position;
    p.step.row_of[t] = row;
  }
}

__device__ void apply(const ApplyParams& p) {
  wait_for_previous();
  let_next_start();
  const uint32_t slot = p.step.state->next_slot;
  const uint8_t* delta = p.ring + slot * p.ring_bytes;
  const uint32_t* header = reinterpret_cast<const uint32_t*>(delta);
  const uint32_t tokens = load_host(header), rows = load_host(header + 1);
  const uint32_t outputs = load_host(header + 3), updates = load_host(header + 4);
  const uint32_t first = blockIdx.x * kApplyThreads + threadIdx.x;
  const uint32_t stride = gridDim.x * kApplyThreads;
  if (first == 0) {
    p.step.state->tokens = tokens;
    p.step.state->rows = rows;
    p.step.state->decode_rows = load_host(header + 2);
    p.step.state->outputs = outputs;
    p.step.state->ring_slot = slot;
  }
  apply_tokens(p, header + sizeof(StepHeader) / 4, tokens);
  for (uint32_t r = first; r < p.rows; r += stride) {
    const StepRow padding{0, 0, 0, 0};
    p.step.rows[r] = r < rows ? load_row(delta + p.rows_offset + r * sizeof(StepRow)) : padding;
  }
  constexpr uint32_t kOutputWords = sizeof(StepOutput) / 4;
  const uint32_t* from = reinterpret_cast<const uint32_t*>(delta + p.outputs_offset);
  uint32_t* to = reinterpret_cast<uint32_t*>(p.step.outputs);
  for (uint32_t word = first; word < p.outputs * kOutputWords; word += stride) {
    to[word] = word < outputs * kOutputWords ? load_host(from + word) : 0;
  }
  const uint32_t* changes = reinterpret_cast<const uint32_t*>(delta + p.updates_offset);
  for (uint32_t u = first; u < updates; u += stride) {
    p.block_tables[load_host(changes + 2 * u)] = static_cast<int32_t>(load_host(changes + 2 * u + 1));
  }
}

__device__ inline uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// A sum over elements, each mixed with its place: the order of adding does not matter.
__device__ uint64_t digest(const uint16_t* row, uint32_t cols) {
  uint64_t sum = 0;
  for (uint32_t i = threadIdx.x; i < cols; i += kFinishThreads) {
    sum += mix((static_cast<uint64_t>(i) << 16 | row[i]) + 0x9e3779b97f4a7c15ull);
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
      StepResult result = p.drawn[output];
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
