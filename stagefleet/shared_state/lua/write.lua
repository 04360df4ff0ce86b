-- Store a computed value. ARGV: namespace, field, lifetime ms, beginning of the work on it, shortest lifetime ms, payload.
local began = tonumber(ARGV[6])
local ends = math.max(began + tonumber(ARGV[5]), now + tonumber(ARGV[7]))
redis.call('HSET', namespace, ARGV[4], 'v' .. integer(ends) .. ':' .. integer(began) .. ':' .. ARGV[8])
touch()
