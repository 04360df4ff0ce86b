-- Give up the work on a value, if the caller owns it. ARGV: namespace, owner, field.
local value = redis.call('HGET', namespace, ARGV[5])
if value and string.sub(value, 1, 1) == 'b' and lease(value) == ARGV[4] then
  redis.call('HDEL', namespace, ARGV[5])
end
