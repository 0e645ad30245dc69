// wgmma.cuh: the warpgroup's tensor-core instruction of sm_90a: d += a * b with f32 sums.
//
// a is 64 x 16, b is 16 x N. Operands in shared memory lie in tiles of 128-byte rows, 64 elements
// each, swizzled as the copy engine writes them (128-byte mode), at addresses that are multiples of
// 1,024. `Wgmma<T, N>::ss` takes both from there, K running along the row in both; `wgmma_rs` takes
// a from registers, `wgmma_rs_transposed` too, and a b whose rows run along N (as values lie in a
// cache).
//
// Thread i of the warpgroup holds, in d[4 j .. 4 j + 3], rows 16 (i / 32) + i % 32 / 4 (twice) and
// 8 more (twice), columns 8 j + 2 (i % 4) and the next. Registers of `a` are those of mma.sync.
#pragma once

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

namespace ptx {

// Descriptor of a swizzled operand. `group_bytes`: from 8 rows to the next 8; `side_bytes`: from 64
// columns of N to the next 64, where N runs along the rows (unused otherwise).
__device__ __forceinline__ uint64_t wgmma_operand(uint32_t shared_address, int group_bytes = 1024,
                                                  int side_bytes = 16) {
  return (uint64_t(1) << 62) | (uint64_t(group_bytes >> 4) << 32) |
         (uint64_t(side_bytes >> 4) << 16) | ((shared_address & 0x3ffff) >> 4);
}
// Before the first wgmma that reads registers which other instructions wrote.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving uses of accumulators over a fence or a wait.
template <int kCount>
__device__ __forceinline__ void wgmma_pin(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

template <typename T, int kN>
struct Wgmma;

// Operand lists, for N / 2 registers.
#define WGMMA_REGS_8 \
  "%0, %1, %2, %3"
#define WGMMA_REGS_16 \
  WGMMA_REGS_8 ", " \
  "%4, %5, %6, %7"
#define WGMMA_REGS_32 \
  WGMMA_REGS_16 ", " \
  "%8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_REGS_48 \
  WGMMA_REGS_32 ", " \
  "%16, %17, %18, %19, %20, %21, %22, %23"
#define WGMMA_REGS_64 \
  WGMMA_REGS_48 ", " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_REGS_96 \
  WGMMA_REGS_64 ", " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define WGMMA_REGS_128 \
  WGMMA_REGS_96 ", " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_REGS_192 \
  WGMMA_REGS_128 ", " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_REGS_256 \
  WGMMA_REGS_192 ", " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, " \
  "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, " \
  "%123, %124, %125, %126, %127"
#define WGMMA_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_D8(i) WGMMA_D4(i), WGMMA_D4(i + 4)
#define WGMMA_D16(i) WGMMA_D8(i), WGMMA_D8(i + 8)
#define WGMMA_D32(i) WGMMA_D16(i), WGMMA_D16(i + 16)
#define WGMMA_LIST_8 WGMMA_D4(0)
#define WGMMA_LIST_16 WGMMA_D8(0)
#define WGMMA_LIST_32 WGMMA_D16(0)
#define WGMMA_LIST_48 WGMMA_D16(0), WGMMA_D8(16)
#define WGMMA_LIST_64 WGMMA_D32(0)
#define WGMMA_LIST_96 WGMMA_D32(0), WGMMA_D16(32)
#define WGMMA_LIST_128 WGMMA_D32(0), WGMMA_D32(32)
#define WGMMA_LIST_192 WGMMA_D32(0), WGMMA_D32(32), WGMMA_D32(64)
#define WGMMA_LIST_256 WGMMA_D32(0), WGMMA_D32(32), WGMMA_D32(64), WGMMA_D32(96)

// `a`, `b`, `c`, ..: numbers of the operands after d. `accumulate` 0 starts from zero.
#define WGMMA_SS(T, TYPE, N, A, B, P)                                                             \
  template <>                                                                                     \
  struct Wgmma<T, N> {                                                                            \
    static __device__ __forceinline__ void ss(float (&d)[N / 2], uint64_t a, uint64_t b,          \
                                              int accumulate) {                                   \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #P ", 0; "                                  \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE                \
                   " {" WGMMA_REGS_##N "}, %" #A ", %" #B ", p, 1, 1, 0, 0; }"                    \
                   : WGMMA_LIST_##N                                                               \
                   : "l"(a), "l"(b), "r"(accumulate));                                            \
    }                                                                                             \
  };
#define WGMMA_RS(T, TYPE, N, A0, A1, A2, A3, B)                                                   \
  __device__ __forceinline__ void wgmma_rs_transposed(T*, float (&d)[N / 2],                      \
                                                      const uint32_t (&a)[4], uint64_t b) {       \
    asm volatile("{ .reg .pred p; setp.eq.u32 p, 0, 0; "                                          \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE                  \
                 " {" WGMMA_REGS_##N "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B          \
                 ", p, 1, 1, 1; }"                                                                \
                 : WGMMA_LIST_##N                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                           \
  }
#define WGMMA_RS_STRAIGHT(T, TYPE, N, A0, A1, A2, A3, B)                                          \
  __device__ __forceinline__ void wgmma_rs(T*, float (&d)[N / 2], const uint32_t (&a)[4],         \
                                           uint64_t b) {                                          \
    asm volatile("{ .reg .pred p; setp.eq.u32 p, 0, 0; "                                          \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE                  \
                 " {" WGMMA_REGS_##N "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B          \
                 ", p, 1, 1, 0; }"                                                                \
                 : WGMMA_LIST_##N                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                           \
  }
#define WGMMA_TYPES(M, ...)                   \
  M(__nv_bfloat16, "bf16", __VA_ARGS__)       \
  M(__half, "f16", __VA_ARGS__)
WGMMA_TYPES(WGMMA_SS, 8, 4, 5, 6)
WGMMA_TYPES(WGMMA_SS, 16, 8, 9, 10)
WGMMA_TYPES(WGMMA_SS, 32, 16, 17, 18)
WGMMA_TYPES(WGMMA_SS, 48, 24, 25, 26)
WGMMA_TYPES(WGMMA_SS, 64, 32, 33, 34)
WGMMA_TYPES(WGMMA_SS, 96, 48, 49, 50)
WGMMA_TYPES(WGMMA_SS, 128, 64, 65, 66)
WGMMA_TYPES(WGMMA_SS, 192, 96, 97, 98)
WGMMA_TYPES(WGMMA_SS, 256, 128, 129, 130)
WGMMA_TYPES(WGMMA_RS_STRAIGHT, 8, 4, 5, 6, 7, 8)
WGMMA_TYPES(WGMMA_RS_STRAIGHT, 16, 8, 9, 10, 11, 12)
WGMMA_TYPES(WGMMA_RS_STRAIGHT, 32, 16, 17, 18, 19, 20)
WGMMA_TYPES(WGMMA_RS_STRAIGHT, 64, 32, 33, 34, 35, 36)
WGMMA_TYPES(WGMMA_RS_STRAIGHT, 128, 64, 65, 66, 67, 68)
WGMMA_TYPES(WGMMA_RS_STRAIGHT, 256, 128, 129, 130, 131, 132)
WGMMA_TYPES(WGMMA_RS, 64, 32, 33, 34, 35, 36)
WGMMA_TYPES(WGMMA_RS, 128, 64, 65, 66, 67, 68)

}  // namespace ptx

#endif
