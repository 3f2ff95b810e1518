-- What wrk sends: METHOD, TARGET, TOKEN and BODY from the environment. "%d" in BODY becomes a number
-- that no other request of this run has.
local method, target = os.getenv("METHOD"), os.getenv("TARGET")
local body = os.getenv("BODY")
local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init()
  wrk.headers["Authorization"] = "Bearer " .. os.getenv("TOKEN")
  if body ~= "" then wrk.headers["Content-Type"] = "application/json" end
  count = 0
end

function request()
  count = count + 1
  local text = body ~= "" and body:gsub("%%d", id * 1000000000 + count) or nil
  return wrk.format(method, target, nil, text)
end

function done(summary, latency)
  io.write(string.format("RESULT %d %d %.3f %.3f %d\n", summary.requests, summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
      + summary.errors.timeout))
end
