-- Extend an owner's leases as a sender, or end them. ARGV: namespace, owner, lease ms (0 ends them), fields...
local owner, span = ARGV[4], tonumber(ARGV[5])
for n = 6, #ARGV do
  local value = redis.call('HGET', namespace, ARGV[n])
  if value and value ~= 'k' and lease(value) == owner then
    if span > 0 then
      redis.call('HSET', namespace, ARGV[n], 's' .. owner .. integer(now + span))
    else
      redis.call('HDEL', namespace, ARGV[n])
    end
  end
end
touch()
