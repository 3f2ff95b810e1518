// The reference engine: FAISS's exhaustive inner-product search for a list of the best k' rows per
// token and segment. The lists prove the document top-k once no unseen row can reach the k-th
// document (spec section 3); until then k' grows.
#include <faiss/impl/IDSelector.h>
#include <faiss/utils/distances.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <unordered_set>

#include "index/scoring.h"
#include "index/search.h"

namespace msadb::index::internal {
namespace {

// Rows of admissible documents.
class RowSelector : public faiss::IDSelector {
 public:
  explicit RowSelector(std::vector<bool> rows) : rows_(std::move(rows)) {}
  bool is_member(idx_t row) const override { return rows_[row]; }

 private:
  std::vector<bool> rows_;
};

// The lists of one segment.
struct SegmentLists {
  std::unique_ptr<RowSelector> selector;  // null: every row is admissible
  size_t n_admissible = 0;
  size_t n_listed = 0;        // k'
  std::vector<float> scores;  // [n_tokens, n_listed], descending
  std::vector<int64_t> rows;  // [n_tokens, n_listed]

  // The best approximate score that an admissible row outside the lists can have.
  double UnseenMax(size_t n_tokens) const {
    if (n_listed >= n_admissible) return -std::numeric_limits<double>::infinity();
    float last = -std::numeric_limits<float>::infinity();
    for (size_t t = 0; t < n_tokens; ++t) last = std::max(last, scores[(t + 1) * n_listed - 1]);
    return last;
  }
};

SegmentLists MakeLists(const SearchRequest& request, uint32_t s) {
  const SegmentView& view = request.version->segments[s];
  SegmentLists lists;
  lists.n_admissible = view.n_rows;
  if (request.selection == nullptr && view.dead_documents == 0) return lists;
  lists.n_admissible = 0;
  std::vector<bool> rows(view.n_rows);
  for (uint32_t i = 0; i < view.n_documents; ++i) {
    const bool admissible =
        request.selection ? TestBit(request.selection->allowed[s], i) : !view.IsDead(i);
    if (!admissible) continue;
    std::fill(rows.begin() + view.row_begin(i), rows.begin() + view.row_begin(i + 1), true);
    lists.n_admissible += view.n_chunks(i);
  }
  lists.selector = std::make_unique<RowSelector>(std::move(rows));
  return lists;
}

}  // namespace

std::vector<RoutedDocument> SearchFaiss(const SearchRequest& request) {
  const Version& version = *request.version;
  std::vector<SegmentLists> segments;
  for (uint32_t s = 0; s < version.segments.size(); ++s) segments.push_back(MakeLists(request, s));

  size_t wanted = request.k < 1'000'000 ? 2 * request.k + 16 : request.k;
  while (true) {
    std::vector<Candidate> candidates;
    for (uint32_t s = 0; s < segments.size(); ++s) {
      SegmentLists& lists = segments[s];
      const SegmentView& view = version.segments[s];
      const size_t n_listed = std::min(wanted, lists.n_admissible);
      if (n_listed == 0) continue;
      if (n_listed > lists.n_listed) {
        lists.scores.resize(request.n_tokens * n_listed);
        lists.rows.resize(request.n_tokens * n_listed);
        faiss::knn_inner_product(request.queries, view.segment->keys(request.layer),
                                 version.config.dim, request.n_tokens, view.n_rows, n_listed,
                                 lists.scores.data(), lists.rows.data(), lists.selector.get());
        lists.n_listed = n_listed;
      }
      std::unordered_set<uint32_t> ordinals;
      const uint32_t* row_begin = view.segment->row_begin();
      for (const int64_t row : lists.rows) {
        const uint32_t* after = std::upper_bound(row_begin, row_begin + view.n_documents + 1, row);
        ordinals.insert(static_cast<uint32_t>(after - row_begin) - 1);
      }
      for (const uint32_t ordinal : ordinals) candidates.push_back({s, ordinal});
    }
    std::vector<RoutedDocument> ranked = Rank(request, candidates);

    bool proven = true;
    for (const SegmentLists& lists : segments) {
      const double unseen = lists.UnseenMax(request.n_tokens);
      if (unseen == -std::numeric_limits<double>::infinity()) continue;
      // Strictly: an unseen document of equal score and smaller number would go before the k-th.
      const bool beaten =
          ranked.size() == request.k && unseen + request.score_error_max < ranked.back().score;
      proven = proven && beaten;
    }
    if (proven) return ranked;
    wanted = wanted < std::numeric_limits<uint32_t>::max() ? wanted * 4 : wanted;
  }
}

}  // namespace msadb::index::internal
