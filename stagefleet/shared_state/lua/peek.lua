-- Return a value that is there. ARGV: namespace, field.
local value = redis.call('HGET', namespace, ARGV[4])
if not value or string.sub(value, 1, 1) ~= 'v' then return false end
local ends, payload = string.match(value, '^v(%d+):%d+:(.*)$')
if tonumber(ends) <= now then return false end
return payload
