-- Let go of a hold, or leave the line. ARGV: name, ticket ('' for every hold). Returns how many were ended.
local name = ARGV[3]
local tickets = ARGV[4] ~= '' and { ARGV[4] } or redis.call('ZRANGE', key(name, 'holders'), 0, -1)
local ended = 0
for _, ticket in ipairs(tickets) do ended = ended + drop(name, ticket) end
if ended > 0 then stir(name) end
return ended
