-- Read figures of live runs, for the metrics. ARGV: the first and the last one, by their age from 0, the oldest first.
-- Returns for each its fields, the sizes of its sets, and when its oldest unclaimed message was pushed.
local function attempt(...)
  local found = redis.pcall(...)
  if type(found) == 'table' and found.err then return nil end -- a damaged key hides no other
  return found
end

local function read_run(run)
  local fields = attempt('HMGET', key(run), 'next', 'state', 'paused', 'operation', 'total', 'succeeded', 'failed',
    'skipped', 'cancelled', 'parallel', 'unacknowledged')
  if not fields then return { '' } end
  for n = 1, 11 do fields[n] = fields[n] or '' end
  local has_begun = integer(table.remove(fields, 1)) > 0 -- else its sets are empty
  for _, part in ipairs({ 'leases', 'waiting', 'behind' }) do
    fields[#fields + 1] = has_begun and attempt('ZCARD', key(run, part)) or 0
  end
  local published = has_begun and attempt('ZRANGE', key(run, 'published'), 0, 0, 'WITHSCORES') or {}
  fields[#fields + 1] = published[2] or 0
  return fields
end

local rows = {}
for _, run in ipairs(attempt('ZRANGE', P .. 'live', ARGV[3], ARGV[4]) or {}) do rows[#rows + 1] = read_run(run) end
return rows
