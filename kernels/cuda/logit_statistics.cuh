// logit_statistics.cuh: what lm_head_gemm.cu makes of a tile's logits while they are in registers:
// the largest of each output, the best with Gumbel noise (gumbel.cuh), and whether all are numbers.
//
// Shared memory holds, of each output, what the block knows so far. A logit costs a comparison and,
// of an output with noise, its random bits and another: noise of x or more has at least x / ln 2
// leading ones, so the leader's score tells how many it takes to pass. Only a warp with a logit
// that may pass looks closer; eight lanes have the same output, and their best alone takes the
// lead.
//
// There, noise is computed in single precision, with an error below kNear / 4. That decides
// nothing: a logit that comes as near as kNear to the leader, from either side, is remembered as a
// contender, and at the end leader and contenders are compared in double precision, as everywhere
// else. Of ten thousand that are looked at closer about one becomes a contender; of a block's few
// thousand no more than kContendersMax do.
#pragma once

#include "gemm_params.h"
#include "gumbel.cuh"
#include "sample_needs.cuh"
#include "skinny_gemm_mainloop.cuh"

namespace skinny_gemm {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

constexpr float kSpan = 22.18071f;  // 32 ln 2: what noise of 32 ones comes to, about
constexpr float kNear = 5e-5f;
constexpr int kContendersMax = 128;
constexpr float kLowest = -3.4028234663852886e38f;

// Of an output.
struct GumbelState {
  uint64_t stream;
  float scale;  // logits to spans; 0 without noise
  float limit;  // 1 and a rounding, less the leader's score in spans
};
struct alignas(16) Candidate {
  float logit;
  float noise;  // nearly
  uint32_t token;
};
struct RowState {
  float top;  // not more than the largest logit so far
  uint32_t flags;
};
enum : uint32_t { kSampled = 1, kNoisy = 2, kWritten = 4, kNotFinite = 8 };
struct Contender {
  uint32_t output, token;
  float logit;
};

template <int kOutputs>
struct StatisticsShared {
  GumbelState gumbel_states[kOutputs];
  Candidate leaders[kOutputs];  // token kNone: nobody yet
  RowState row_states[kOutputs];
  unsigned long long maxima[kOutputs];  // order of the largest, then ~token; 0: nothing was seen
  uint32_t locks[kOutputs];
  Contender contenders[kContendersMax];
  uint32_t contender_count;
};
// As src/skinny_gemm.rs counts it.
constexpr int head_bytes(int outputs) { return 52 * outputs + 2048; }
static_assert(sizeof(StatisticsShared<8>) <= head_bytes(8) &&
                  sizeof(StatisticsShared<256>) <= head_bytes(256),
              "shared memory of the head");

// -ln(-ln u) of such bits in single precision.
__device__ inline float gumbel_approximate(uint32_t bits) {
  const bool upper = bits >> 31;  // u, or what it lacks to 1, whichever is exact
  const float q = fmaf(static_cast<float>(upper ? ~bits : bits), 2.3283064e-10f, 1.1641532e-10f);
  const float tail = q * fmaf(q, fmaf(q, fmaf(q, fmaf(q, 0.2f, 0.25f), 0.33333333f), 0.5f), 1.0f);
  const float minus_log = upper && q < 0.0625f ? tail : -__logf(upper ? 1.0f - q : q);
  return -__logf(minus_log);
}

// Whether noise of these bits may bring a logit past the leader. Its share of the span is 1 where
// no ones are needed and 0 where 32 are not enough.
__device__ inline bool may_win(const GumbelState& gumbel_state, float logit, uint32_t bits) {
  const float share = __saturatef(fmaf(logit, gumbel_state.scale, gumbel_state.limit));
  // The sum's last bits are the nearest whole number.
  const uint32_t zeros = __float_as_uint(fmaf(share, 32.0f, 12582912.0f)) & 63;
  return bits >= __funnelshift_lc(0, ~0u, zeros);
}
// What a leader's score leaves to others: half a bit for the rounding above, and what single
// precision may be wrong by.
__device__ inline float limit_of(float score) {
  return 1.0f + 0.53f / 32.0f - score / kSpan + fabsf(score) * 1e-6f;
}

// The largest of the eight lanes that have the same output.
__device__ inline float reduce_max_octet(float x) {
#pragma unroll
  for (int lanes = 4; lanes <= 16; lanes *= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, lanes));
  return x;
}

template <typename S>
struct LogitStatistics {
  static constexpr int kStep = S::kFragments % 8 == 0   ? 8
                               : S::kFragments % 4 == 0 ? 4
                                                        : S::kFragments;
  static constexpr int kOutputs = S::kTilesM ? 256 : S::kTileM;
  using Shared = StatisticsShared<kOutputs>;
  const LmHeadGemmParams& p;
  Shared& shared;
  const int consumers;

