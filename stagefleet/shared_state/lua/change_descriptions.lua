-- Replace or drop descriptions of stages that have changed.
-- ARGV: as of remember_descriptions; an empty description drops the entry.
local entries, changes, unsettled = P .. 'descriptions:' .. subject, P .. 'described-changes:' .. subject, tonumber(ARGV[4])
redis.call('ZREMRANGEBYSCORE', changes, '-inf', now - unsettled)
for n = 6, #ARGV, 2 do
  redis.call('ZADD', changes, now, ARGV[n])
  if ARGV[n + 1] == '' then
    redis.call('HDEL', entries, ARGV[n])
  else
    redis.call('HSET', entries, ARGV[n], ARGV[n + 1])
  end
end
redis.call('PEXPIRE', changes, unsettled)
redis.call('PEXPIRE', entries, tonumber(ARGV[5]))
return redis.call('HLEN', entries)
