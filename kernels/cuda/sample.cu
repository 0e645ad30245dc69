// Drawing tokens as worker/src/backend/cpu/sample.rs does: the arg-max of logit / temperature +
// Gumbel noise(seed, choice, position, token id) over the allowed tokens, ties to the lowest id; at
// temperature 0 the arg-max of the logits. Biases and penalties are worked into a logit whenever it
// is read (adjust.cuh); the logits in memory stay raw, for logprobs.
//   sample_tiles: a tile of a row's logits: largest, noisy best, whether all are numbers.
//                 Grid: (tiles of 4,096 logits, outputs).
//   sample_rows:  tiles to a token; min-p, top-k and top-p by radix selection; logprobs; counts the
//                 token in its slot's entries. Grid: outputs.
// Masses are whole numbers of 2^-44 of the largest, so that atomic sums do not depend on their order.
#include "adjust.cuh"
#include "common.cuh"

namespace binfer {

constexpr int kTileThreads = 256;
constexpr int kTileLogits = 4096;
constexpr int kRowThreads = 512;
constexpr uint32_t kNone = 0xffffffffu;

__device__ inline uint64_t split_mix(uint64_t counter) {
  uint64_t z = counter + 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

__device__ inline uint64_t stream_of(const StepOutput& output) {
  const uint64_t place = static_cast<uint64_t>(output.choice) << 32 | output.position;
  return split_mix(split_mix(output.seed) ^ place);
}

// -ln(-ln(u)) of 32 random bits of the token.
__device__ inline uint32_t noise_bits(uint64_t stream, uint32_t token) {
  return static_cast<uint32_t>(split_mix(stream + token * 0x9e3779b97f4a7c15ull) >> 32);
}

__device__ inline double gumbel(uint32_t bits) {
  return -log(-log((static_cast<double>(bits) + 0.5) / 4294967296.0));
}

// Not less than gumbel(bits), and cheap: see the CPU's noise_bound.
__device__ inline double noise_bound(uint32_t bits) {
  return static_cast<double>(__clz(~bits) + 1) * 0.6931471805599453 + 1e-3;
}

// The best so far: the higher score, then the lower id.
struct Best {
  double score = -INFINITY;
  uint32_t token = kNone;

  __device__ void enter(double other_score, uint32_t other) {
    if (other_score > score || (other_score == score && other < token)) {
      score = other_score;
      token = other;
    }
  }
  __device__ void race(uint64_t stream, double inverse_temperature, uint32_t candidate, float logit) {
    const double base = static_cast<double>(logit) * inverse_temperature;
    const uint32_t bits = noise_bits(stream, candidate);
    if (score - base <= noise_bound(bits)) enter(base + gumbel(bits), candidate);
  }
};

// Best of a block, on thread 0.
template <int kThreads>
__device__ Best block_best(Best best) {
  __shared__ double scores[kThreads / 32];
  __shared__ uint32_t tokens[kThreads / 32];
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const double score = __shfl_xor_sync(0xffffffffu, best.score, lanes);
    best.enter(score, __shfl_xor_sync(0xffffffffu, best.token, lanes));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    scores[threadIdx.x / 32] = best.score;
    tokens[threadIdx.x / 32] = best.token;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < kThreads / 32; ++warp) best.enter(scores[warp], tokens[warp]);
  }
  return best;
}

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
  Best top, best;
  bool finite = true;
  for (uint32_t token = first + threadIdx.x; token < end; token += kTileThreads) {
    const float logit = adjust(token, logits[token]);
    finite = finite && isfinite(logit);
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

// A float's place in the order of floats; -0 counts as 0.
__device__ inline uint32_t order_of(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// A row under selection. `threshold`: logits of this order and above are kept.
struct Row {
  const float* logits;
  Adjust adjust;
  uint32_t vocab;
  float top;
  double inverse_temperature;
  uint32_t threshold;

  __device__ float logit(uint32_t token) const { return adjust(token, logits[token]); }
  __device__ uint64_t mass(float logit) const {
    const double share =
        exp((static_cast<double>(logit) - static_cast<double>(top)) * inverse_temperature);
    return static_cast<uint64_t>(share * 17592186044416.0);
  }
};

// Where a selection ended.
struct Border {
  uint32_t order;   // of the last logit that is kept
  uint64_t before;  // weight of all that are larger
};

// The largest order at which the weights of that and all larger orders reach `target`: eight bits
// a pass. Weights are masses, or one each.
template <bool kMasses>
__device__ Border select(const Row& row, uint64_t target) {
  __shared__ unsigned long long bins[256];
  __shared__ Border shared;
  uint32_t prefix = 0;
  uint64_t before = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int bin = threadIdx.x; bin < 256; bin += kRowThreads) bins[bin] = 0;
    __syncthreads();
    for (uint32_t token = threadIdx.x; token < row.vocab; token += kRowThreads) {
      const float logit = row.logit(token);
      const uint32_t order = order_of(logit);
      const bool same = shift == 24 || order >> (shift + 8) == prefix >> (shift + 8);
      if (!same || order < row.threshold) continue;
      const unsigned long long weight = kMasses ? row.mass(logit) : 1;
      atomicAdd(&bins[order >> shift & 255], weight);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int bin = 255;
      while (bin > 0 && before + bins[bin] < target) before += bins[bin--];
      shared = Border{prefix | static_cast<uint32_t>(bin) << shift, before};
    }
    __syncthreads();
    prefix = shared.order;
    before = shared.before;
  }
  return Border{prefix, before};
}

