#include "workload.h"

#include <algorithm>
#include <random>
#include <set>
#include <utility>

#include "../storage/testing.h"

namespace msadb::storage {
namespace {

constexpr size_t kCollectionsMax = 3;
constexpr size_t kDocumentsMax = 25;  // in one collection

std::vector<MadePart> PartsOf(Number id, const ModelDocument& document) {
  std::vector<MadePart> parts;
  uint64_t offset = 0;
  for (uint32_t i = 0; i < document.parts; ++i) {
    MadePart part = MakePart(document.content + i, id, document.n_chunks);
    part.record.part_index = i;
    part.record.part_count = document.parts;
    part.record.text_offset = offset;
    offset += part.record.text.size();
    if (i == 0) {
      part.record.key = document.key;
      part.record.expires_us = document.expires_us;
      part.record.source = "workload";
      part.record.metadata["content"] = static_cast<int64_t>(document.content);
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

}  // namespace

std::string Comparison::ToString() const {
  std::string text;
  for (const std::string& w : wrong) text += "\n  wrong: " + w;
  for (const std::string& e : errors) text += "\n  error: " + e;
  return text;
}

Comparison Compare(const Store& store, const ModelState& state) {
  Comparison result;
  const auto note = [&](const std::string& what, const Status& status) {
    (status.code() == StatusCode::kNotFound ? result.wrong : result.errors)
        .push_back(what + ": " + status.ToString());
  };
  const auto listed = store.ListCollections();
  if (!listed.ok()) {
    note("list", listed.status());
    return result;
  }
  std::set<std::string> names;
  for (const CollectionInfo& info : *listed) names.insert(info.name);
  for (const std::string& name : names) {
    if (!state.contains(name)) result.wrong.push_back("collection " + name + " should not be");
  }
  size_t expiring = 0;
  for (const auto& [name, model] : state) {
    const auto info = store.FindCollection(name);
    if (!info.ok()) {
      result.wrong.push_back("collection " + name + " is missing");
      continue;
    }
    const std::string in = " in " + name;
    if (info->stats.documents != model.documents.size()) {
      result.wrong.push_back("document count" + in);
    }
    if (info->next_number != model.next_number) result.wrong.push_back("next number" + in);
    std::map<Number, MadePart> expected;
    for (const auto& [id, document] : model.documents) {
      for (MadePart& part : PartsOf(id, document)) {
        expected.emplace(id + part.record.part_index, std::move(part));
      }
      if (document.expires_us) ++expiring;
      if (!document.key) continue;
      const auto found = store.FindKey(info->id, *document.key);
      if (!found.ok()) {
        note("key " + *document.key + in, found.status());
      } else if (*found != id) {
        result.wrong.push_back("key " + *document.key + in);
      }
    }
    for (const auto& [number, part] : expected) {
      const std::string of = std::to_string(number) + in;
      const auto record = store.ReadPart(info->id, number);
      if (!record.ok()) {
        note("record " + of, record.status());
      } else if (!(*record == part.record)) {
        result.wrong.push_back("record " + of);
      }
      const auto routing = RoutingOf(store, info->id, number);
      if (!routing.ok()) {
        note("routing " + of, routing.status());
      } else if (*routing != part.routing) {
        result.wrong.push_back("routing " + of);
      }
      const auto blocks = BlocksOf(store, info->id, number);
      if (!blocks.ok()) {
        note("blocks " + of, blocks.status());
      } else if (*blocks != part.blocks) {
        result.wrong.push_back("blocks " + of);
      }
    }
    // A scan is complete, or says that it is not.
    std::set<Number> seen, seen_routing;
    const Status parts = store.ScanParts(info->id, 0, UINT64_MAX, [&](Number n, PartRecord&& r) {
      const auto it = expected.find(n);
      if (it == expected.end() || !(it->second.record == r)) {
        result.wrong.push_back("scanned record " + std::to_string(n) + in);
      }
      seen.insert(n);
      return true;
    });
    const Status routing =
        store.ScanRouting(info->id, 0, UINT64_MAX, [&](Number n, const TensorView& t) {
          const auto it = expected.find(n);
          if (it == expected.end() ||
              it->second.routing !=
                  std::string_view(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size())) {
            result.wrong.push_back("scanned routing " + std::to_string(n) + in);
          }
          seen_routing.insert(n);
          return true;
        });
    if (!parts.ok()) {
      note("scan" + in, parts);
    } else if (seen.size() != expected.size()) {
      result.wrong.push_back("a scan misses records" + in);
    }
    if (!routing.ok()) {
      note("routing scan" + in, routing);
    } else if (seen_routing.size() != expected.size()) {
      result.wrong.push_back("a scan misses routing keys" + in);
    }
  }
  const auto expired = store.FindExpired(INT64_MAX, 10'000);
  if (!expired.ok()) {
    note("expired", expired.status());
  } else if (expired->size() != expiring) {
    result.wrong.push_back("expiry entries: " + std::to_string(expired->size()) + ", not " +
                           std::to_string(expiring));
  }
  return result;
}

Workload::Plan Workload::MakePlan() const {
  std::mt19937_64 rng(seed_ * 1'000'003 + steps_);
  for (int warm_up = 0; warm_up < 4; ++warm_up) rng();
  Plan plan;
  plan.after = state_;
  const uint64_t dice = rng() % 100;
  if (state_.empty() || (dice < 4 && state_.size() < kCollectionsMax)) {
    plan.kind = Plan::kCreate;
    plan.collection = "collection " + std::to_string(steps_);
    plan.after[plan.collection];
    return plan;
  }
  auto target = plan.after.begin();
  std::advance(target, rng() % plan.after.size());
  plan.collection = target->first;
  ModelCollection& collection = target->second;
  if (dice < 7 && state_.size() > 1) {
    plan.kind = Plan::kDrop;
    plan.after.erase(target);
    return plan;
  }
  if (dice < 14) {
    plan.kind = dice < 11 ? Plan::kPurge : Plan::kVerify;
    return plan;
  }
  const auto remove = [&](Number id) {
    plan.deletes.push_back(id);
    collection.documents.erase(id);
  };
  const auto remove_some = [&](size_t count) {
    while (count-- > 0 && !collection.documents.empty()) {
      auto it = collection.documents.begin();
      std::advance(it, rng() % collection.documents.size());
      remove(it->first);
    }
  };
  if (collection.documents.size() > kDocumentsMax) {
    remove_some(10);
  } else if (dice < 30 && !collection.documents.empty()) {
    remove_some(1 + rng() % 2);
    if (rng() % 2 == 0) return plan;
  }
  const size_t count = 1 + rng() % 3;
  for (size_t i = 0; i < count; ++i) {
    ModelDocument document;
    document.content = rng() >> 1;
    document.parts = rng() % 4 == 0 ? 2 + rng() % 2 : 1;
    // Up to 90 chunks of 64 bytes: some below, some above the size that goes to blob files.
    document.n_chunks = 1 + rng() % (rng() % 2 == 0 ? 4 : 90);
    if (rng() % 2 == 0) {
      document.key = "key " + std::to_string(rng() % 10);
      const auto taken =
          std::find_if(collection.documents.begin(), collection.documents.end(),
                       [&](const auto& entry) { return entry.second.key == document.key; });
      if (taken != collection.documents.end()) {
        // Replaced, unless it came in this very commit.
        const bool new_here = std::any_of(plan.inserts.begin(), plan.inserts.end(),
                                          [&](const auto& p) { return p.first == taken->first; });
        if (new_here) {
          document.key.reset();
        } else {
          remove(taken->first);
        }
      }
    }
    if (rng() % 3 == 0) document.expires_us = static_cast<int64_t>(rng() % 1000);
    const Number id = collection.next_number;
    collection.next_number += document.parts;
    collection.documents[id] = document;
    plan.inserts.emplace_back(id, document);
  }
  return plan;
}

Status Workload::Do(const Plan& plan, const ModelState& before, Store& store) {
  switch (plan.kind) {
    case Plan::kCreate:
      return store.CreateCollection(plan.collection).status();
    case Plan::kPurge: {
      const auto report = store.Purge();
      if (report.ok() && !report->complete()) return Status::Internal("incomplete purge");
      return report.status();
    }
    case Plan::kVerify: {
      const auto report = store.Verify();
      if (report.ok() && !report->ok()) return Status::Corruption(report->damages[0].what);
      return report.status();
    }
    case Plan::kDrop: {
      MSADB_ASSIGN_OR_RETURN(const CollectionInfo info, store.FindCollection(plan.collection));
      return store.DropCollection(info.id);
    }
    case Plan::kPut:
      break;
  }
  MSADB_ASSIGN_OR_RETURN(const CollectionInfo info, store.FindCollection(plan.collection));
  WriteSet set = store.NewWriteSet();
  for (const Number id : plan.deletes) {
    const uint32_t parts = before.at(plan.collection).documents.at(id).parts;
    for (Number n = id; n < id + parts; ++n) {
      MSADB_ASSIGN_OR_RETURN(const PartRecord record,
                             store.ReadPart(info.id, n, nullptr, PartFields::kNoText));
      MSADB_RETURN_IF_ERROR(set.DeletePart(info.id, n, record));
    }
  }
  for (const auto& [id, document] : plan.inserts) {
    MSADB_ASSIGN_OR_RETURN(const Number first, store.ReserveNumbers(info.id, document.parts));
    if (first != id) {
      return Status::Internal("reserved " + std::to_string(first) + ", not " + std::to_string(id));
    }
    for (const MadePart& part : PartsOf(id, document)) {
      MSADB_RETURN_IF_ERROR(Put(set, info.id, part));
    }
  }
  return store.Commit(std::move(set));
}

Status Workload::Step(Store& store) {
  Plan plan = MakePlan();
  MSADB_RETURN_IF_ERROR(Do(plan, state_, store));
  state_ = std::move(plan.after);
  ++steps_;
  return Status::Ok();
}

void Workload::Skip() {
  state_ = MakePlan().after;
  ++steps_;
}

bool Workload::Settle(const Store& store, std::string* differences) {
  const Comparison before = Compare(store, state_);
  if (before.exact()) return true;
  Plan plan = MakePlan();
  const Comparison after = Compare(store, plan.after);
  if (after.exact()) {
    state_ = std::move(plan.after);
    ++steps_;
    return true;
  }
  *differences = "against the state before step " + std::to_string(steps_) + ":" +
                 before.ToString() + "\nagainst the state after it:" + after.ToString();
  return false;
}

}  // namespace msadb::storage
