#include "server/http_service.h"

#include <algorithm>
#include <cctype>
#include <exception>
#include <new>

#include "msadb/transfer.h"

namespace msadb::server {
namespace {

using Clock = std::chrono::steady_clock;

bool EqualIgnoringCase(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) ==
           std::tolower(static_cast<unsigned char>(y));
  });
}

// "localhost:8080" -> "localhost", "[::1]:8080" -> "::1".
std::string_view WithoutPort(std::string_view host) {
  if (host.starts_with('[')) {
    const size_t end = host.find(']');
    return end == std::string_view::npos ? std::string_view() : host.substr(1, end - 1);
  }
  return host.substr(0, host.find(':'));
}

bool IsLoopback(std::string_view address) {
  return address.starts_with("127.") || address == "::1";
}

std::string_view BearerToken(std::string_view authorization) {
  constexpr std::string_view kScheme = "Bearer ";
  if (authorization.size() < kScheme.size() ||
      !EqualIgnoringCase(authorization.substr(0, kScheme.size()), kScheme)) {
    return {};
  }
  return authorization.substr(kScheme.size());
}

bool IsJson(std::string_view content_type) {
  std::string_view type = content_type.substr(0, content_type.find(';'));
  while (type.ends_with(' ')) type.remove_suffix(1);
  return EqualIgnoringCase(type, "application/json");
}

const char* ErrorType(StatusCode code) {
  if (code == StatusCode::kPermissionDenied) return "permission_error";
  // A method or a field that is not there is the caller's mistake, though its HTTP status is 501.
  if (code == StatusCode::kUnsupported) return "invalid_request_error";
  return HttpStatusOf(code) >= 500 ? "server_error" : "invalid_request_error";
}

Principal Anyone() { return Principal("anyone", {{std::string(kEveryCollection), Right::kAdmin}}); }

Lane LaneOf(Where where) { return where == Where::kModel ? Lane::kModel : Lane::kStorage; }

// Runs `work`; whatever it throws becomes a Status.
HttpService::Work Guarded(HttpService::Work work) {
  return [work = std::move(work)]() -> Result<std::optional<HttpReply>> {
    try {
      return work();
    } catch (const std::bad_alloc&) {
      return Status::ResourceExhausted("out of memory");
    } catch (const std::exception& error) {
      return Status::Internal(error.what());
    }
  };
}

void ReplyWith(Exchange& exchange, Result<std::optional<HttpReply>> result) {
  if (!result.ok()) {
    exchange.Reply(ErrorReply(result.status()));
  } else if (*result) {
    exchange.Reply(std::move(**result));
  }
}

}  // namespace

unsigned HttpStatusOf(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return 200;
    case StatusCode::kNotFound:
      return 404;
    case StatusCode::kInvalidArgument:
      return 400;
    case StatusCode::kAlreadyExists:
    case StatusCode::kConflict:
      return 409;
    case StatusCode::kResourceExhausted:
      return 507;
    case StatusCode::kUnavailable:
      return 503;
    case StatusCode::kCancelled:
      return 499;
    case StatusCode::kDeadlineExceeded:
      return 504;
    case StatusCode::kUnsupported:
      return 501;
    case StatusCode::kFailedPrecondition:
      return 412;
    case StatusCode::kPermissionDenied:
      return 403;
    case StatusCode::kCorruption:
    case StatusCode::kIOError:
    case StatusCode::kInternal:
      return 500;
  }
  return 500;
}

HttpReply ErrorReply(const Status& status) {
  Json json = ErrorToJson(status);
  json["error"]["type"] = ErrorType(status.code());
  HttpReply reply{.status = HttpStatusOf(status.code()), .body = Dump(json), .fields = {}};
  if (reply.status == 503) reply.fields.emplace_back("Retry-After", "1");
  return reply;
}

HttpReply UnauthorizedReply() {
  HttpReply reply =
      ErrorReply(Status::PermissionDenied("no valid token; send \"Authorization: Bearer TOKEN\""));
  reply.status = 401;
  reply.fields.emplace_back("WWW-Authenticate", "Bearer");
  return reply;
}

HttpService::HttpService(std::shared_ptr<Database> database, TokenStore* tokens,
                         Admission* admission, HttpServiceOptions options)
    : database_(std::move(database)),
      tokens_(tokens),
      admission_(admission),
      options_(std::move(options)),
      anyone_(tokens == nullptr ? std::make_shared<const Principal>(Anyone()) : nullptr) {}

Status HttpService::CheckHostAndOrigin(const RequestHead& head) const {
  const std::string_view name = WithoutPort(head.host);
  bool known = name == head.local_address ||
               (IsLoopback(head.local_address) && EqualIgnoringCase(name, "localhost"));
  for (const std::string& allowed : options_.hosts) {
    known = known || EqualIgnoringCase(name, allowed);
  }
  // A page of a foreign site whose name was pointed at this address sends that name.
  if (!known) {
    return Status::PermissionDenied(
        "the server does not go by this name; start it with --allow-host NAME");
  }
  const std::string own_origin = (head.secure ? "https://" : "http://") + head.host;
  if (!head.origin.empty() && !EqualIgnoringCase(head.origin, own_origin)) {
    return Status::PermissionDenied("calls from pages of other sites are refused");
  }
  return Status::Ok();
}

