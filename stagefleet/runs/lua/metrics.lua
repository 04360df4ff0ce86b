-- Read the figures of the fleet but for those of its runs.
-- Returns the time in ms, the counters, the workers, the end of the last sweep, the numbers of live runs and of runs
-- with a coordinator, and when the oldest live run was opened.
local function attempt(...)
  local found = redis.pcall(...)
  if type(found) == 'table' and found.err then return nil end -- a damaged key hides no other
  return found
end

local oldest = attempt('ZRANGE', P .. 'live', 0, 0, 'WITHSCORES') or {}
return { now, attempt('HGETALL', P .. 'counters') or {}, attempt('HGETALL', P .. 'workers') or {},
  attempt('GET', P .. 'swept') or 0, attempt('ZCARD', P .. 'live') or 0, attempt('ZCARD', P .. 'callbacks') or 0,
  oldest[2] or 0 }
