// attention_schedule.cu: what the fast attention kernels divide among their blocks, once a step for
// all layers of one KV group with one window.
//
//   pages  [rows + 1]: how many pages the decode rows before see, for decode_attention
//   tiles  [tiles_max]: the chunk rows' tokens in tiles, those that see most first; then tiles of
//          count 0, for prefill_attention
//
// Launch: one block of 1,024 threads; at most 1,024 rows. Between this kernel and those that read
// its tables another one must run, or they be launched without dependence: they read before they
// wait.
#include "attention_params.h"
#include "ptx.cuh"

namespace schedule {

constexpr int kThreads = 1024;
constexpr int kPage = 64;  // tokens

// Sums over the threads before and with this one.
__device__ inline uint32_t inclusive_sum(uint32_t x, uint32_t* warps) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t before = __shfl_up_sync(~0u, x, step);
    if (lane >= step) x += before;
  }
  if (lane == 31) warps[warp] = x;
  __syncthreads();
  for (int i = 0; i < warp; ++i) x += warps[i];
  __syncthreads();
  return x;
}

// Tiles of a chunk that end at or before a position.
__device__ inline uint32_t tiles_up_to(const StepRow& row, uint32_t tile_tokens,
                                       uint32_t position) {
  if (position >= row.start + row.count) return (row.count + tile_tokens - 1) / tile_tokens;
  return position < row.start ? 0 : (position - row.start) / tile_tokens;
}

}  // namespace schedule

extern "C" __global__ void __launch_bounds__(schedule::kThreads)
    attention_schedule(const __grid_constant__ AttentionScheduleParams p) {
  __shared__ uint32_t warps[schedule::kThreads / 32];
  __shared__ uint32_t ends[schedule::kThreads];  // tiles of the rows before and of this one
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_start();
  const uint32_t row = threadIdx.x, decode_rows = p.step.state->decode_rows;
  uint32_t pages = 0, tiles = 0;
  if (row < p.rows) {
    const StepRow at = p.step.rows[row];
    if (row >= decode_rows) {
      tiles = (at.count + p.tile_tokens - 1) / p.tile_tokens;
    } else if (at.count > 0) {
      const bool bounded = p.window > 0 && p.window <= at.start;
      const uint32_t first = bounded ? at.start - p.window + 1 : 0;
      pages = at.start / schedule::kPage + 1 - first / schedule::kPage;
    }
  }
  const uint32_t page_end = schedule::inclusive_sum(pages, warps);
  ends[row] = schedule::inclusive_sum(tiles, warps);
  if (row < p.rows) p.pages[row + 1] = page_end;
  if (row == 0) p.pages[0] = 0;
  __syncthreads();
  const uint32_t all = ends[schedule::kThreads - 1];
  for (uint32_t i = threadIdx.x; i < p.tiles_max; i += schedule::kThreads) {
    if (i >= all) {
      p.tiles[i] = {0, 0, 0, 0};
      continue;
    }
    uint32_t mine = decode_rows;
    while (ends[mine] <= i) ++mine;
    const StepRow at = p.step.rows[mine];
    const uint32_t first = (i - (mine > 0 ? ends[mine - 1] : 0)) * p.tile_tokens;
    const uint32_t count = min(p.tile_tokens, at.count - first), end = at.start + first + count;
    uint32_t place = 0;  // tiles that see more; as much, in the rows before
    for (uint32_t r = decode_rows; r < p.rows; ++r) {
      const uint32_t own = ends[r] - (r > 0 ? ends[r - 1] : 0);
      place += own - schedule::tiles_up_to(p.step.rows[r], p.tile_tokens, r < mine ? end - 1 : end);
    }
    p.tiles[place] = {at.first + first, count, at.start + first, at.slot};
  }
}
