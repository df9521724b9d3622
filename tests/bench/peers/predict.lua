-- What wrk sends: whole requests from files (after --), in turn, each with a unit of its own; prints one line of JSON.
local parts, count = {}, 0

function init(files)
    for i = 1, #files do
        local file = assert(io.open(files[i], "rb"))
        local text = file:read("*a")
        file:close()
        local first, last = text:find("@UNITUNIT@", 1, true)
        parts[#parts + 1] = { text:sub(1, first - 1), text:sub(last + 1) }
    end
end

function request()
    count = count + 1
    local part = parts[count % #parts + 1]
    return part[1] .. string.format("u%09d", count) .. part[2]
end

function done(summary, latency)
    local errors = summary.errors
    local socket = errors.connect + errors.read + errors.write + errors.timeout
    print(string.format(
        '{"answered": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "refused": %d, "lost": %d}',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        errors.status, socket))
end