// Total mass of what is kept.
__device__ uint64_t total_mass(const Row& row) {
  __shared__ unsigned long long total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  unsigned long long mine = 0;
  for (uint32_t token = threadIdx.x; token < row.vocab; token += kRowThreads) {
    const float logit = row.logit(token);
    if (order_of(logit) >= row.threshold) mine += row.mass(logit);
  }
  atomicAdd(&total, mine);
  __syncthreads();
  return total;
}

// The id of the `wanted`-th token of that order, counted from 1; the last id where there are fewer.
__device__ uint32_t nth_equal(const Row& row, uint32_t order, uint64_t wanted) {
  __shared__ uint32_t found;
  if (threadIdx.x == 0) found = kNone;
  uint64_t seen = 0;
  for (uint32_t first = 0; first < row.vocab && seen < wanted; first += kRowThreads) {
    const uint32_t token = first + threadIdx.x;
    const bool equal = token < row.vocab && order_of(row.logit(token)) == order;
    const uint32_t count = __syncthreads_count(equal);
    if (seen + count >= wanted && threadIdx.x == 0) {
      uint64_t here = seen;
      for (uint32_t t = first; t < min(first + kRowThreads, row.vocab); ++t) {
        here += order_of(row.logit(t)) == order;
        if (here == wanted) {
          found = t;
          break;
        }
      }
    }
    seen += count;
  }
  __syncthreads();
  return found;
}

// The noisy best among what min-p, top-k and top-p leave.
__device__ uint32_t restricted(const StepOutput& output, Row row) {
  uint32_t last_id = kNone;
  if (output.min_p_depth < INFINITY) {
    const double least = static_cast<double>(row.top) - static_cast<double>(output.min_p_depth);
    row.threshold = order_of(__double2float_ru(least));
  }
  if (output.top_k > 0 && output.top_k < row.vocab) {
    row.threshold = max(row.threshold, select<false>(row, output.top_k).order);
  }
  if (output.top_p < 1.0f) {
    const double target = static_cast<double>(output.top_p) * static_cast<double>(total_mass(row));
    const uint64_t needed = max(static_cast<uint64_t>(ceil(target)), static_cast<uint64_t>(1));
    const Border border = select<true>(row, needed);
    const uint32_t bits = border.order & 0x80000000u ? border.order & 0x7fffffffu : ~border.order;
    const uint64_t each = max(row.mass(__uint_as_float(bits)), static_cast<uint64_t>(1));
    const uint64_t equals = (needed - min(border.before, needed) + each - 1) / each;
    row.threshold = border.order;
    last_id = nth_equal(row, border.order, max(equals, static_cast<uint64_t>(1)));
  }
  const uint64_t stream = stream_of(output);
  Best best;
  for (uint32_t token = threadIdx.x; token < row.vocab; token += kRowThreads) {
    const float logit = row.logit(token);
    const uint32_t order = order_of(logit);
    if (order < row.threshold || (order == row.threshold && token > last_id)) continue;
    best.race(stream, row.inverse_temperature, token, logit);
  }
  return block_best<kRowThreads>(best).token;
}

