// latent_page.cuh: scores, softmax and sums of a tile of queries over one page of entries.
//
// Of the scores each of eight warps makes some columns, over all of k; maxima and weights meet in
// shared memory; then each warp adds up some of the 512 elements. With several tokens two warps
// share the rows, so that sums fit into registers. A row's sums take its pages in order and do not
// depend on the tile's other rows.
#pragma once

#include "latent_tile.cuh"

namespace latent {

// Products of a warp's rows and entries, in two sums where there would be one chain.
template <typename T, typename L>
__device__ void multiply(float (&scores)[L::kRowTiles][L::kKeyTiles][4], uint32_t queries,
                         uint32_t entries) {
  const Place<L> at;
  constexpr int kChains = L::kRowTiles * L::kKeyTiles == 1 ? 2 : 1;
  float sums[kChains][L::kRowTiles][L::kKeyTiles][4] = {};
#pragma unroll
  for (int k = 0; k < kEntry / 32; ++k) {
    const int chunk = 4 * (k % 2), beyond = k / 2 * 128;  // of 128 bytes, and those before
    uint32_t b[L::kKeyTiles][4];
#pragma unroll
    for (int n = 0; n < L::kKeyTiles; ++n) {
      const int entry = (at.column * L::kKeyTiles + n) * 8 + at.lane % 8;
      ptx::load_matrices(
          b[n], entries + beyond + tile_offset<kEntry>(entry, chunk + at.lane / 8));
    }
#pragma unroll
    for (int m = 0; m < L::kRowTiles; ++m) {
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        uint32_t a[4];
        const int row = (at.first_token + m) * kHeads + at.lane % 16;
        ptx::load_matrices(
            a, queries + beyond + tile_offset<kEntry>(row, chunk + 2 * s + at.lane / 16));
#pragma unroll
        for (int n = 0; n < L::kKeyTiles; ++n) {
          ptx::Mma<T>::run(sums[s % kChains][m][n], a, b[n][2 * s], b[n][2 * s + 1]);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < L::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < L::kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[m][n][i] = sums[0][m][n][i];
        if (kChains == 2) scores[m][n][i] += sums[kChains - 1][m][n][i];
      }
    }
  }
}

// Scores to weights, which go to shared memory; what was summed shrinks where a maximum grew.
// `visible`: entries of the page that each token of the warp sees.
template <typename T, typename L>
__device__ void online_softmax(State<L>& state, float (&scores)[L::kRowTiles][L::kKeyTiles][4],
                               const int (&visible)[L::kRowTiles], float scale,
                               uint8_t* shared) {
  const Place<L> at;
  auto* maxima = reinterpret_cast<float*>(shared + L::kMaxima);
#pragma unroll
  for (int m = 0; m < L::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -INFINITY;
#pragma unroll
      for (int n = 0; n < L::kKeyTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int entry = (at.column * L::kKeyTiles + n) * 8 + at.lane % 4 * 2 + e;
          float& score = scores[m][n][2 * half + e];
          score = entry < visible[m] ? score * scale : -INFINITY;
          largest = fmaxf(largest, score);
        }
      }
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
      if (at.lane % 4 == 0) maxima[at.column * L::kRows + at.row(m, half)] = largest;
    }
  }
  __syncthreads();
  float factors[L::kRowTiles][2];
  bool shrinks = false;
#pragma unroll
  for (int m = 0; m < L::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = at.row(m, half);
      float largest = state.row_max[m][half], sum = 0.0f;
#pragma unroll
      for (int c = 0; c < L::kColumnWarps; ++c) {
        largest = fmaxf(largest, maxima[c * L::kRows + row]);
      }
      const float base = largest == -INFINITY ? 0.0f : largest;  // nothing seen yet
      const float factor = ptx::exp2_approximate(state.row_max[m][half] - base);
      state.row_max[m][half] = largest;
#pragma unroll
      for (int n = 0; n < L::kKeyTiles; ++n) {
        const float first = ptx::exp2_approximate(scores[m][n][2 * half] - base);
        const float second = ptx::exp2_approximate(scores[m][n][2 * half + 1] - base);
        sum += first + second;
        const int to = tile_offset<kPage>(row, at.column * L::kKeyTiles + n) + at.lane % 4 * 4;
        *reinterpret_cast<uint32_t*>(shared + L::kWeights + to) = ptx::pack<T>(first, second);
      }
      state.sum[m][half] = state.sum[m][half] * factor + sum;
      factors[m][half] = factor;
      shrinks |= factor != 1.0f;
    }
  }
  __syncthreads();
  if (!__any_sync(~0u, shrinks)) return;
#pragma unroll
  for (int m = 0; m < L::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < L::kDims / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state.out[m][n][i] *= factors[m][i / 2];
    }
  }
}

// Adds a page's weighted entries.
template <typename T, typename L>
__device__ void add_entries(State<L>& state, uint32_t weights, uint32_t entries) {
  const Place<L> at;
  const int matrix = at.lane / 8;
  entries += at.column * L::kDims * 2;
#pragma unroll
  for (int k = 0; k < kPage / 16; ++k) {
    uint32_t a[L::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < L::kRowTiles; ++m) {
      const int row = (at.first_token + m) * kHeads + at.lane % 16;
      ptx::load_matrices(a[m], weights + tile_offset<kPage>(row, 2 * k + at.lane / 16));
    }
#pragma unroll
    for (int n = 0; n < L::kDims / 16; ++n) {
      uint32_t b[4];
      const int entry = k * 16 + matrix % 2 * 8 + at.lane % 8, beyond = n / 4 * 128;
      ptx::load_matrices_transposed(
          b, entries + beyond + tile_offset<kEntry>(entry, n % 4 * 2 + matrix / 2));
#pragma unroll
      for (int m = 0; m < L::kRowTiles; ++m) {
        ptx::Mma<T>::run(state.out[m][2 * n], a[m], b[0], b[1]);
        ptx::Mma<T>::run(state.out[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// One page that is there for all threads. `scale`: of scores, base 2.
template <typename T, typename L>
__device__ void attend_page(State<L>& state, uint32_t page, const int (&visible)[L::kRowTiles],
                            float scale, uint8_t* shared) {
  float scores[L::kRowTiles][L::kKeyTiles][4];
  multiply<T, L>(scores, ptx::shared_address(shared + L::kQueries), page);
  online_softmax<T, L>(state, scores, visible, scale, shared);
  add_entries<T, L>(state, ptx::shared_address(shared + L::kWeights), page);
}

}  // namespace latent
