-- Extend leases. ARGV: (run, index, claim)... Returns 'run', 'cancel' or 'lost' for each.
local answers = {}
write_at_maxmemory()
for n = 3, #ARGV, 3 do
  local run, index, claim = ARGV[n], ARGV[n + 1], ARGV[n + 2]
  if redis.call('HGET', key(run, 'claims'), index) == claim then
    local lease, immediate = unpack(redis.call('HMGET', key(run), 'lease_ms', 'now'))
    redis.call('ZADD', key(run, 'leases'), now + integer(lease), index)
    answers[#answers + 1] = immediate and 'cancel' or 'run'
  else
    answers[#answers + 1] = 'lost'
  end
end
return answers