  __device__ LogitStatistics(const LmHeadGemmParams& p, const Ring<S>& ring, int consumers)
      : p(p), shared(*reinterpret_cast<Shared*>(ring.behind(p.gemm))), consumers(consumers) {}

  __device__ void begin() const {
    const int outputs = p.step.state->outputs;
    for (int t = threadIdx.x; t < kOutputs; t += consumers) {
      const StepOutput output = t < outputs ? p.step.outputs[t] : StepOutput{};
      const bool is_sampled = t < outputs && binfer::takes_head_statistics(output);
      const bool noisy = is_sampled && output.temperature > 0.0f;
      const bool written = t < outputs && binfer::needs_logits(output, p.vocab);
      const uint64_t stream = noisy ? binfer::noise_stream(output) : 0;
      const float scale = noisy ? 1.0f / (output.temperature * kSpan) : 0.0f;
      shared.gumbel_states[t] = GumbelState{stream, scale, noisy ? 1e30f : 0.0f};
      shared.leaders[t] = Candidate{0.0f, 0.0f, binfer::kNone};
      shared.row_states[t] =
          RowState{is_sampled ? -INFINITY : INFINITY,
                   (is_sampled ? kSampled : 0) | (noisy ? kNoisy : 0) | (written ? kWritten : 0)};
      shared.maxima[t] = 0;
      shared.locks[t] = 0;
    }
    if (threadIdx.x == 0) shared.contender_count = 0;
    ptx::barrier_sync(1, consumers);
  }

  // A tile's sums.
  __device__ void add(const TileCoord& tile_at, const Accumulators<S>& sums) const {
    if (threadIdx.x / 32 * 16 >= p.gemm.tile_n) return;  // the warp has no rows
    float4 fragments[S::kFragments];
#pragma unroll
    for (int i = 0; i < S::kFragments; ++i) {
      const float(&x)[S::kWidth / 2] = sums[8 * i / S::kWidth];
      const int at = 4 * i % (S::kWidth / 2);
      fragments[i] = {x[at], x[at + 1], x[at + 2], x[at + 3]};
    }
    const FragmentCoord coord = fragment_coord(threadIdx.x, 0);
    const int row = tile_at.row + coord.row;
    if (row + 8 >= p.gemm.out_features) {  // rows that nobody has come last
#pragma unroll
      for (float4& x : fragments) {
        x.z = x.w = kLowest;
        if (row >= p.gemm.out_features) x.x = x.y = kLowest;
      }
    }
    // By kStep, the rest moving up: this is much code, and registers have no index.
#pragma unroll 1
    for (int first = 0; first < S::kFragments; first += kStep) {
#pragma unroll
      for (int i = 0; i < kStep; ++i) {
        add(fragments[i], row, tile_at.token + 8 * (first + i) + coord.token);
      }
#pragma unroll
      for (int i = 0; i + kStep < S::kFragments; ++i) fragments[i] = fragments[i + kStep];
    }
  }

  // Tokens t, t + 1 of rows `row`, `row` + 8.
  __device__ void add(const float4& x, int row, int t) const {
    const RowState even = shared.row_states[t], odd = shared.row_states[t + 1];
    if (even.flags & kWritten) write(t, row, x.x, x.z);
    if (odd.flags & kWritten) write(t + 1, row, x.y, x.w);
    bool passes = !(x.x < even.top) || !(x.z < even.top) || !(x.y < odd.top) || !(x.w < odd.top) ||
                  fminf(fminf(x.x, x.y), fminf(x.z, x.w)) < kLowest;
    if ((even.flags | odd.flags) & kNoisy) {
      const GumbelState one = shared.gumbel_states[t], other = shared.gumbel_states[t + 1];
      const uint32_t token = p.first_token + row;
      passes |= may_win(one, x.x, binfer::noise_bits(one.stream, token));
      passes |= may_win(one, x.z, binfer::noise_bits(one.stream, token + 8));
      passes |= may_win(other, x.y, binfer::noise_bits(other.stream, token));
      passes |= may_win(other, x.w, binfer::noise_bits(other.stream, token + 8));
    }
    if (!__any_sync(~0u, passes)) return;
#pragma unroll 1
    for (int is_odd = 0; is_odd < 2; ++is_odd) {
      update_row(t + is_odd, p.first_token + row, is_odd ? x.y : x.x, is_odd ? x.w : x.z);
    }
  }
  __device__ void write(int t, int row, float x, float x8) const {
    float* out = static_cast<float*>(p.gemm.out) + size_t(t) * p.gemm.out_stride + row;
    if (row < p.gemm.out_features) out[0] = x;
    if (row + 8 < p.gemm.out_features) out[8] = x8;
  }

