#include "model/model.h"

#include <algorithm>
#include <new>
#include <utility>

#include "model/encoder.h"
#include "model/engine.h"
#include "model/interleave.h"
#include "model/scheduler.h"
#include "model/words.h"

namespace msadb::model {
namespace {

constexpr size_t kDocumentTokensDefault = 2048;

class LoadedFolder : public Model {
 public:
  LoadedFolder(std::unique_ptr<Engine> engine, const ModelOptions& options)
      : engine_(std::move(engine)),
        config_(engine_->config),
        templates_(*engine_->templates),
        batch_tokens_(std::max<size_t>(options.encode_batch_tokens, 1)),
        scheduler_(engine_.get(), batch_tokens_) {
    size_t tokens_max = options.document_tokens_max;
    if (tokens_max == 0) tokens_max = static_cast<size_t>(config_.msa.document_tokens_max);
    if (tokens_max == 0) tokens_max = kDocumentTokensDefault;
    document_tokens_max_ =
        std::min(tokens_max, static_cast<size_t>(config_.max_position_embeddings));
  }

  const std::string& fingerprint() const override { return engine_->fingerprint; }
  const std::string& description() const override { return engine_->description; }
  size_t kv_dim() const override { return static_cast<size_t>(config_.kv_dim()); }
  size_t routing_layer_count() const override {
    return static_cast<size_t>(config_.n_routing_layers());
  }
  size_t chunk_tokens() const override {
    return static_cast<size_t>(config_.msa.pooling_kernel_size);
  }
  size_t top_k() const override { return static_cast<size_t>(config_.msa.top_k_docs); }
  size_t document_tokens_max() const override { return document_tokens_max_; }
  std::string_view routing_metric() const override {
    return RoutingMetricName(config_.msa.routing_metric);
  }
  bool wants_pinned_content() const override { return engine_->backend->reads_pinned_memory(); }

  Result<size_t> CountTokens(std::string_view text) const override {
    MSADB_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, engine_->tokenizer->Encode(text));
    return ids.size();
  }

  Result<size_t> CountDocumentTokens(const DocumentInput& document) const override {
    MSADB_ASSIGN_OR_RETURN(const DocumentTokens ids,
                           templates_.Document(document.number, document.text));
    return ids.size();
  }

  Result<std::vector<EncodedDocument>> EncodeDocuments(std::span<const DocumentInput> documents,
                                                       const CallLimits& limits) override try {
    std::vector<DocumentTokens> tokens;
    for (const DocumentInput& document : documents) {
      auto ids = Tokenize(document);
      if (!ids.ok()) {
        return ids.status().WithContext("document " + std::to_string(document.number));
      }
      tokens.push_back(std::move(*ids));
    }
    std::vector<EncodedDocument> encoded;
    // A pass per batch, so that a question need not wait for the whole load.
    for (std::span<const DocumentTokens> rest = tokens; !rest.empty();) {
      const auto next = rest.first(NextBatch(rest, batch_tokens_));
      MSADB_ASSIGN_OR_RETURN(std::vector<EncodedDocument> batch,
                             scheduler_.Encode({next.begin(), next.end()}, limits));
      std::move(batch.begin(), batch.end(), std::back_inserter(encoded));
      rest = rest.subspan(next.size());
    }
    return encoded;
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("out of memory while encoding documents");
  }

  Result<std::vector<RoutedDocument>> Search(std::string_view query, MemoryBank& bank, size_t count,
                                             const CallLimits& limits) override try {
    MSADB_RETURN_IF_ERROR(CheckQuestion(query, "query"));
    if (count == 0 || bank.document_count() == 0) return std::vector<RoutedDocument>();
    MSADB_ASSIGN_OR_RETURN(std::vector<int32_t> ids, templates_.Question(query));
    const size_t positions = engine_->prefix.n_tokens + top_k() + ids.size();
    if (positions > static_cast<size_t>(config_.max_position_embeddings)) {
      return Status::InvalidArgument("the query is too long: it takes " +
                                     std::to_string(positions) + " positions, the model has " +
                                     std::to_string(config_.max_position_embeddings));
    }
    const PromptPart part{TokenRole::kQuery, std::move(ids)};
    PrefillTrace trace;
    // Lists longer than asked for make it rare that a document counts by its absence.
    const PrefillOptions options{.route_count = std::max<size_t>(2 * count, 64),
                                 .routing_only = true};
    auto done = Scheduler::Sequence(&scheduler_).Prefill({&part, 1}, bank, options, limits, &trace);
    if (!done.ok()) return done.status();
    std::vector<RoutedDocument> ranked = FuseLayers(trace.layers);
    MSADB_RETURN_IF_ERROR(RankByWords(query, templates_.route_words(), bank, &ranked));
    ranked.resize(std::min(ranked.size(), count));
    return ranked;
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("out of memory while searching");
  }

  Result<AnswerResult> Answer(std::string_view question, MemoryBank& bank,
                              const AnswerOptions& options) override {
    MSADB_RETURN_IF_ERROR(CheckQuestion(question, "question"));
    return AnswerQuestion(question, bank, options, *engine_, &scheduler_);
  }

 private:
  Result<DocumentTokens> Tokenize(const DocumentInput& document) const {
    if (document.text.empty()) return Status::InvalidArgument("the text is empty");
    MSADB_ASSIGN_OR_RETURN(DocumentTokens ids, templates_.Document(document.number, document.text));
    if (ids.size() > document_tokens_max_) {
      return Status::InvalidArgument(
          "the text is too long: " + std::to_string(ids.size()) + " tokens, the limit is " +
          std::to_string(document_tokens_max_) + "; divide it into several documents");
    }
    return ids;
  }

  static Status CheckQuestion(std::string_view text, std::string_view what) {
    if (text.find_first_not_of(" \t\r\n") != std::string_view::npos) return Status::Ok();
    return Status::InvalidArgument("the " + std::string(what) + " is empty");
  }

  const std::unique_ptr<Engine> engine_;  // its states and generator: the scheduler's
  const ModelConfig& config_;
  const Templates& templates_;
  const size_t batch_tokens_;
  size_t document_tokens_max_ = 0;
  Scheduler scheduler_;
};

}  // namespace

Result<std::unique_ptr<Model>> Model::Load(const std::string& folder,
                                           const ModelOptions& options) try {
  MSADB_ASSIGN_OR_RETURN(auto engine, Engine::Load(folder, options));
  return std::unique_ptr<Model>(std::make_unique<LoadedFolder>(std::move(engine), options));
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while loading it").WithContext(folder);
}

}  // namespace msadb::model
