-- Record that a worker with an item waits. ARGV: run, index, claim, milliseconds (0 ends the wait), reason (JSON).
local run, index, span = ARGV[3], ARGV[4], integer(ARGV[6])
local meta = key(run)
if redis.call('HGET', key(run, 'claims'), index) ~= ARGV[5] then return 0 end
if span > 0 then
  redis.call('HSET', meta, 'pause_index', index, 'pause_until', now + span, 'pause_reason', ARGV[7])
elseif redis.call('HGET', meta, 'pause_index') == index then
  redis.call('HDEL', meta, 'pause_index', 'pause_until', 'pause_reason')
end
return 1
