-- Extend leases. ARGV: lease ms, (name, ticket)... Returns 1 for each lock that is still held, 0 for each other.
local lease, answers = tonumber(ARGV[3]), {}
for n = 4, #ARGV, 2 do
  local name, ticket = ARGV[n], ARGV[n + 1]
  if prune(name) > 0 then wake_next(name) end
  local facts = ticket_of(name, ticket)
  if facts and facts.fence > 0 then
    facts['until'] = now + lease
    redis.call('ZADD', key(name, 'holders'), facts['until'], ticket)
    write_ticket(name, ticket, facts)
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
return answers
