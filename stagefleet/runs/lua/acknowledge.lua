-- Acknowledge outcomes. ARGV: run, epoch, position of the last one ('' for none), how many, how many of
-- them hold a place in the window. Returns 1, or 0 if another coordinator took over or the run ended.
local run, epoch, position = ARGV[3], ARGV[4], ARGV[5]
local meta = key(run)
local state, current, cursor, lease, awaits, unacknowledged, held =
  unpack(redis.call('HMGET', meta, 'state', 'epoch', 'cursor', 'lease_ms', 'awaits', 'unacknowledged', 'held'))
if current ~= epoch or (state ~= 'running' and state ~= 'cancelling' and state ~= 'submitting') then return 0 end
write_at_maxmemory()
redis.call('HSET', meta, 'coordinator_until', now + integer(lease))
redis.call('ZADD', P .. 'callbacks', 'XX', now + integer(lease), run)

local function after(left, right)
  local left_ms, left_seq = string.match(left, '(%d+)-(%d+)')
  local right_ms, right_seq = string.match(right, '(%d+)-(%d+)')
  if not right_ms then return true end
  if left_ms ~= right_ms then return tonumber(left_ms) > tonumber(right_ms) end
  return tonumber(left_seq) > tonumber(right_seq)
end

if position == '' or not after(position, cursor) then return 1 end
if awaits == '1' then -- in one command: no cursor without its counters
  redis.call('HSET', meta, 'cursor', position, 'unacknowledged', integer(unacknowledged) - integer(ARGV[6]),
    'held', integer(held) - integer(ARGV[7]))
else
  redis.call('HSET', meta, 'cursor', position)
end
redis.call('HDEL', meta, 'failures', 'failing_since')
if release(run) == 0 then settle(run) end -- what was published is left to do
return 1
