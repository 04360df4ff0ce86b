-- Store descriptions that were read, except of stages that have just changed.
-- ARGV: storage, ms of that, lifetime ms, (stage, packed description)... Returns the number of descriptions.
local entries, changes, unsettled = P .. 'descriptions:' .. subject, P .. 'described-changes:' .. subject, tonumber(ARGV[4])
for n = 6, #ARGV, 2 do
  local changed = redis.call('ZSCORE', changes, ARGV[n])
  if not changed or now - tonumber(changed) >= unsettled then
    redis.call('HSET', entries, ARGV[n], ARGV[n + 1])
  end
end
redis.call('PEXPIRE', entries, tonumber(ARGV[5]))
return redis.call('HLEN', entries)