// Whether `one` is more likely than `other`, or as likely and of the lower id.
__device__ inline bool comes_before(const Logprob& one, const Logprob& other) {
  return one.logprob > other.logprob || (one.logprob == other.logprob && one.token < other.token);
}

// Gathers the `count` most likely tokens of a row, with their logits, in no order.
__device__ void gather_likely(const Row& row, uint32_t count, Logprob* found) {
  __shared__ uint32_t places;
  const Border border = select<false>(row, count);
  const uint32_t last_id = nth_equal(row, border.order, count - border.before);
  if (threadIdx.x == 0) places = 0;
  __syncthreads();
  for (uint32_t token = threadIdx.x; token < row.vocab; token += kRowThreads) {
    const float logit = row.logit(token);
    const uint32_t order = order_of(logit);
    if (order < border.order || (order == border.order && token > last_id)) continue;
    found[atomicAdd(&places, 1)] = Logprob{token, logit};
  }
  __syncthreads();
}

// Logprobs of the drawn token, which thread 0 knows, and of the most likely ones.
__device__ void put_logprobs(const SampleParams& p, const StepOutput& output, Row row, uint32_t drawn) {
  __shared__ Logprob found[kLogprobsMax];
  const size_t place = static_cast<size_t>(p.step.state->ring_slot) * p.outputs_max + blockIdx.x;
  Logprob* out = p.logprobs + place * kLogprobsMax;
  const double total = log(static_cast<double>(total_mass(row)) / 17592186044416.0);
  auto logprob = [&](float logit) {
    const double value = static_cast<double>(logit) - static_cast<double>(row.top) - total;
    return static_cast<float>(fmax(value, -3.4028234663852886e38));
  };
  if (threadIdx.x == 0) out[0] = Logprob{drawn, logprob(row.logits[drawn])};
  const uint32_t likely = min(output.logprobs, static_cast<uint32_t>(kLogprobsMax)) - 1;
  if (likely == 0) return;
  gather_likely(row, likely, found);
  if (threadIdx.x >= likely) return;
  const Logprob mine = found[threadIdx.x];
  uint32_t before = 0;
  for (uint32_t other = 0; other < likely; ++other) before += comes_before(found[other], mine);
  out[1 + before] = Logprob{mine.token, logprob(mine.logprob)};
}

// The largest of a row's logits as they are.
__device__ float raw_top(const SampleParams& p, const float* logits) {
  float mine = -INFINITY;
  for (uint32_t token = threadIdx.x; token < p.vocab; token += kRowThreads) {
    mine = fmaxf(mine, logits[token]);
  }
  return block_max<kRowThreads>(mine);
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
    const Row row{logits, adjust_of(p, output), p.vocab, largest, inverse_temperature, 0};
    token = restricted(output, row);
  }
  if (finite && output.logprobs > 0) {
    const Row row{logits, Adjust{}, p.vocab, raw_top(p, logits), 1.0, 0};
    put_logprobs(p, output, row, token);
  }
  if (threadIdx.x == 0) {
    token = finite ? token : 0;
    p.drawn[blockIdx.x] = StepResult{token, finite, 0};
    p.last_tokens[output.slot] = static_cast<int32_t>(token);
    if (finite && output.adjusted) count_drawn(p, output.slot, token);
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
