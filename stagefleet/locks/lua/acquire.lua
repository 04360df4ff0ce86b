-- Acquire a lock, or join its queue. ARGV: name, ticket, shared ('1' or ''), label, lease ms, waiting ms.
-- Returns the fencing token, or 0 while the lock is not free. May be repeated with the same ticket.
local name, ticket, shared, label = ARGV[3], ARGV[4], ARGV[5] == '1', ARGV[6]
local lease, waiting_ms = tonumber(ARGV[7]), tonumber(ARGV[8])
sweep(lease)

if not in_use(name) then return grant(name, ticket, shared, label, lease, next_number()) end -- the common case
if prune(name) > 0 then wake_next(name) end
local facts = ticket_of(name, ticket)
if facts and facts.fence > 0 then return grant(name, ticket, shared, label, lease, facts.fence) end

if not facts then redis.call('ZADD', key(name, 'queue'), next_number(), ticket) end
redis.call('ZADD', key(name, 'patience'), now + waiting_ms, ticket)
write_ticket(name, ticket, { shared = shared, label = label, fence = 0, ['until'] = now + waiting_ms })
redis.call('ZADD', P .. 'locks', now + lease, name)
if stands_in_the_way(name, ticket, shared) then return 0 end

redis.call('ZREM', key(name, 'queue'), ticket)
redis.call('ZREM', key(name, 'patience'), ticket)
local fence = grant(name, ticket, shared, label, lease, next_number())
if shared then wake_next(name) end -- the next in the queue may share it, too
return fence
