-- Start coordinators again that never came or died, or whose pause is over; record the end of a sweep.
-- ARGV: interval of sweeps in ms.
-- Returns their number, and for each run that failed its id and the reason; it is skipped for a while.
local DAMAGED_PAUSE_MS = 60000
local SWEEPS_MISSED = 3 -- as in sweep.lua
local CLOCK_STEP_MS = 60000 -- a clock this far behind the last sweep was set back
write_at_maxmemory()
local room = redis.call('ZCARD', P .. 'callbacks') - redis.call('LLEN', P .. 'mq:coordinate')
local since = integer(redis.call('GET', P .. 'swept'))
local touched, failures = 0, {}

-- Return true if coordinators at work could not renew their leases meanwhile.
local function is_gap(lease)
  return since > 0 and now - since > math.max(lease / 3, SWEEPS_MISSED * integer(ARGV[3]))
end

local function read_run(run)
  local coordinator, lease = unpack(redis.call('HMGET', key(run), 'coordinator', 'lease_ms'))
  if not coordinator then
    redis.call('ZREM', P .. 'callbacks', run)
  elseif coordinator == 'present' and is_gap(integer(lease)) then
    redis.call('HSET', key(run), 'coordinator_until', now + integer(lease))
    redis.call('ZADD', P .. 'callbacks', now + integer(lease), run)
  elseif room > 0 then -- one message per run suffices, however long no worker listens
    enqueue_coordinator(run)
    room = room - 1
    touched = touched + 1
  end
end

if since - now > CLOCK_STEP_MS then -- the clock was set back: due times count by the new one
  for _, run in ipairs(redis.call('ZRANGE', P .. 'callbacks', 0, -1)) do
    redis.call('ZINCRBY', P .. 'callbacks', now - since, run)
  end
end
for _, run in ipairs(redis.call('ZRANGEBYSCORE', P .. 'callbacks', '-inf', now, 'LIMIT', 0, 500)) do
  local done, problem = pcall(read_run, run)
  if not done then
    redis.call('ZADD', P .. 'callbacks', now + DAMAGED_PAUSE_MS, run)
    failures[#failures + 1] = run
    failures[#failures + 1] = text_of(problem)
  end
end
redis.call('SET', P .. 'swept', now)
return { touched, unpack(failures) }
