// POST /mcp: the Model Context Protocol over HTTP, without sessions: every message stands alone.
#include "server/handlers.h"
#include "server/mcp/session.h"

namespace msadb::server {
namespace {

HttpReply Reply(std::optional<std::string> message) {
  // A notification is not answered.
  if (!message) return {.status = 202, .body = {}, .fields = {}};
  return {.body = std::move(*message), .fields = {}};
}

}  // namespace

HandlerResult HandleMcp(HttpService& service, const CallPtr& call, const ExchangePtr& exchange) {
  const auto found = call->query.find("collection");
  const std::string name = found == call->query.end() ? "default" : found->second;
  MSADB_RETURN_IF_ERROR(call->principal->CheckCollection(name, Right::kRead));
  mcp::SessionOptions options;
  options.read_only = !call->principal->CheckCollection(name, Right::kWrite).ok();
  options.written_by = call->principal->name();
  const auto memory =
      [&service, call, name](mcp::Access access) -> Result<std::shared_ptr<Collection>> {
    const Right needed = access == mcp::Access::kWrite ? Right::kWrite : Right::kRead;
    MSADB_RETURN_IF_ERROR(call->principal->CheckCollection(name, needed));
    // Making a collection is for those who may also drop it.
    if (access == mcp::Access::kWrite &&
        call->principal->CheckCollection(name, Right::kAdmin).ok()) {
      return service.database().GetOrCreateCollection(name);
    }
    return service.database().OpenCollection(name);
  };
  const auto session = mcp::Session::Make(options, memory);
  mcp::Reaction reaction = session->Receive(call->body, call->stop.get_token());
  if (!reaction.work) return std::optional(Reply(std::move(reaction.reply)));
  service.Run(call, exchange, name, Lane::kModel,
              [work = std::move(reaction.work), session]() -> HandlerResult {
                return std::optional(Reply(work()));
              });
  return std::optional<HttpReply>();
}

}  // namespace msadb::server