  // The whole warp: logits of tokens `token` and `token` + 8 of output t.
  __device__ void update_row(int t, uint32_t token, float x, float x8) const {
    RowState& row_state = shared.row_states[t];
    const uint32_t flags = row_state.flags;
    if (!isfinite(x) || !isfinite(x8)) atomicOr(&row_state.flags, kNotFinite);
    const float top = reduce_max_octet(fmaxf(x, x8));
    if (top >= row_state.top && (x == top || x8 == top)) {
      const unsigned long long order = binfer::order_of(top);
      atomicMax(&shared.maxima[t], order << 32 | ~(x == top ? token : token + 8));
      row_state.top = top;
    }
    const bool noisy = flags & kNoisy;
    if (!__any_sync(~0u, noisy)) return;
    const GumbelState gumbel_state = shared.gumbel_states[t];
    const uint32_t bits = binfer::noise_bits(gumbel_state.stream, token);
    const uint32_t bits8 = binfer::noise_bits(gumbel_state.stream, token + 8);
    const Candidate one{x, gumbel_approximate(bits), token},
        other{x8, gumbel_approximate(bits8), token + 8};
    const float inverse = gumbel_state.scale * kSpan;
    const float score = fmaf(x, inverse, one.noise), score8 = fmaf(x8, inverse, other.noise);
    const float best = reduce_max_octet(fmaxf(score, score8));
    const float least = best - (kNear + fabsf(best) * 1e-6f);
    if (noisy && score >= least && may_win(gumbel_state, x, bits)) update_leader(t, inverse, one);
    if (noisy && score8 >= least && may_win(gumbel_state, x8, bits8))
      update_leader(t, inverse, other);
  }

  // Takes the lead where it may; one thread at a time.
  __device__ void update_leader(int t, float inverse, const Candidate& candidate) const {
    bool done = false;
    while (!done) {
      if (atomicCAS(&shared.locks[t], 0, 1) != 0) continue;
      __threadfence_block();
      const Candidate best = shared.leaders[t];
      const float ahead = fmaf(candidate.logit - best.logit, inverse, candidate.noise - best.noise);
      // The last term: where double precision has no room for the noise any more.
      const float near = kNear + fabsf(candidate.logit) * inverse * 1e-15f;
      if (best.token == binfer::kNone || ahead > near) {
        shared.leaders[t] = candidate;
        shared.gumbel_states[t].limit = limit_of(fmaf(candidate.logit, inverse, candidate.noise));
      } else if (ahead >= -near) {
        const uint32_t place = atomicAdd(&shared.contender_count, 1);
        if (place < kContendersMax) {
          shared.contenders[place] =
              Contender{static_cast<uint32_t>(t), candidate.token, candidate.logit};
        }
      }
      __threadfence_block();
      atomicExch(&shared.locks[t], 0);
      done = true;
    }
  }

  // What the block's tiles came to.
  __device__ void end(int work) const {
    ptx::barrier_sync(1, consumers);
    for (int t = threadIdx.x; t < kOutputs; t += consumers) {
      const uint32_t flags = shared.row_states[t].flags;
      if (!(flags & kSampled)) continue;
      const unsigned long long top = shared.maxima[t];
      const float top_logit =
          top == 0 ? -INFINITY : binfer::logit_of(static_cast<uint32_t>(top >> 32));
      binfer::ArgMax best;
      if (flags & kNoisy) best = winner(t);
      p.tiles[t * p.tiles_per_row + work] =
          SampleTile{best.score, best.token, top_logit, ~static_cast<uint32_t>(top),
                     (flags & kNotFinite) == 0};
    }
  }
  __device__ binfer::ArgMax winner(uint32_t t) const {
    const double inverse = 1.0 / static_cast<double>(p.step.outputs[t].temperature);
    const uint64_t stream = shared.gumbel_states[t].stream;
    const Candidate leader = shared.leaders[t];
    binfer::ArgMax best;
    if (leader.token != binfer::kNone)
      best.update_noisy(stream, inverse, leader.token, leader.logit);
    const int contenders = min(shared.contender_count, static_cast<uint32_t>(kContendersMax));
    for (int i = 0; i < contenders; ++i) {
      const Contender contender = shared.contenders[i];
      if (contender.output == t)
        best.update_noisy(stream, inverse, contender.token, contender.logit);
    }
    return best;
  }
};

#endif

}  // namespace skinny_gemm
