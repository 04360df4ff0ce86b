-- Take a lock, or stand in line. ARGV: name, ticket, shared ('1' or ''), label, lease ms, waiting ms.
-- Returns the fence, or 0 while there is something to wait for. May be repeated with the same ticket.
local name, ticket, shared = ARGV[3], ARGV[4], ARGV[5] == '1'
local lease, patience = tonumber(ARGV[7]), tonumber(ARGV[8])
sweep(lease)

local function hold(fence)
  redis.call('ZADD', key(name, 'holders'), now + lease, ticket)
  keep(name, ticket, { shared = shared, label = ARGV[6], fence = fence, ['until'] = now + lease })
  redis.call('ZADD', P .. 'locks', now + lease, name)
  return fence
end

if not in_use(name) then return hold(next_number()) end -- as it is nearly always
if prune(name) > 0 then stir(name) end
local facts = ticket_of(name, ticket)
if facts and facts.fence > 0 then return hold(facts.fence) end

if not facts then redis.call('ZADD', key(name, 'queue'), next_number(), ticket) end
redis.call('ZADD', key(name, 'patience'), now + patience, ticket)
keep(name, ticket, { shared = shared, label = ARGV[6], fence = 0, ['until'] = now + patience })
redis.call('ZADD', P .. 'locks', now + lease, name)

for _, holder in ipairs(redis.call('ZRANGE', key(name, 'holders'), 0, -1)) do
  if not (shared and ticket_of(name, holder).shared) then return 0 end
end
for _, waiting in ipairs(redis.call('ZRANGE', key(name, 'queue'), 0, -1)) do
  if waiting == ticket then break end
  -- Whoever came first goes first; sharers may go together, but not past one who wants it alone.
  if not (shared and ticket_of(name, waiting).shared) then return 0 end
end

redis.call('ZREM', key(name, 'queue'), ticket)
redis.call('ZREM', key(name, 'patience'), ticket)
local fence = hold(next_number())
if shared then stir(name) end -- the next in line may share it too
return fence
