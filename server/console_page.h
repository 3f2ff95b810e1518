// The console: one HTML page, server/console/index.html, compiled into the program.
#ifndef MSADB_SERVER_CONSOLE_PAGE_H_
#define MSADB_SERVER_CONSOLE_PAGE_H_

#include <string>
#include <string_view>

namespace msadb::server {

extern const std::string_view kConsolePage;

// The Content-Security-Policy that allows the page's own script and style, by their hashes, calls
// to its own server, and nothing else.
const std::string& ConsoleSecurityPolicy();

}  // namespace msadb::server

#endif  // MSADB_SERVER_CONSOLE_PAGE_H_
