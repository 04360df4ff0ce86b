-- Read the figures of the fleet. ARGV: how many of the live runs are looked at; the others are only counted.
-- Returns the time in ms, the counters, the workers, the end of the last sweep, the numbers of live runs and of runs
-- with a coordinator, when the oldest live run was opened, and for each of the oldest its fields and sizes.
local function attempt(...)
  local found = redis.pcall(...)
  if type(found) == 'table' and found.err then return nil end -- a damaged key hides no other
  return found
end

local function read_run(run)
  local fields = attempt('HMGET', key(run), 'state', 'paused', 'operation', 'total', 'succeeded', 'failed', 'skipped',
    'cancelled', 'parallel', 'unacknowledged')
  if not fields then return { '' } end
  for n = 1, 10 do fields[n] = fields[n] or '' end
  for _, part in ipairs({ 'leases', 'waiting', 'behind' }) do
    fields[#fields + 1] = attempt('ZCARD', key(run, part)) or 0
  end
  local published = attempt('ZRANGE', key(run, 'published'), 0, 0, 'WITHSCORES') or {}
  fields[#fields + 1] = published[2] or 0
  return fields
end

local live = attempt('ZRANGE', P .. 'live', 0, math.max(0, integer(ARGV[3]) - 1), 'WITHSCORES') or {}
local rows = {}
for n = 1, #live, 2 do rows[#rows + 1] = read_run(live[n]) end
return { now, attempt('HGETALL', P .. 'counters') or {}, attempt('HGETALL', P .. 'workers') or {},
  attempt('GET', P .. 'swept') or 0, attempt('ZCARD', P .. 'live') or 0, attempt('ZCARD', P .. 'callbacks') or 0,
  live[2] or 0, rows }
