-- Return where the upload of a blob was left, and forget it. ARGV: namespace, field.
local value = redis.call('HGET', namespace, ARGV[4])
if not value then return false end
redis.call('HDEL', namespace, ARGV[4])
local ends, address = string.match(value, '^(%d+):(.*)$')
if tonumber(ends) <= now then return false end
return address