std::variant<std::shared_ptr<Call>, HttpReply> HttpService::Admit(const RequestHead& head) {
  if (Status status = CheckHostAndOrigin(head); !status.ok()) return ErrorReply(status);
  const std::string_view target = head.target;
  const size_t question_mark = std::min(target.find('?'), target.size());

  // Whoever has no token learns nothing of which addresses exist.
  const std::string_view path = target.substr(0, question_mark);
  auto match = MatchRoute(head.method, path);
  const bool is_public = match.ok() && match->route->scope == Scope::kPublic;
  std::shared_ptr<const Principal> principal = anyone_;
  if (!is_public && tokens_ != nullptr) {
    auto known = tokens_->Authenticate(BearerToken(head.authorization));
    if (!known.ok()) {
      ++metrics_.tokens_refused;
      return UnauthorizedReply();
    }
    principal = std::move(*known);
  }
  if (!match.ok()) {
    HttpReply reply = ErrorReply(match.status());
    if (match.status().code() == StatusCode::kUnsupported) {
      reply.status = 405;
      reply.fields.emplace_back("Allow", MethodsOf(path));
    }
    return reply;
  }

  const Route& route = *match->route;
  Status allowed;
  if (route.scope == Scope::kCollection) {
    allowed = principal->CheckCollection(match->path.at("collection"), route.right);
  } else if (route.scope == Scope::kServer) {
    allowed = principal->CheckServer(route.right);
  }
  if (!allowed.ok()) return ErrorReply(allowed);

  auto query = ParseQuery(target.substr(std::min(question_mark + 1, target.size())), route.query);
  if (!query.ok()) return ErrorReply(query.status());
  if (route.body_bytes_max == 0) {
    if (head.chunked || head.content_length.value_or(0) > 0) {
      return ErrorReply(Status::InvalidArgument("this call takes no body"));
    }
  } else {
    if (!IsJson(head.content_type)) {
      HttpReply reply =
          ErrorReply(Status::InvalidArgument("the body must be sent as application/json"));
      reply.status = 415;
      return reply;
    }
    if (head.content_length.value_or(0) > route.body_bytes_max) {
      HttpReply reply = ErrorReply(Status::InvalidArgument(
          "the body is longer than " + std::to_string(route.body_bytes_max) + " bytes"));
      reply.status = 413;
      return reply;
    }
  }
  auto call = std::make_shared<Call>();
  call->route = &route;
  call->path = std::move(match->path);
  call->query = std::move(*query);
  call->principal = std::move(principal);
  call->arrived = Clock::now();
  call->deadline = call->arrived + options_.call_time_max;
  return call;
}

void HttpService::Serve(std::shared_ptr<Call> call, std::shared_ptr<Exchange> exchange) {
  const Route& route = *call->route;
  const Work work = [this, call, exchange] { return call->route->handler(*this, call, exchange); };
  if (route.where == Where::kInline) {
    ReplyWith(*exchange, Guarded(work)());
    return;
  }
  const auto collection = call->path.find("collection");
  Run(call, exchange, collection == call->path.end() ? "" : collection->second, LaneOf(route.where),
      work);
}

void HttpService::Run(std::shared_ptr<Call> call, std::shared_ptr<Exchange> exchange,
                      const std::string& collection, Lane lane, Work work) {
  Status submitted = admission_->Submit(
      {.collection = collection,
       .lane = lane,
       .deadline = call->deadline,
       .stop = call->stop,
       .run = [exchange, work = Guarded(std::move(work))](const Status& admitted) {
         ReplyWith(*exchange, admitted.ok() ? work() : Result<std::optional<HttpReply>>(admitted));
       }});
  if (!submitted.ok()) exchange->Reply(ErrorReply(submitted));
}

bool HttpService::TakeBodyBytes(size_t bytes) {
  if (body_bytes_.fetch_add(bytes) + bytes <= options_.body_bytes_in_flight_max) return true;
  body_bytes_ -= bytes;
  return false;
}

void HttpService::GiveBackBodyBytes(size_t bytes) { body_bytes_ -= bytes; }

void HttpService::Finished(const RequestOutcome& outcome) {
  const std::string_view name = outcome.route == nullptr ? "none" : outcome.route->name;
  metrics_.CountRequest(name, outcome.status, outcome.took);
  metrics_.CountBytes(outcome.body_bytes, outcome.reply_bytes);
  if (!options_.log) return;
  const auto now =
      std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
  // The route, not the path: names of collections and keys of documents are the caller's affair.
  options_.log(Dump({{"time", FormatTime(now)},
                     {"event", "request"},
                     {"route", name},
                     {"status", outcome.status},
                     {"ms", std::chrono::duration<double, std::milli>(outcome.took).count()},
                     {"bytes_in", outcome.body_bytes},
                     {"bytes_out", outcome.reply_bytes},
                     {"token", outcome.principal},
                     {"remote", outcome.remote_address}}));
}

}  // namespace msadb::server
