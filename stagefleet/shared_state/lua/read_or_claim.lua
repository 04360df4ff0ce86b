-- Read a value, or become its owner if nobody computes it. ARGV: namespace, owner, lease ms, field.
local owner, span, name = ARGV[4], tonumber(ARGV[5]), ARGV[6]
local value = redis.call('HGET', namespace, name)
if value and string.sub(value, 1, 1) == 'v' then
  local ends, began, payload = string.match(value, '^v(%d+):(%d+):(.*)$')
  if tonumber(ends) > now then return { 'value', tonumber(ends) - now, now - tonumber(began), payload } end
elseif value then
  local builder, ends = lease(value)
  if builder ~= owner and ends > now then return { 'wait', now } end
end
redis.call('HSET', namespace, name, 'b' .. owner .. integer(now + span))
touch()
return { 'build', now }
