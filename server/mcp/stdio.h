// MCP over standard input and output: one message a line, nothing else on the output.
#ifndef MSADB_SERVER_MCP_STDIO_H_
#define MSADB_SERVER_MCP_STDIO_H_

#include <cstddef>
#include <memory>

#include "server/mcp/session.h"

namespace msadb::mcp {

struct StdioOptions {
  size_t message_bytes_max = 4u << 20;  // of one line; longer ones are skipped and answered
  int workers = 4;                      // tool calls that run at one time
};

// Serves `session` from file descriptor `in` to `out` until `in` ends; then every call that was
// received is finished and answered. IOError when reading or writing fails, calls are then
// cancelled. Needs SIGPIPE ignored.
Status ServeStdio(const std::shared_ptr<Session>& session, int in, int out,
                  const StdioOptions& options = {});

}  // namespace msadb::mcp

#endif  // MSADB_SERVER_MCP_STDIO_H_
