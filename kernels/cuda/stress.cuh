// stress.cuh: how a stressed image (BINFER_STRESS, made by build.rs where it is asked for) looks
// for races; in all others every function here is nothing.
//
//   after_wait  Dependent launch: the next kernel starts right after this one's own wait, as early
//               as the rules allow, and this one works only 100 us later. So a kernel that does not
//               wait, or that before its wait reads what the last kernel writes, reads what is old.
//               Not before the wait: then more than one earlier kernel could be running, and
//               decode_attention reads tables and old pages on the promise that there is only one.
//               The norm, which does start its successor first thing, does so in every image.
//   stages      Rings are as short as their pipeline can bear.
//   pause       Whoever waits or arrives at a place of a pipeline, producer or consumer, may sleep
//   up
//               to 2 us first.
//
// Tests of the worker compare the bits of such an image with those of the plain one.
#pragma once

#include <cstdint>

namespace stress {

#ifdef BINFER_STRESS

constexpr uint32_t kWorkLateNs = 100'000;

__device__ inline uint64_t now_ns() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

__device__ inline void after_wait() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  const uint64_t end = now_ns() + kWorkLateNs;
  while (now_ns() < end) __nanosleep(1000);
}

// The same for all threads of a warp that are together here.
__device__ inline void pause() {
  uint32_t clock;
  asm volatile("mov.u32 %0, %%clock;" : "=r"(clock));
  const uint32_t dice = (clock ^ blockIdx.x << 8 ^ threadIdx.x / 32) * 0x9e3779b1u >> 11;
  if (dice % 16 == 0) __nanosleep(dice / 16 % 2048);
}

__host__ __device__ constexpr int stages(int, int least) { return least; }

#else

__device__ inline void after_wait() {}
__device__ inline void pause() {}
__host__ __device__ constexpr int stages(int wanted, int) { return wanted; }

#endif

}  // namespace stress
