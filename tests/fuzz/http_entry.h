// A request of the HTTP port as a fuzz entry, from its address to its reply: REST, OpenAI's chat
// and MCP. Its first line is method and target ("POST /mcp"), the rest the body. Everything between
// the sockets and the database runs; the parser of HTTP itself does not.
#ifndef MSADB_TESTS_FUZZ_HTTP_ENTRY_H_
#define MSADB_TESTS_FUZZ_HTTP_ENTRY_H_

#include <string>
#include <string_view>
#include <vector>

namespace msadb::fuzz {

// Gives the status of the reply.
unsigned ServeHttp(std::string_view input);
void RunHttp(std::string_view input);
std::vector<std::string> HttpSeeds();

}  // namespace msadb::fuzz

#endif  // MSADB_TESTS_FUZZ_HTTP_ENTRY_H_
