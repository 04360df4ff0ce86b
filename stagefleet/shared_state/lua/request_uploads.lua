-- Ask for blobs. ARGV: namespace, owner, lease ms, fields... Returns a decision for each.
local owner, span = ARGV[4], tonumber(ARGV[5])
local decisions, leases, names, values = {}, {}, {}, {}
for n = 6, #ARGV do names[n - 5] = ARGV[n] end
in_steps(names, function(first, last)
  for _, value in ipairs(redis.call('HMGET', namespace, unpack(names, first, last))) do
    values[#values + 1] = value
  end
end)
for n, value in ipairs(values) do
  local sender, ends = owner, 0
  if value and value ~= 'k' then sender, ends = lease(value) end
  if value == 'k' then
    decisions[n] = 'known'
  elseif sender ~= owner and ends > now then
    decisions[n] = 'wait'
  else
    decisions[n] = 'send'
    leases[#leases + 1] = names[n]
    leases[#leases + 1] = 's' .. owner .. integer(now + span)
  end
end
in_steps(leases, function(first, last) redis.call('HSET', namespace, unpack(leases, first, last)) end)
if #leases > 0 then touch() end
return decisions
