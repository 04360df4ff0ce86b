-- Take a role in the fleet for some time. ARGV: role, holder, milliseconds. Returns 1, or 0 if another has it.
-- A longer time than any caller asks for comes from a clock that was set back: it would keep the role from all.
local name, holder, span = P .. 'lead:' .. ARGV[3], ARGV[4], integer(ARGV[5])
local leader, left = redis.call('GET', name), redis.call('PTTL', name)
if leader and leader ~= holder and left >= 0 and left <= 2 * span then return 0 end
write_at_maxmemory()
redis.call('SET', name, holder, 'PX', span)
return 1
