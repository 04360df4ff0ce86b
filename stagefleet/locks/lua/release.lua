-- Release locks, or leave queues. ARGV: (name, ticket; '' for all holders)... Returns the number of released ones.
local ended = 0
for n = 3, #ARGV, 2 do
  local name, before = ARGV[n], ended
  local tickets = ARGV[n + 1] ~= '' and { ARGV[n + 1] } or redis.call('ZRANGE', key(name, 'holders'), 0, -1)
  for _, ticket in ipairs(tickets) do ended = ended + drop(name, ticket) end
  if ended > before then wake_next(name) end
end
return ended
