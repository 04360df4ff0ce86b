-- Common part of all scripts of the shared state. ARGV[1] is the key prefix, ARGV[2] is added to the server's clock in
-- ms; ARGV[3] names what the script is about: a run or the fleet, a storage, a host.
-- Fields of the hash `book:RUN`, a namespace's (implementations.py beside this folder writes them):
--   a destination's fingerprint and a digest -> `k` (known), or `s`, the sender's token and the end of its lease
--   `dated:` and a key -> `v`, its end, `:`, the beginning of the work on it, `:` and the payload, or `b`, the owner's
--                         token and the end of its lease
--   in the namespace of uploads: a destination's fingerprint and a digest -> the end, `:` and a session's address
--   `part:` and a key  -> its bytes, which no script copies

local NAMESPACE_SECONDS = 6 * 3600 -- runs delete their namespaces; this is for runs whose end nobody saw
local OWNER_BYTES = 8

local P, subject = ARGV[1], ARGV[3]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000) + tonumber(ARGV[2])
local namespace = P .. 'book:' .. subject

local function touch() redis.call('EXPIRE', namespace, NAMESPACE_SECONDS) end

local function integer(number) return string.format('%.0f', number) end

-- Read `s` or `b`, a token, and the end.
local function lease(value)
  return string.sub(value, 2, 1 + OWNER_BYTES), tonumber(string.sub(value, 2 + OWNER_BYTES))
end

-- Lua unpacks some thousands at once, and an image may have more layers.
local function in_steps(list, call)
  for first = 1, #list, 1000 do call(first, math.min(first + 999, #list)) end
end
