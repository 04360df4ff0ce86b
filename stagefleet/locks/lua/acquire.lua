-- Take a lock, or stand in line. ARGV: name, ticket, shared ('1' or ''), label, lease ms, waiting ms.
-- Returns the fence, or 0 while there is something to wait for. May be repeated with the same ticket.
local name, ticket, shared = ARGV[3], ARGV[4], ARGV[5] == '1'
local lease, patience = tonumber(ARGV[7]), tonumber(ARGV[8])
if prune(name) > 0 then stir(name) end

local facts = ticket_of(name, ticket)
if facts and facts.fence > 0 then
  facts['until'] = now + lease
  redis.call('ZADD', key(name, 'holders'), facts['until'], ticket)
  keep(name, ticket, facts)
  return facts.fence
end

if not facts then redis.call('ZADD', key(name, 'queue'), next_number(), ticket) end
keep(name, ticket, { shared = shared, label = ARGV[6], fence = 0, ['until'] = now + patience })
redis.call('SADD', P .. 'locks', name)

local holders = redis.call('ZRANGE', key(name, 'holders'), 0, -1)
local free = #holders == 0
if shared and not free then
  free = true
  for _, holder in ipairs(holders) do free = free and ticket_of(name, holder).shared end
end
for _, waiting in ipairs(redis.call('ZRANGE', key(name, 'queue'), 0, -1)) do
  if waiting == ticket then break end
  -- Whoever came first goes first; sharers may go together, but not past one who wants it alone.
  free = free and shared and ticket_of(name, waiting).shared
end
if not free then return 0 end

local fence = next_number()
redis.call('ZREM', key(name, 'queue'), ticket)
redis.call('ZADD', key(name, 'holders'), now + lease, ticket)
keep(name, ticket, { shared = shared, label = ARGV[6], fence = fence, ['until'] = now + lease })
if shared then stir(name) end -- the next in line may share it too
return fence
