-- State of locks. ARGV: a name, or none for all. Returns JSON: [[name, [holder...], [waiting...]]...].
local names = ARGV[3] and { ARGV[3] } or redis.call('ZRANGE', P .. 'locks', 0, -1)
table.sort(names)
local answers = {}
local function entries(name, part)
  local list = {}
  for n, ticket in ipairs(redis.call('ZRANGE', key(name, part), 0, -1)) do
    local facts = ticket_of(name, ticket)
    list[n] = { ticket, facts.label, facts.shared, facts.fence, facts['until'] - now }
  end
  return list
end
for _, name in ipairs(names) do
  if prune(name) > 0 then wake_next(name) end
  local holders, waiting = entries(name, 'holders'), entries(name, 'queue')
  if #holders + #waiting > 0 then
    answers[#answers + 1] = { name, holders, waiting }
  else
    redis.call('ZREM', P .. 'locks', name)
  end
end
return cjson.encode(answers)
