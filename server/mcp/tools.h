// The tools that a model can call: remember, recall, ask, forget, list.
#ifndef MSADB_SERVER_MCP_TOOLS_H_
#define MSADB_SERVER_MCP_TOOLS_H_

#include <chrono>
#include <nlohmann/json.hpp>
#include <span>
#include <stop_token>
#include <string_view>

#include "msadb/database.h"
#include "server/mcp/session.h"

namespace msadb::mcp {

using Json = nlohmann::ordered_json;

struct ToolCall {
  const CollectionProvider* memory;
  const Json* arguments;  // an object
  std::stop_token stop;
  std::chrono::milliseconds ask_timeout;
  std::string_view written_by;
};

struct Tool {
  std::string_view name;
  Access access;
  // As tools/list gives it: name, title, description, inputSchema, outputSchema, annotations.
  Json (*describe)();
  // The structured result, an object that fits outputSchema. InvalidArgument: wrong arguments.
  Result<Json> (*run)(const ToolCall& call);
};

std::span<const Tool> Tools();
const Tool* FindTool(std::string_view name);  // null: there is none

}  // namespace msadb::mcp

#endif  // MSADB_SERVER_MCP_TOOLS_H_
