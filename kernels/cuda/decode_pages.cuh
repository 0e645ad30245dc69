// decode_pages.cuh: the row of pages that decode_attention.cu's blocks share, and the way of a page
// into shared memory.
#pragma once

#include "attention_params.h"
#include "heads.cuh"

namespace decode {

constexpr int kPage = 64;       // tokens
constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kSlice = kPage / kWarps;  // tokens of a page that a warp takes
constexpr int kGqaGroup = 16;      // query heads of a KV head, padded

// A place in the row of pages.
struct PageCursor {
  int row, head;       // of the pair
  int page, page_end;  // of the sequence
  int first_page;      // that the row sees
  int token, position, slot;
};

struct Span {
  int first, end;
};
// Positions that the row's token sees, its own left out.
__device__ inline Span visible_before(const AttentionParams& a, int position) {
  const int window = a.window;
  const bool bounded = window > 0 && window <= position;
  return {bounded ? position - window + 1 : 0, position};
}

__device__ inline void enter_row(const AttentionParams& a, PageCursor& at) {
  const int4 row = __ldcg(reinterpret_cast<const int4*>(a.step.rows) + at.row);
  at.token = row.x, at.position = row.z, at.slot = row.w;
  at.first_page = visible_before(a, at.position).first / kPage;
  at.page_end = at.position / kPage + 1;
  at.page = at.first_page;
}
// `pages[row]`: pages that the rows before see, `rows` long and one more.
__device__ inline PageCursor cursor_of(const AttentionParams& a, const int* pages, int rows,
                                       int unit) {
  const int heads = a.kv_heads;
  int low = 0, high = rows - 1;  // the last row that begins at or before the unit
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (pages[middle] * heads <= unit) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  PageCursor at;
  at.row = low;
  enter_row(a, at);
  const int own = max(at.page_end - at.first_page, 1), rest = unit - pages[low] * heads;
  at.head = rest / own;
  at.page += rest % own;
  return at;
}
// To the next page. Passes over rows that see nothing; the caller knows that there is one that
// does.
__device__ inline void advance(const AttentionParams& a, const int* pages, PageCursor& at) {
  if (++at.page < at.page_end) return;
  at.page = at.first_page;
  if (++at.head < int(a.kv_heads)) return;
  at.head = 0;
  do {
    ++at.row;
  } while (pages[at.row] == pages[at.row + 1]);
  enter_row(a, at);
}

// First element of a page's head in the cache.
__device__ inline size_t page_element(const AttentionParams& a, const PageCursor& at, int page,
                                      int dim) {
  const int block = __ldcg(a.table + size_t(at.slot) * a.table_stride + page);
  return (size_t(block) * a.kv_heads + at.head) * kPage * dim;
}

// Asks for this warp's slice of a page; what the row does not see becomes zero.
template <typename T, int kDim>
__device__ void load_page(const AttentionParams& a, const PageCursor& at, uint32_t tile, int warp) {
  const size_t base = page_element(a, at, at.page, kDim);
  const Span visible = visible_before(a, at.position);
  constexpr int kChunks = kDim / 8, kBytes = kSlice * kDim * 2;
#pragma unroll
  for (int i = 0; i < kSlice * kChunks / 32; ++i) {
    const int index = i * 32 + threadIdx.x % 32, token = index / kChunks, chunk = index % kChunks;
    const int position = at.page * kPage + warp * kSlice + token;
    const bool is_visible = position >= visible.first && position < visible.end;
    const size_t element = base + (warp * kSlice + token) * kDim + chunk * 8;
    const uint32_t to = tile + heads::tile_offset<kDim>(token, chunk);
    ptx::copy16_or_zero(to, static_cast<const T*>(a.keys) + element, is_visible);
    ptx::copy16_or_zero(to + kBytes, static_cast<const T*>(a.values) + element, is_visible);
  }
}

}  // namespace decode
