-- What wrk sends: METHOD, TARGET, TOKEN and BODY from the environment. In TARGET and BODY "%d"
-- becomes a number that no other request of this run has, "%m" that number modulo MODULUS.
local method, target = os.getenv("METHOD"), os.getenv("TARGET")
local body, modulus = os.getenv("BODY"), tonumber(os.getenv("MODULUS"))
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
  local number = id * 1000000000 + count
  local function fill(text)
    return (text:gsub("%%d", number):gsub("%%m", number % modulus))
  end
  return wrk.format(method, fill(target), nil, body ~= "" and fill(body) or nil)
end

function done(summary, latency)
  io.write(string.format("RESULT %d %d %.3f %.3f %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
      + summary.errors.timeout))
end
