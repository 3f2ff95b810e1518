#include "model/generator.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <new>
#include <string>

#include "model/call_limits.h"
#include "model/positions.h"

namespace msadb::model {
namespace {

using kernels::AttentionSegment;
using kernels::Tensor;

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Before buffers die that results may still be on their way to: waits, also on a return for an
// error.
class Drain {
 public:
  explicit Drain(kernels::Backend* backend) : backend_(*backend) {}
  ~Drain() { (void)backend_.Synchronize(); }
  Drain(const Drain&) = delete;
  Drain& operator=(const Drain&) = delete;

 private:
  kernels::Backend& backend_;
};

// The numbers attended to, ascending, as MemoryBank::Fetch wants them.
std::vector<DocumentNumber> AscendingNumbers(std::span<const RoutedDocument> documents) {
  std::vector<DocumentNumber> numbers;
  for (const RoutedDocument& document : documents) numbers.push_back(document.number);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

}  // namespace

Result<Context> Generator::Prefill(std::span<const PromptPart> parts, MemoryBank& bank,
                                   const PrefillOptions& options, const CallLimits& limits,
                                   PrefillTrace* trace) try {
  std::vector<int32_t> ids;
  for (const PromptPart& part : parts)
    ids.insert(ids.end(), part.tokens.begin(), part.tokens.end());
  const size_t n = ids.size();
  const auto top_k = static_cast<size_t>(config_.msa.top_k_docs);
  const size_t route_count = std::max(options.route_count, top_k);
  const auto kv_dim = static_cast<size_t>(config_.kv_dim());
  const int end = options.routing_only ? config_.msa.routing_layers.back() + 1 : config_.n_layers;

  Context context;
  context.position = prefix_.n_tokens + top_k;
  MSADB_RETURN_IF_ERROR(states_.Reserve(n));
  MSADB_ASSIGN_OR_RETURN(
      const auto angles,
      backend_.LoadAngles(GlobalPositions(context.position, n).values,
                          static_cast<size_t>(config_.head_dim), config_.rope_theta));
  context.position += n;
  MSADB_RETURN_IF_ERROR(states_.Embed(ids));
  ContentBlocks memory;
  for (int layer = 0; layer < end; ++layer) {
    MSADB_RETURN_IF_ERROR(CheckLimits(limits));
    MSADB_RETURN_IF_ERROR(states_.Project(layer, n, *angles));

    const int r = config_.RoutingOrdinal(layer);
    memory.Clear();
    if (r >= 0) {
      auto start = Clock::now();
      MSADB_ASSIGN_OR_RETURN(std::vector<RoutedDocument> documents,
                             Route(layer, parts, bank, route_count));
      trace->routing_ms += MillisecondsSince(start);
      if (!options.routing_only || layer + 1 < end) {
        const std::vector<DocumentNumber> numbers =
            AscendingNumbers(std::span(documents).first(std::min(top_k, documents.size())));
        start = Clock::now();
        bank.Prefetch(numbers);
        if (!numbers.empty()) MSADB_RETURN_IF_ERROR(bank.Fetch(r, numbers, &memory));
        trace->fetch_ms += MillisecondsSince(start);
        const bool in_place = !memory.key_rows.empty();
        if (in_place ? memory.key_rows.size() != memory.n_rows ||
                           memory.value_rows.size() != memory.n_rows
                     : memory.keys.size() < memory.n_rows * kv_dim ||
                           memory.values.size() < memory.n_rows * kv_dim) {
          return Status::Internal("the memory handed over fewer rows than it announced");
        }
      }
      trace->layers.push_back({layer, std::move(documents)});
      if (options.routing_only && layer + 1 == end) return Context();
    }

    // [template prefix; memory; local tokens]
    const auto l = static_cast<size_t>(layer);
    const size_t memory_begin = prefix_.n_tokens;
    const size_t local_begin = memory_begin + memory.n_rows;
    context.layers.emplace_back();
    Context::Layer& assembled = context.layers.back();
    MSADB_RETURN_IF_ERROR(Reserve(local_begin + n + options.tokens_to_come, &assembled));
    const Tensor keys = assembled.keys->tensor();
    const Tensor values = assembled.values->tensor();
    MSADB_RETURN_IF_ERROR(backend_.CopyPair(prefix_.keys[l]->tensor(), keys,
                                            prefix_.values[l]->tensor(), values, prefix_.n_tokens,
                                            kv_dim));
    if (!memory.key_rows.empty()) {
      MSADB_RETURN_IF_ERROR(backend_.UploadRows(memory.key_rows, keys.At(memory_begin),
                                                memory.value_rows, values.At(memory_begin),
                                                kv_dim));
    } else {
      MSADB_RETURN_IF_ERROR(
          backend_.Upload(memory.keys.data(), keys.At(memory_begin), memory.n_rows, kv_dim));
      MSADB_RETURN_IF_ERROR(
          backend_.Upload(memory.values.data(), values.At(memory_begin), memory.n_rows, kv_dim));
    }
    MSADB_RETURN_IF_ERROR(backend_.CopyPair(states_.k(), keys.At(local_begin), states_.v(),
                                            values.At(local_begin), n, kv_dim));
    assembled.rows = local_begin + n;
    MSADB_RETURN_IF_ERROR(Finish(layer, n, assembled));
    // The next layer's Fetch reuses `memory`, which uploads may still be reading.
    if (memory.n_rows > 0) MSADB_RETURN_IF_ERROR(backend_.Synchronize());
  }
  MSADB_RETURN_IF_ERROR(states_.Logits(n - 1, &context.logits));
  return context;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while reading the question");
}

Status Generator::Append(std::span<const int32_t> tokens, const CallLimits& limits,
                         Context* context) try {
  const size_t n = tokens.size();
  const auto kv_dim = static_cast<size_t>(config_.kv_dim());
  MSADB_RETURN_IF_ERROR(states_.Reserve(n));
  MSADB_ASSIGN_OR_RETURN(
      const auto angles,
      backend_.LoadAngles(GlobalPositions(context->position, n).values,
                          static_cast<size_t>(config_.head_dim), config_.rope_theta));
  MSADB_RETURN_IF_ERROR(states_.Embed(tokens));
  for (int layer = 0; layer < config_.n_layers; ++layer) {
    MSADB_RETURN_IF_ERROR(CheckLimits(limits));
    Context::Layer& assembled = context->layers[static_cast<size_t>(layer)];
    MSADB_RETURN_IF_ERROR(states_.Project(layer, n, *angles));
    MSADB_RETURN_IF_ERROR(Reserve(assembled.rows + n, &assembled));
    MSADB_RETURN_IF_ERROR(
        backend_.CopyPair(states_.k(), assembled.keys->tensor().At(assembled.rows), states_.v(),
                          assembled.values->tensor().At(assembled.rows), n, kv_dim));
    assembled.rows += n;
    MSADB_RETURN_IF_ERROR(Finish(layer, n, assembled));
  }
  context->position += n;
  return states_.Logits(n - 1, &context->logits);
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while generating");
}

Status Generator::MakeRoom(Context* context) try {
  for (Context::Layer& layer : context->layers) {
    MSADB_RETURN_IF_ERROR(Reserve(layer.rows + 1, &layer));
  }
  return Status::Ok();
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while generating");
}

Status Generator::Step(std::span<const Next> sequences) try {
  const size_t n = sequences.size();
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;
  std::vector<std::vector<float>*> logits;
  for (const Next& next : sequences) {
    tokens.push_back(next.token);
    positions.push_back(static_cast<int32_t>(next.context->position));
    logits.push_back(&next.context->logits);
  }
  MSADB_RETURN_IF_ERROR(states_.Reserve(n));
  MSADB_ASSIGN_OR_RETURN(
      const auto angles,
      backend_.LoadAngles(positions, static_cast<size_t>(config_.head_dim), config_.rope_theta));
  if (n == 1) {
    std::vector<kernels::OwnKeys> keys;
    for (Context::Layer& own : sequences[0].context->layers) {
      keys.push_back({own.keys->tensor(), own.values->tensor(), own.rows + 1});
    }
    MSADB_ASSIGN_OR_RETURN(const bool done, states_.Step(tokens[0], keys, *angles, logits[0]));
    if (done) {
      for (Context::Layer& own : sequences[0].context->layers) ++own.rows;
      ++sequences[0].context->position;
      return Status::Ok();
    }
  }
  MSADB_RETURN_IF_ERROR(states_.Embed(tokens));
  std::vector<kernels::OwnKeys> keys(n);
  for (int layer = 0; layer < config_.n_layers; ++layer) {
    for (size_t i = 0; i < n; ++i) {
      Context::Layer& own = sequences[i].context->layers[static_cast<size_t>(layer)];
      keys[i] = {own.keys->tensor(), own.values->tensor(), ++own.rows};
    }
    MSADB_RETURN_IF_ERROR(states_.AttendEach(layer, keys, *angles));
    MSADB_RETURN_IF_ERROR(states_.Mlp(layer, 0, n));
  }
  for (const Next& next : sequences) ++next.context->position;
  return states_.LogitsEach(logits);
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while generating");
}

void Generator::TakeBack(size_t tokens, Context* context) {
  for (Context::Layer& layer : context->layers) layer.rows -= tokens;
  context->position -= tokens;
}

Result<std::vector<RoutedDocument>> Generator::Route(int layer, std::span<const PromptPart> parts,
                                                     MemoryBank& bank, size_t count) {
  size_t n_queries = 0;
  for (const PromptPart& part : parts) {
    if (part.role == TokenRole::kQuery) n_queries += part.tokens.size();
  }
  if (n_queries == 0 || bank.document_count() == 0) return std::vector<RoutedDocument>();

  const auto q_dim = static_cast<size_t>(config_.q_dim());
  const auto kv_dim = static_cast<size_t>(config_.kv_dim());
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  std::unique_ptr<kernels::Activations> router_q;  // [queries, H D]
  if (w.router_q) {
    MSADB_ASSIGN_OR_RETURN(router_q, backend_.Allocate(n_queries, q_dim));
  }

  std::vector<float> folded(n_queries * kv_dim);  // [queries, G D]
  const Drain drain(&backend_);
  size_t token = 0;
  size_t query = 0;
  for (const PromptPart& part : parts) {
    const size_t n = part.tokens.size();
    if (part.role == TokenRole::kQuery && n != 0) {
      Tensor q = states_.q().At(token);
      if (router_q) {
        q = router_q->tensor().At(query);
        MSADB_RETURN_IF_ERROR(
            backend_.Matmul(states_.normed().At(token), n, *w.router_q, q, false));
      }
      MSADB_RETURN_IF_ERROR(backend_.RouterFold(
          q, n, static_cast<size_t>(config_.n_heads), static_cast<size_t>(config_.n_kv_heads),
          static_cast<size_t>(config_.head_dim),
          config_.msa.routing_metric == RoutingMetric::kCosine, folded.data() + query * kv_dim));
      query += n;
    }
    token += n;
  }
  MSADB_RETURN_IF_ERROR(backend_.Synchronize());
  return bank.Route(config_.RoutingOrdinal(layer), {folded.data(), n_queries, kv_dim, count});
}

Status Generator::Reserve(size_t rows, Context::Layer* layer) {
  if (layer->keys && layer->keys->rows() >= rows) return Status::Ok();
  const auto kv_dim = static_cast<size_t>(config_.kv_dim());
  const size_t capacity = layer->keys ? std::max(rows, 2 * layer->keys->rows()) : rows;
  MSADB_ASSIGN_OR_RETURN(auto keys, backend_.Allocate(capacity, kv_dim));
  MSADB_ASSIGN_OR_RETURN(auto values, backend_.Allocate(capacity, kv_dim));
  if (layer->keys) {
    MSADB_RETURN_IF_ERROR(
        backend_.CopyRows(layer->keys->tensor(), keys->tensor(), layer->rows, kv_dim));
    MSADB_RETURN_IF_ERROR(
        backend_.CopyRows(layer->values->tensor(), values->tensor(), layer->rows, kv_dim));
    MSADB_RETURN_IF_ERROR(backend_.Synchronize());
  }
  layer->keys = std::move(keys);
  layer->values = std::move(values);
  return Status::Ok();
}

Status Generator::Finish(int layer, size_t tokens, const Context::Layer& context) {
  const size_t first = layer + 1 == config_.n_layers ? tokens - 1 : 0;
  const size_t before = context.rows - tokens;
  const AttentionSegment segment{first, tokens - first, 0, before + first};
  MSADB_RETURN_IF_ERROR(states_.Attend(layer, first, tokens - first, context.keys->tensor(),
                                       context.values->tensor(), {&segment, 1}));
  return states_.Mlp(layer, first, tokens - first);
}

std::vector<RoutedDocument> FuseLayers(std::span<const LayerTrace> layers,
                                       std::span<const LayerTrace> before, float share) {
  // Each document starts from the sum of all lists' last scores and gains, in each list that holds
  // it, its lead over that list's last. What `before` says counts `share` times, as a loss.
  double unseen = 0;
  std::map<DocumentNumber, double> gains;
  for (const LayerTrace& layer : layers) {
    if (layer.documents.empty()) continue;
    const float last = layer.documents.back().score;
    unseen += last;
    for (const RoutedDocument& document : layer.documents) {
      gains[document.number] += static_cast<double>(document.score) - last;
    }
  }
  const double weight =
      before.empty() ? 0 : static_cast<double>(share * layers.size()) / before.size();
  for (const LayerTrace& layer : before) {
    if (weight == 0 || layer.documents.empty()) continue;
    const float last = layer.documents.back().score;
    unseen -= weight * last;
    for (const RoutedDocument& document : layer.documents) {
      const auto it = gains.find(document.number);
      if (it == gains.end()) continue;
      it->second -= weight * (static_cast<double>(document.score) - last);
    }
  }
  std::vector<RoutedDocument> fused;
  for (const auto& [number, gain] : gains) {
    const double mean = (unseen + gain) / static_cast<double>(layers.size());
    fused.push_back({number, static_cast<float>(mean)});
  }
  std::stable_sort(fused.begin(), fused.end(),
                   [](const auto& a, const auto& b) { return a.score > b.score; });
  return fused;
}

}  // namespace msadb::model
