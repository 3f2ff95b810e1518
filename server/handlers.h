// The functions that routes.cc names.
#ifndef MSADB_SERVER_HANDLERS_H_
#define MSADB_SERVER_HANDLERS_H_

#include "server/http_service.h"

namespace msadb::server {

using CallPtr = std::shared_ptr<Call>;
using ExchangePtr = std::shared_ptr<Exchange>;
using HandlerResult = Result<std::optional<HttpReply>>;
using HandlerFunction = HandlerResult(HttpService& service, const CallPtr& call,
                                      const ExchangePtr& exchange);

// rest_handlers.cc
HandlerFunction GetConsole, GetOpenApi, GetHealth, GetReady, GetMetrics, GetStats;
HandlerFunction ListCollections, CreateCollection, GetCollection, DropCollection;
HandlerFunction ListDocuments, InsertDocument, UpsertDocument, InsertDocuments, DeleteDocuments;
HandlerFunction GetDocument, DeleteDocument, GetDocumentByKey, DeleteDocumentByKey;
HandlerFunction ApplyTransaction;

// question_handlers.cc
HandlerFunction Search, Ask;

// openai_handlers.cc
HandlerFunction ListModels, GetModel, CompleteChat;

// mcp_handler.cc
HandlerFunction HandleMcp;

HttpReply JsonReply(const Json& json, unsigned status = 200);
// The names of the collections that the call's token may read.
Result<std::vector<std::string>> VisibleCollections(HttpService& service, const Call& call);
// Ends the question with the call: at its deadline, or when its client is gone.
void BoundByCall(const Call& call, AskOptions* options);

}  // namespace msadb::server

#endif  // MSADB_SERVER_HANDLERS_H_
