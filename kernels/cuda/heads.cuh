// heads.cuh: query, key and value heads, a warp each: norm, rotation, and their places.
#pragma once

#include "ptx.cuh"

namespace heads {

// Where 16 bytes of a token's row lie in a tile of rows: chunk c moves to c ^ (token % 8), so that
// 8 tokens' equal chunks lie in different banks.
template <int kDim>
__host__ __device__ constexpr int tile_offset(int token, int chunk) {
  return token * kDim * 2 + ((chunk ^ (token % 8)) * 16);
}

// Proof for whoever compiles this: each chunk has its place, and equal chunks of 8 tokens in a row
// lie in different banks.
template <int kDim>
constexpr bool tile_is_one_to_one() {
  constexpr int kTokens = 16, kChunks = kDim / 8;
  bool taken[kTokens * kChunks] = {};
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    bool banks[8] = {};
    for (int token = 0; token < kTokens; ++token) {
      if (token % 8 == 0) {
        for (bool& bank : banks) bank = false;
      }
      const int place = tile_offset<kDim>(token, chunk) / 16;
      if (place >= kTokens * kChunks || taken[place] || banks[place % 8]) return false;
      taken[place] = banks[place % 8] = true;
    }
  }
  return true;
}
static_assert(tile_is_one_to_one<64>() && tile_is_one_to_one<128>(), "the swizzle of tiles");

// A head's vector over a warp: lanes below kDim / 4 hold two pairs each of (e, e + kDim / 2).
struct Head {
  uint32_t low, high;  // elements 2 lane, 2 lane + 1 of the first and of the second half
};
// Two pairs' factors: scale of a norm, or cosines and sines of a position.
struct Factors {
  float2 low, high;
};

template <typename T, int kDim>
__device__ Head read_head(const T* from) {
  const int lane = threadIdx.x % 32;
  if (lane >= kDim / 4) return {0, 0};
  const auto* pairs = reinterpret_cast<const uint32_t*>(from);
  return {__ldcg(pairs + lane), __ldcg(pairs + kDim / 4 + lane)};
}
// Of `from[kDim]`: both halves. A null pointer: ones, of a norm that is none.
template <int kDim>
__device__ Factors read_factors(const float* from) {
  const int lane = threadIdx.x % 32;
  if (from == nullptr || lane >= kDim / 4) return {{1, 1}, {1, 1}};
  const auto* pairs = reinterpret_cast<const float2*>(from);
  return {__ldcg(pairs + lane), __ldcg(pairs + kDim / 4 + lane)};
}
// Norms, where `normed`, and rotates; `turn`: cosines, then sines.
template <typename T, int kDim>
__device__ Head norm_and_rotate(Head head, bool normed, float eps, Factors scale, Factors turn) {
  float2 x = ptx::unpack<T>(head.low), y = ptx::unpack<T>(head.high);
  if (normed) {
    float squares = x.x * x.x + x.y * x.y + y.x * y.x + y.y * y.y;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
    const float factor = rsqrtf(squares / kDim + eps);
    x = {x.x * factor * scale.low.x, x.y * factor * scale.low.y};
    y = {y.x * factor * scale.high.x, y.y * factor * scale.high.y};
  }
  const float2 cosine = turn.low, sine = turn.high;
  return {ptx::pack<T>(x.x * cosine.x - y.x * sine.x, x.y * cosine.y - y.y * sine.y),
          ptx::pack<T>(y.x * cosine.x + x.x * sine.x, y.y * cosine.y + x.y * sine.y)};
}
// Writes a head's vector into a row of a tile.
template <int kDim>
__device__ void put_head(uint8_t* tile, int token, Head head) {
  const int lane = threadIdx.x % 32;
  if (lane >= kDim / 4) return;
  const int chunk = lane / 4, within = lane % 4 * 4;
  *reinterpret_cast<uint32_t*>(tile + tile_offset<kDim>(token, chunk) + within) = head.low;
  *reinterpret_cast<uint32_t*>(tile + tile_offset<kDim>(token, chunk + kDim / 16) + within) =
      head.high;
}
template <typename T, int kDim>
__device__ void write_head(T* to, Head head) {
  const int lane = threadIdx.x % 32;
  if (lane >= kDim / 4) return;
  auto* pairs = reinterpret_cast<uint32_t*>(to);
  pairs[lane] = head.low;
  pairs[kDim / 4 + lane] = head.high;
}

}  // namespace heads
