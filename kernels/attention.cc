#include "kernels/attention.h"

#include <omp.h>

#include <algorithm>
#include <vector>

#include "kernels/attention_slices.h"
#include "kernels/cpu_features.h"

namespace msadb::kernels {
namespace {

// Below this many multiplications a second thread costs more than it brings.
constexpr size_t kParallelWorkMin = 128 * 1024;

// Query rows of one task: enough to amortise the scheduling, few enough to balance a single
// document.
constexpr size_t kTaskRows = 8 * kQueryTile;

size_t KeyCount(const AttentionSegment& s) { return s.visible_before + s.query_count; }

size_t RoundUp(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

#if MSADB_KERNELS_AVX2

void AttentionPrefill(const AttentionParams& p, int threads, AttentionWorkspace* workspace) {
  if (!CpuHasAvx2() || p.head_dim % 8 != 0) return AttentionRef(p);
  const size_t group = p.heads / p.kv_heads;

  // Packed keys of segment s, kv head g start at packed_begin[s] + g * padded keys * head_dim.
  std::vector<size_t> packed_begin(p.segment_count + 1, 0);
  struct Task {
    size_t segment, kv_head, row_begin, row_end;  // rows of the segment: token * group + head
  };
  struct PackTask {
    size_t segment, kv_head, key_begin;
  };
  std::vector<Task> tasks;
  std::vector<PackTask> pack_tasks;
  size_t work = 0;
  for (size_t s = 0; s < p.segment_count; ++s) {
    const AttentionSegment& segment = p.segments[s];
    const size_t padded = RoundUp(KeyCount(segment), kKeyTile);
    packed_begin[s + 1] = packed_begin[s] + padded * p.kv_heads * p.head_dim;
    const size_t rows = segment.query_count * group;
    work += rows * KeyCount(segment) * p.kv_heads * p.head_dim;
    for (size_t g = 0; g < p.kv_heads; ++g) {
      for (size_t j = 0; rows != 0 && j < padded; j += kKeyTile) pack_tasks.push_back({s, g, j});
      // Late rows see the most keys: hand them out first, so that threads finish together.
      for (size_t end = rows; end > 0;) {
        const size_t begin = (end - 1) / kTaskRows * kTaskRows;
        tasks.push_back({s, g, begin, end});
        end = begin;
      }
    }
  }
  workspace->packed_keys.Reserve(packed_begin.back() * sizeof(float));
  float* const packed = workspace->packed_keys.as<float>();
  const size_t scratch_floats = RoundUp(kQueryTile * (kKeyBlock + 2 * p.head_dim), 16);
  const int team = work < kParallelWorkMin ? 1 : threads;
  workspace->scratch.Reserve(static_cast<size_t>(team) * scratch_floats * sizeof(float));

#pragma omp parallel num_threads(team) if (team > 1)
  {
#pragma omp for schedule(static)
    for (size_t i = 0; i < pack_tasks.size(); ++i) {
      const auto [s, g, j] = pack_tasks[i];
      const AttentionSegment& segment = p.segments[s];
      const size_t padded = RoundUp(KeyCount(segment), kKeyTile);
      PackKeyTileAvx2(p.k + (segment.key_begin + j) * p.kv_stride + g * p.head_dim, p.kv_stride,
                      std::min(kKeyTile, KeyCount(segment) - j), p.head_dim,
                      packed + packed_begin[s] + (g * padded + j) * p.head_dim);
    }
    AttentionTileSlice slice;
    slice.scratch =
        workspace->scratch.as<float>() + static_cast<size_t>(omp_get_thread_num()) * scratch_floats;
    slice.kv_stride = p.kv_stride;
    slice.head_dim = p.head_dim;
    slice.scale = p.scale;
#pragma omp for schedule(dynamic, 1)
    for (size_t i = 0; i < tasks.size(); ++i) {
      const Task& task = tasks[i];
      const AttentionSegment& segment = p.segments[task.segment];
      const size_t padded = RoundUp(KeyCount(segment), kKeyTile);
      slice.packed_keys = packed + packed_begin[task.segment] + task.kv_head * padded * p.head_dim;
      slice.v = p.v + segment.key_begin * p.kv_stride + task.kv_head * p.head_dim;
      for (size_t row = task.row_begin; row < task.row_end; row += kQueryTile) {
        slice.rows = std::min(kQueryTile, task.row_end - row);
        for (size_t r = 0; r < slice.rows; ++r) {
          const size_t token = (row + r) / group;
          const size_t head = task.kv_head * group + (row + r) % group;
          slice.q[r] = p.q + (segment.query_begin + token) * p.q_stride + head * p.head_dim;
          slice.out[r] = p.out + (segment.query_begin + token) * p.out_stride + head * p.head_dim;
          slice.visible[r] = segment.visible_before + token + 1;
        }
        AttentionTileAvx2(slice);
      }
    }
  }
}

void AttentionDecode(std::span<const AttentionParams> calls, int threads,
                     AttentionWorkspace* workspace) {
  if (calls.empty()) return;
  const size_t heads = calls[0].heads, kv_heads = calls[0].kv_heads;
  const size_t head_dim = calls[0].head_dim;
  if (!CpuHasAvx2() || head_dim % 8 != 0) {
    for (const AttentionParams& p : calls) AttentionRef(p);
    return;
  }
  const size_t group = heads / kv_heads;
  struct Query {
    const AttentionParams* p;
    const AttentionSegment* segment;
  };
  std::vector<Query> queries;
  size_t keys_max = 0;
  size_t work = 0;
  for (const AttentionParams& p : calls) {
    for (size_t s = 0; s < p.segment_count; ++s) {
      if (p.segments[s].query_count == 0) continue;
      queries.push_back({&p, &p.segments[s]});
      keys_max = std::max(keys_max, KeyCount(p.segments[s]));
      work += KeyCount(p.segments[s]) * heads * head_dim;
    }
  }
  const size_t scratch_floats = RoundUp(group * RoundUp(keys_max, 8), 16);
  const int team = work < kParallelWorkMin ? 1 : threads;
  workspace->scratch.Reserve(static_cast<size_t>(team) * scratch_floats * sizeof(float));
#pragma omp parallel for collapse(2) schedule(dynamic, 1) num_threads(team) if (team > 1)
  for (size_t i = 0; i < queries.size(); ++i) {
    for (size_t g = 0; g < kv_heads; ++g) {
      const AttentionParams& p = *queries[i].p;
      const AttentionSegment& segment = *queries[i].segment;
      AttentionRowSlice slice;
      slice.q = p.q + segment.query_begin * p.q_stride + g * group * head_dim;
      slice.out = p.out + segment.query_begin * p.out_stride + g * group * head_dim;
      slice.rows = group;
      slice.k = p.k + segment.key_begin * p.kv_stride + g * head_dim;
      slice.v = p.v + segment.key_begin * p.kv_stride + g * head_dim;
      slice.kv_stride = p.kv_stride;
      slice.keys = KeyCount(segment);
      slice.head_dim = head_dim;
      slice.scale = p.scale;
      slice.scratch = workspace->scratch.as<float>() +
                      static_cast<size_t>(omp_get_thread_num()) * scratch_floats;
      AttentionRowAvx2(slice);
    }
  }
}

#else

void AttentionPrefill(const AttentionParams& p, int, AttentionWorkspace*) { AttentionRef(p); }
void AttentionDecode(std::span<const AttentionParams> calls, int, AttentionWorkspace*) {
  for (const AttentionParams& p : calls) AttentionRef(p);
}

#endif  // MSADB_KERNELS_AVX2

}  // namespace msadb::kernels
