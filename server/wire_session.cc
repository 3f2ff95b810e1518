#include "server/wire_session.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "msadb/transfer.h"
#include "server/json_forms.h"

namespace msadb::server {
namespace {

namespace asio = boost::asio;
namespace fb = wire::fb;
using wire::ErrorCode;

constexpr size_t kReadBytes = 16u << 10;
constexpr size_t kWriteBytes = 256u << 10;
// Requests smaller than this are not counted: connections_max bounds them.
constexpr size_t kReservedFrom = 64u << 10;
constexpr size_t kFrameBytesPerSecond = 64u << 10;
// How long a connection is kept after its last message, for the other side to read it.
constexpr std::chrono::seconds kLinger{2};
constexpr std::chrono::seconds kIdleNotice{5};
constexpr uint64_t kTimeoutMsMax = 24ull * 3600 * 1000;
constexpr size_t kClientNameBytesMax = 100;  // of what a client calls itself, in the log
constexpr char kNoRoute[] = "none";
constexpr char kHelloRoute[] = "Hello";
constexpr char kCut[] = "cut";  // instead of a status: the connection ended first

}  // namespace

std::optional<Reservation> Reservation::Take(const WireContextPtr& context, size_t bytes) {
  if (context->request_bytes.fetch_add(bytes) + bytes > context->options.request_bytes_max) {
    context->request_bytes.fetch_sub(bytes);
    return std::nullopt;
  }
  Reservation reservation;
  reservation.context_ = context;
  reservation.bytes_ = bytes;
  return reservation;
}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Reservation::~Reservation() {
  if (context_ != nullptr) context_->request_bytes.fetch_sub(bytes_);
}

WireSession::WireSession(WireContextPtr context, std::shared_ptr<wire::Stream> stream)
    : context_(std::move(context)),
      stream_(std::move(stream)),
      executor_(stream_->socket().get_executor()),
      timer_(executor_),
      read_buffer_(kReadBytes),
      hello_deadline_(Clock::now() + context_->options.hello_timeout),
      idle_since_(Clock::now()) {
  ErrorCode error;
  const auto remote = stream_->socket().remote_endpoint(error);
  if (!error) remote_address_ = remote.address().to_string();
}

WireSession::~WireSession() = default;

void WireSession::PostStart() {
  asio::post(executor_, [self = shared_from_this()] { self->Start(); });
}

void WireSession::Start() {
  Rearm();
  stream_->Handshake([self = shared_from_this()](const ErrorCode& error) {
    if (self->phase_ == Phase::kClosed) return;
    if (error) return self->CutOnStrand(true);
    self->Read();
  });
}

// ---- Receiving

// Whoever sends without reading is answered with errors at the latest, so what waits for it would
// grow as long as it is read.
void WireSession::Read() {
  if (reading_ || phase_ == Phase::kClosed) return;
  if (BackedUp()) {
    held_ = true;
    return;
  }
  // A frame's time does not run while nobody takes it.
  if (std::exchange(held_, false) && frame_began_) frame_began_ = Clock::now();
  reading_ = true;
  stream_->Read(asio::buffer(read_buffer_),
                [self = shared_from_this()](const ErrorCode& error, size_t n) {
                  self->reading_ = false;
                  if (self->phase_ == Phase::kClosed) return;
                  if (error) return self->CutOnStrand(false);
                  self->Take({self->read_buffer_.data(), n});
                });
}

void WireSession::Take(std::span<const uint8_t> bytes) {
  try {
    if (phase_ == Phase::kPreface) {
      const Status status = TakePreface(&bytes);
      if (!status.ok()) return CutOnStrand(true);
    }
    while (!bytes.empty() && (phase_ == Phase::kHello || phase_ == Phase::kOpen)) {
      wire::Frame frame;
      const auto complete = reader_.Next(&bytes, &frame);
      if (!complete.ok()) {
        CloseWith(complete.status());
        break;
      }
      if (!*complete) break;
      frame_began_.reset();
      TakeFrame(std::move(frame));
    }
  } catch (const std::exception&) {
    // Out of memory in the middle of a frame: the rest of it means nothing any more.
    return CutOnStrand(true);
  }
  if (phase_ == Phase::kClosed) return;
  if (reader_.in_frame() && !frame_began_) frame_began_ = Clock::now();
  Read();
  Rearm();
}

Status WireSession::TakePreface(std::span<const uint8_t>* bytes) {
  const size_t n = std::min(bytes->size(), preface_.size() - preface_filled_);
  std::copy_n(bytes->begin(), n, preface_.begin() + static_cast<ptrdiff_t>(preface_filled_));
  preface_filled_ += n;
  *bytes = bytes->subspan(n);
  if (preface_filled_ < preface_.size()) return Status::Ok();
  MSADB_ASSIGN_OR_RETURN(const uint16_t version, wire::ParsePreface(preface_));
  if (version != wire::kProtocolVersion) {
    context_->hellos_refused.fetch_add(1);
    CloseWith(Status::Unsupported("the client speaks version " + std::to_string(version) +
                                  " of the protocol, this server version " +
                                  std::to_string(wire::kProtocolVersion)));
    return Status::Ok();
  }
  phase_ = Phase::kHello;
  return Status::Ok();
}

void WireSession::TakeFrame(wire::Frame frame) {
  if (phase_ == Phase::kHello) return TakeHello(frame);
  if (frame.request == 0 || !frame.last) {
    return CloseWith(
        Status::InvalidArgument("a request has number 0 or is not marked as its own last message"));
  }
  TakeRequest(std::move(frame));
}

void WireSession::TakeHello(const wire::Frame& frame) {
  const auto message = wire::VerifyRequest(frame.payload);
  const fb::Hello* hello = message.ok() ? (*message)->body_as_Hello() : nullptr;
  if (hello == nullptr) {
    context_->hellos_refused.fetch_add(1);
    return CloseWith(Status::InvalidArgument("the first message must be a Hello"));
  }
  if (hello->token() != nullptr) token_ = hello->token()->str();
  if (hello->client() != nullptr) {
    client_name_ = hello->client()->str().substr(0, kClientNameBytesMax);
  }
  if (context_->services.tokens == nullptr) {
    principal_ = std::make_shared<const Principal>(
        "anyone",
        std::map<std::string, Right, std::less<>>{{std::string(kEveryCollection), Right::kAdmin}});
  } else {
    auto principal = context_->services.tokens->Authenticate(token_);
    if (!principal.ok()) {
      context_->hellos_refused.fetch_add(1);
      return CloseWith(principal.status());
    }
    principal_ = std::move(*principal);
  }
  principal_checked_ = Clock::now();
  Log(kHelloRoute, StatusCodeName(StatusCode::kOk));
  phase_ = Phase::kOpen;
  idle_since_ = Clock::now();
  const WireServerOptions& options = context_->options;
  reader_.set_payload_bytes_max(options.frame_bytes_max);
  reader_.set_admit([this](const wire::FrameHeader& header) {
    if (header.payload_bytes < kReservedFrom) return true;
    auto reservation = Reservation::Take(context_, header.payload_bytes);
    if (!reservation) return false;
    frame_reservation_ = std::move(*reservation);
    return true;
  });
  wire::Builder b;
  const auto model = context_->services.database->model();
  const auto name = wire::EncodeText(&b, context_->services.name);
  const auto fingerprint = wire::EncodeText(&b, model->fingerprint());
  const auto description = wire::EncodeText(&b, model->description());
  const fb::Limits limits = wire::Encode(context_->services.limits);
  Enqueue(wire::EncodeFrame(
      0, true,
      wire::FinishReply(
          &b, fb::CreateWelcome(b, name, fingerprint, description, model->document_tokens_max(),
                                &limits, options.frame_bytes_max, options.requests_max,
                                options.handles_max,
                                static_cast<uint64_t>(options.handle_idle_timeout.count()),
                                static_cast<uint64_t>(options.idle_timeout.count())))));
}

// A token may be revoked while its connection lives.
bool WireSession::StillWelcome() {
  const auto now = Clock::now();
  if (context_->services.tokens == nullptr || now - principal_checked_ < std::chrono::seconds(1)) {
    return true;
  }
  auto principal = context_->services.tokens->Authenticate(token_);
  if (!principal.ok()) {
    CloseWith(principal.status());
    return false;
  }
  principal_ = std::move(*principal);
  principal_checked_ = now;
  return true;
}

void WireSession::TakeRequest(wire::Frame frame) {
  Reservation reservation = std::exchange(frame_reservation_, {});
  if (!StillWelcome()) return;
  const uint64_t number = frame.request;
  if (frame.refused) {
    return SendError(
        number, Status::Unavailable("the server has too many large requests at the moment; nothing "
                                    "was done, try again later"));
  }
  auto message = wire::VerifyRequest(frame.payload);
  if (message.ok() && (*message)->body_as_Cancel() != nullptr) {
    const auto found = active_.find(number);
    if (found != active_.end()) found->second->stop.request_stop();
    return;
  }
  if (active_.contains(number)) {
    return CloseWith(
        Status::InvalidArgument("request " + std::to_string(number) + " was begun twice"));
  }
  context_->requests.fetch_add(1);
  if (!message.ok()) return SendError(number, message.status());
  if (going_away_ && !idle_notice_) {
    return SendError(number, Status::Unavailable("the server is stopping; nothing was done"));
  }
  if (active_.size() >= context_->options.requests_max) {
    return SendError(number, Status::ResourceExhausted(
                                 "more than " + std::to_string(context_->options.requests_max) +
                                 " requests at a time on one connection; nothing was done"));
  }
  if (std::exchange(idle_notice_, false)) {
    going_away_ = false;
    closing_deadline_.reset();
  }
  auto request = std::make_shared<WireRequest>(context_);
  request->session = shared_from_this();
  request->principal = principal_;
  request->number = number;
  request->payload = std::move(frame.payload);
  request->message = *message;
  request->reservation = std::move(reservation);
  if (const uint64_t timeout_ms = (*message)->timeout_ms(); timeout_ms > 0) {
    request->deadline =
        Clock::now() + std::chrono::milliseconds(std::min(timeout_ms, kTimeoutMsMax));
  }
  active_[number] = request;
  active_count_.store(active_.size());
  context_->requests_active.fetch_add(1);
  if (!BackedUp()) return Submit(request);
  parked_.push_back([this, request] { Submit(request); });
}

void WireSession::Submit(const WireRequestPtr& request) {
  Job job;
  job.collection = CollectionOf(*request->message);
  job.lane = LaneOf(*request->message);
  job.deadline = request->deadline;
  job.stop = request->stop;
  job.run = [request](const Status& admitted) {
    WireSession& session = *request->session;
    if (!admitted.ok()) return session.SendError(request->number, admitted);
    // Others of this connection may have answered much while it waited for its turn.
    if (session.BackedUp()) {
      return session.WhenWritable([request] { request->session->Submit(request); });
    }
    HandleWireRequest(request);
  };
  const Status status = context_->services.admission->Submit(std::move(job));
  if (!status.ok()) SendError(request->number, status);
}

void WireSession::RequestEnded(uint64_t number, StatusCode code) {
  const auto found = active_.find(number);
  if (found == active_.end()) {
    // Refused before anything was done; or the connection is gone, and it was logged then.
    if (phase_ != Phase::kClosed) Log(kNoRoute, StatusCodeName(code));
    return;
  }
  Log(fb::EnumNameRequestBody(found->second->message->body_type()), StatusCodeName(code),
      found->second.get());
  active_.erase(found);
  active_count_.store(active_.size());
  context_->requests_active.fetch_sub(1);
  idle_since_ = Clock::now();
  if (going_away_ && active_.empty() && phase_ == Phase::kOpen) CloseAfterWrites();
  Rearm();
}

// ---- Sending

bool WireSession::Send(uint64_t number, bool last, const std::vector<uint8_t>& payload,
                       StatusCode code) {
  std::string bytes = wire::EncodeFrame(number, last, payload);
  const size_t waiting = out_bytes_.fetch_add(bytes.size()) + bytes.size();
  asio::post(executor_, [self = shared_from_this(), number, last, code, bytes = std::move(bytes),
                         waiting]() mutable {
    self->out_bytes_.fetch_sub(bytes.size());
    const auto request = self->active_.find(number);
    if (request != self->active_.end()) request->second->bytes_sent += bytes.size();
    if (self->phase_ != Phase::kClosed) {
      if (waiting > self->context_->options.reply_bytes_max) {
        self->CutOnStrand(true);
      } else if (self->phase_ == Phase::kOpen) {
        self->Enqueue(std::move(bytes));
      } else {
        self->Read();  // what was dropped may have held it back
      }
    }
    if (last) self->RequestEnded(number, code);
  });
  return open();
}

void WireSession::SendError(uint64_t number, const Status& status, uint64_t committed) {
  context_->request_errors.fetch_add(1);
  if (status.code() == StatusCode::kCancelled && stopping_requests_.load()) {
    const auto stopped = Status::Unavailable("the server is stopping; this was not finished");
    return void(Send(number, true, wire::ErrorReply(stopped, committed), stopped.code()));
  }
  Send(number, true, wire::ErrorReply(status, committed), status.code());
}

void WireSession::WhenWritable(std::function<void()> fn) {
  asio::post(executor_, [self = shared_from_this(), fn = std::move(fn)]() mutable {
    if (self->phase_ == Phase::kClosed) return;
    self->parked_.push_back(std::move(fn));
    self->RunParked();
  });
}

void WireSession::RunParked() {
  while (!parked_.empty() && phase_ != Phase::kClosed && !BackedUp()) {
    const std::function<void()> fn = std::move(parked_.front());
    parked_.pop_front();
    fn();
  }
}

void WireSession::Enqueue(std::string bytes) {
  out_bytes_.fetch_add(bytes.size());
  out_.push_back(std::move(bytes));
  Write();
}

void WireSession::Write() {
  if (writing_ || out_.empty() || phase_ == Phase::kClosed) return;
  writing_ = true;
  write_deadline_ = Clock::now() + context_->options.write_timeout;
  Rearm();
  const std::string& front = out_.front();
  const size_t n = std::min(kWriteBytes, front.size() - out_offset_);
  stream_->Write(asio::buffer(front.data() + out_offset_, n),
                 [self = shared_from_this(), n](const ErrorCode& error, size_t) {
                   self->writing_ = false;
                   self->write_deadline_.reset();
                   if (self->phase_ == Phase::kClosed) return;
                   if (error) return self->CutOnStrand(false);
                   self->out_bytes_.fetch_sub(n);
                   self->out_offset_ += n;
                   if (self->out_offset_ == self->out_.front().size()) {
                     self->out_.pop_front();
                     self->out_offset_ = 0;
                   }
                   self->idle_since_ = Clock::now();
                   self->Write();
                   self->RunParked();
                   self->Read();
                   if (self->phase_ == Phase::kClosing) self->CloseAfterWrites();
                 });
}

// ---- Ending

void WireSession::CloseWith(const Status& status) {
  if (phase_ == Phase::kClosing || phase_ == Phase::kClosed) return;
  context_->connections_cut.fetch_add(1);
  Log(phase_ == Phase::kHello ? kHelloRoute : kNoRoute, StatusCodeName(status.code()));
  Enqueue(wire::EncodeFrame(0, true, wire::ErrorReply(status)));
  CloseAfterWrites();
}

// What is written last must not be lost to a reset, so the socket stays half open for a moment.
void WireSession::CloseAfterWrites() {
  if (phase_ == Phase::kClosed) return;
  if (phase_ != Phase::kClosing) {
    phase_ = Phase::kClosing;
    for (auto& [number, request] : active_) request->stop.request_stop();
    closing_deadline_ = Clock::now() + context_->options.write_timeout;
  }
  if (out_.empty() && !writing_) {
    ErrorCode ignored;
    stream_->socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
    closing_deadline_ = std::min(*closing_deadline_, Clock::now() + kLinger);
  }
  Rearm();
}

// As on the HTTP port: no text, no name of a collection, no token.
void WireSession::Log(std::string_view route, std::string_view status, const WireRequest* request) {
  if (!context_->services.log) return;
  try {
    const auto now =
        std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
    Json line = {{"time", FormatTime(now)},
                 {"event", "request"},
                 {"port", "binary"},
                 {"route", route},
                 {"status", status}};
    if (request != nullptr) {
      line["ms"] = std::chrono::duration<double, std::milli>(Clock::now() - request->began).count();
      line["bytes_in"] = request->payload.size();
      line["bytes_out"] = request->bytes_sent;
    }
    line["token"] = principal_ == nullptr ? "" : principal_->name();
    line["client"] = client_name_;
    line["remote"] = remote_address_;
    context_->services.log(Dump(line));
  } catch (const std::exception&) {
    // No memory for a line: the connection's state must not suffer for it.
  }
}

void WireSession::Cut() {
  asio::post(executor_, [self = shared_from_this()] { self->CutOnStrand(false); });
}

void WireSession::CutOnStrand(bool counted) {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
  closed_.store(true);
  if (counted) context_->connections_cut.fetch_add(1);
  for (auto& [number, request] : active_) {
    request->stop.request_stop();
    Log(fb::EnumNameRequestBody(request->message->body_type()), kCut, request.get());
  }
  if (counted && active_.empty()) Log(kNoRoute, kCut);
  stream_->Close();
  timer_.cancel();
  // A request that was parked will not run; those on a worker end by themselves.
  for (auto& fn : std::exchange(parked_, {})) fn = nullptr;
  context_->requests_active.fetch_sub(active_.size());
  active_.clear();
  active_count_.store(0);
  if (!writing_) out_.clear();
  frame_reservation_ = {};
  std::map<uint64_t, WireHandlePtr> handles;
  {
    std::lock_guard lock(handles_mutex_);
    handles.swap(handles_);
  }
  handles.clear();
  std::lock_guard lock(context_->mutex);
  context_->sessions.erase(shared_from_this());
}

void WireSession::GoAway(const std::string& reason) {
  asio::post(executor_, [self = shared_from_this(), reason] {
    if (self->phase_ == Phase::kPreface || self->phase_ == Phase::kHello) {
      return self->CutOnStrand(false);
    }
    if (self->phase_ != Phase::kOpen || std::exchange(self->going_away_, true)) return;
    wire::Builder b;
    self->Enqueue(wire::EncodeFrame(
        0, true, wire::FinishReply(&b, fb::CreateGoAway(b, wire::EncodeText(&b, reason)))));
    if (self->active_.empty()) self->CloseAfterWrites();
  });
}

void WireSession::StopRequests() {
  asio::post(executor_, [self = shared_from_this()] {
    self->stopping_requests_.store(true);
    for (auto& [number, request] : self->active_) request->stop.request_stop();
  });
}

// ---- Deadlines

std::optional<WireSession::Clock::time_point> WireSession::NextDeadline() const {
  std::optional<Clock::time_point> next;
  const auto consider = [&](Clock::time_point time) { next = next ? std::min(*next, time) : time; };
  const WireServerOptions& options = context_->options;
  if (phase_ == Phase::kPreface || phase_ == Phase::kHello) consider(hello_deadline_);
  if (phase_ == Phase::kOpen && frame_began_ && !held_) {
    consider(*frame_began_ + options.frame_timeout +
             std::chrono::seconds(reader_.frame_payload_bytes() / kFrameBytesPerSecond));
  }
  if (write_deadline_) consider(*write_deadline_);
  if (closing_deadline_) consider(*closing_deadline_);
  if (phase_ == Phase::kOpen && HandleCount() > 0) {
    consider(Clock::now() + options.handle_idle_timeout / 4);
  } else if (phase_ == Phase::kOpen && active_.empty() && out_.empty() && !frame_began_ &&
             !idle_notice_ && !going_away_) {
    consider(idle_since_ + options.idle_timeout);
  }
  return next;
}

void WireSession::Rearm() {
  if (phase_ == Phase::kClosed) return;
  const auto next = NextDeadline();
  // A timer that fires too early looks again; only a later one must be brought forward.
  if (!next || (armed_ && *armed_ <= *next)) return;
  armed_ = next;
  timer_.expires_at(*next);
  timer_.async_wait([self = shared_from_this()](const ErrorCode& error) {
    if (error || self->phase_ == Phase::kClosed) return;
    self->armed_.reset();
    self->OnTimer();
  });
}

void WireSession::OnTimer() {
  const auto now = Clock::now();
  CloseIdleHandles(now);
  const auto next = NextDeadline();
  if (next && *next <= now) {
    const bool idle =
        phase_ == Phase::kOpen && !frame_began_ && !write_deadline_ && !closing_deadline_;
    // The first deadline of a connection that does nothing is its idleness; every other one cuts.
    if (!idle) return CutOnStrand(phase_ != Phase::kClosing);
    idle_notice_ = going_away_ = true;
    closing_deadline_ = now + kIdleNotice;
    wire::Builder b;
    Enqueue(wire::EncodeFrame(
        0, true,
        wire::FinishReply(&b, fb::CreateGoAway(b, wire::EncodeText(&b, "idle for too long")))));
  }
  Rearm();
}

// ---- Handles

size_t WireSession::HandleCount() const {
  std::lock_guard lock(handles_mutex_);
  return handles_.size();
}

void WireSession::CloseIdleHandles(Clock::time_point now) {
  const int64_t oldest_ns = (now - context_->options.handle_idle_timeout).time_since_epoch() /
                            std::chrono::nanoseconds(1);
  std::vector<WireHandlePtr> idle;
  std::lock_guard lock(handles_mutex_);
  std::erase_if(handles_, [&](auto& entry) {
    if (entry.second.use_count() > 1 || entry.second->used_ns.load() > oldest_ns) return false;
    idle.push_back(std::move(entry.second));
    return true;
  });
  if (!idle.empty()) idle_since_ = now;
}

Result<WireHandlePtr> WireSession::FindHandle(uint64_t number) {
  std::lock_guard lock(handles_mutex_);
  const auto found = handles_.find(number);
  if (found == handles_.end()) {
    if (number == 0 || number > last_handle_) {
      return Status::InvalidArgument("there was never a transaction or snapshot " +
                                     std::to_string(number) + " on this connection");
    }
    return Status::FailedPrecondition(
        "the transaction or snapshot is over: it ended, or nobody used it for " +
        std::to_string(context_->options.handle_idle_timeout.count()) + " ms; begin another one");
  }
  found->second->used_ns.store(Clock::now().time_since_epoch() / std::chrono::nanoseconds(1));
  return found->second;
}

Result<uint64_t> WireSession::AddHandle(WireHandlePtr handle) {
  handle->used_ns.store(Clock::now().time_since_epoch() / std::chrono::nanoseconds(1));
  uint64_t number = 0;
  {
    std::lock_guard lock(handles_mutex_);
    if (closed_.load()) return Status::Unavailable("the connection is closed");
    if (handles_.size() >= context_->options.handles_max) {
      return Status::ResourceExhausted("more than " +
                                       std::to_string(context_->options.handles_max) +
                                       " transactions and snapshots at a time on one connection; "
                                       "end some of them");
    }
    number = ++last_handle_;
    handles_[number] = std::move(handle);
  }
  asio::post(executor_, [self = shared_from_this()] { self->Rearm(); });
  return number;
}

void WireSession::RemoveHandle(uint64_t number) {
  WireHandlePtr handle;
  std::lock_guard lock(handles_mutex_);
  const auto found = handles_.find(number);
  if (found == handles_.end()) return;
  handle = std::move(found->second);
  handles_.erase(found);
}

}  // namespace msadb::server
