-- Call again the coordinators that never came, that vanished, or whose pause is over.
-- Returns how many, and for each run that could not be looked at its id and why; it is left alone for a while.
local DAMAGED_PAUSE_MS = 60000
local room = redis.call('ZCARD', P .. 'callbacks') - redis.call('LLEN', P .. 'mq:coordinate')
local touched, failures = 0, {}

local function look_at(run)
  if not redis.call('HGET', key(run), 'coordinator') then
    redis.call('ZREM', P .. 'callbacks', run)
  elseif room > 0 then -- one message a run will do, however long nobody listens
    summon(run)
    room = room - 1
    touched = touched + 1
  end
end

for _, run in ipairs(redis.call('ZRANGEBYSCORE', P .. 'callbacks', '-inf', now, 'LIMIT', 0, 500)) do
  local done, problem = pcall(look_at, run)
  if not done then
    redis.call('ZADD', P .. 'callbacks', now + DAMAGED_PAUSE_MS, run)
    failures[#failures + 1] = run
    failures[#failures + 1] = text_of(problem)
  end
end
return { touched, unpack(failures) }
